"""The book's Sphinx extension: executed notebooks instead of the empty ones in git, and numbers from results files instead of typed ones.

`PROFILE` (default `laptop`) decides which runs are shown: `_build/executed/<PROFILE>/notebooks/` and `results/<PROFILE>/`.
The build stops, naming the page, if a notebook was not run or failed, or if a number does not exist.
"""

import ast
import fnmatch
import json
import os
import re
import shlex
import shutil
import zlib
from pathlib import Path

import featint_answers
import featint_atlas
import featint_explore
import featint_names
import featint_roles
import featint_theme
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

from companion import dependencies, plots, profiles
from featint import config


def profile() -> str:
    """The profile whose runs the book shows. Raises ExtensionError if there is none of that name."""
    name = os.environ.get("PROFILE", "laptop")
    try:
        config.choose("PROFILE", name, tuple(profiles.PROFILES))
    except ValueError as e:
        raise ExtensionError(str(e)) from e
    return name


def swap_in_executed(app: Sphinx, docname: str, source: list[str]) -> None:
    """At source-read: replace an output-free notebook by its executed copy, with a table of its parameters added."""
    clean = Path(app.srcdir, f"{docname}.ipynb")
    if not clean.exists():
        return
    executed = Path(
        app.srcdir, "_build", "executed", app.config.featint_profile, f"{docname}.ipynb"
    )
    remedy = f"run `make book PROFILE={app.config.featint_profile}`, or by hand: {command(docname, executed.relative_to(app.srcdir), {})}"
    if not executed.exists():
        raise ExtensionError(f"{docname}: this notebook has not been executed yet; {remedy}")
    app.env.note_dependency(
        str(executed)
    )  # absolute, else the page counts as changed in every build
    try:
        notebook = json.loads(executed.read_text(encoding="utf-8"))
        run = notebook["metadata"]["papermill"]
    except (ValueError, KeyError) as e:
        raise ExtensionError(
            f"{docname}: {executed} is not a notebook that papermill executed ({e!r}); {remedy}"
        ) from e
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    if (
        run.get("exception")
        or run.get("end_time") is None
        or any(output["output_type"] == "error" for output in outputs)
    ):
        raise ExtensionError(
            f"{docname}: the executed notebook failed or was interrupted, see {executed}; mend it, then {remedy}"
        )
    explain_parameters(docname, executed.relative_to(app.srcdir), notebook)
    source[0] = json.dumps(notebook)


def command(docname: str, output: Path, parameters: dict) -> str:
    """The papermill command that runs a page's notebook with these parameters."""
    given = " ".join(f"-p {name} {shlex.quote(str(value))}" for name, value in parameters.items())
    return f"papermill {docname}.ipynb {output} -k python3 --cwd . {given}".strip()


def explain_parameters(docname: str, executed: Path, notebook: dict) -> None:
    """Insert, below the cell of parameters, what each means, what this page used, the command that made it and the download."""
    cells = notebook["cells"]
    tagged = {tag: i for i, cell in enumerate(cells) for tag in cell["metadata"].get("tags", [])}
    if "parameters" not in tagged:
        raise ExtensionError(
            f"{docname}: no cell is tagged `parameters`, so nobody can rerun this page with others; tag the second cell"
        )
    used = notebook["metadata"]["papermill"]["parameters"]
    rows = [
        f"| `{name}` | {meaning} | `{default}` | {plots.literal(repr(used.get(name, ast.literal_eval(default))))} |"
        for name, meaning, default in declared("".join(cells[tagged["parameters"]]["source"]))
    ]
    made_by = command(docname, executed, used)
    box, fence = (sign * (3 + made_by.count(sign)) for sign in ":`")  # longer than any in it
    text = "\n".join(
        [
            f"{box}{{dropdown}} Parameters of this page, the command that made it, downloads",
            "",
            "| parameter | meaning | default | this page |",
            "|:--|:--|:--|:--|",
            *rows,
            "",
            f"{fence}shell",
            made_by,
            fence,
            "",
            "Change a value after `-p`, write to another file, and the whole chapter is computed anew. "
            f"Download {{download}}`the executed notebook </{executed}>`, outputs included, or {{download}}`the clean one </{docname}.ipynb>`.",
            box,
        ]
    )
    cell = {"cell_type": "markdown", "metadata": {}, "id": "parameters-explained", "source": text}
    cells.insert(tagged.get("injected-parameters", tagged["parameters"]) + 1, cell)


def declared(source: str) -> list[tuple[str, str, str]]:
    """Name, help text and default of every parameter in a cell: `k: int = 5  # active features`.

    papermill's own `inspect_notebook` does not read annotations such as `int | None`, hence the syntax tree.
    """
    lines, found = source.splitlines(), []
    for node in ast.parse(source).body:
        if isinstance(node, ast.AnnAssign | ast.Assign):
            name = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            comment = (
                lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode().strip(" #")
            )
            found.append((name.id, comment.replace("|", "\\|"), ast.unparse(node.value)))
    return found


MODULES = re.compile(r"<!-- modules: (.+) -->")


def list_modules(app: Sphinx, docname: str, source: list[str]) -> None:
    """At source-read: in the place of `<!-- modules: featint.sae companion.figures.* -->` one section per module whose name fits a pattern.

    Raises ExtensionError for a pattern that no module fits.
    """
    if not (asked := MODULES.search(source[0])):
        return
    sections = []
    for pattern in asked[1].split():
        fitting = sorted(fnmatch.filter(dependencies.FILES, pattern))
        if not fitting:
            raise ExtensionError(
                f"{docname}: no module fits {pattern!r}; there are {', '.join(sorted(dependencies.FILES))}"
            )
        for module in fitting:
            app.env.note_dependency(str(dependencies.FILES[module]))
            sections.append(
                f"## {module}\n\n```{{eval-rst}}\n.. automodule:: {module}\n   :members:\n   :member-order: bysource\n```"
            )
    source[0] = source[0].replace(asked[0], "\n\n".join(sections))


MARKUP = re.compile(r"""(?mx)
    (?P<kept> ^(?P<indent>\ *)\.\.\ .*(?:\n(?:(?P=indent)\ +.*|\ *$))*   # a directive with what is indented below it
            | ``[^`]+`` | :\w+:`[^`]+` )
    | `(?P<code>[^`]+)`
    | (?P<sign>[|*])
""")


def plain_docstring(app: Sphinx, what: str, name: str, obj, options, lines: list[str]) -> None:
    """Let |x|, * and `Class`es in docstrings be what they look like; only `code` and directives such as `.. math::` are markup here."""

    def written(match: re.Match) -> str:
        if match["kept"]:
            return match["kept"]
        return (
            f"\\{match['sign']}"
            if match["sign"]
            else f"\\ ``{' '.join(match['code'].split())}``\\ "
        )

    if lines and lines[0].startswith(
        "Alias for field number"
    ):  # Python's own words on a field without a docstring
        lines.clear()
    lines[:] = MARKUP.sub(written, "\n".join(lines)).split("\n")


def forget(app: Sphinx, *_) -> None:
    """Remove what Sphinx keeps, pickled, from one build for the next: after a build that was killed while it wrote pages, it says that
    all pages are up to date, and those that it did not come to stay as they were."""
    shutil.rmtree(app.doctreedir, ignore_errors=True)


def setup(app: Sphinx) -> dict:
    forget(app)  # nothing has been read yet
    app.connect("build-finished", forget)
    app.setup_extension("sphinx.ext.autodoc")
    app.add_config_value(
        "featint_profile", profile(), "env", str
    )  # another profile: every page is read again
    toc = Path(app.srcdir, "_toc.yml")  # on every page's side
    app.add_config_value(
        "featint_toc", toc.read_text(encoding="utf-8") if toc.exists() else "", "env", str
    )
    app.connect("source-read", swap_in_executed)
    app.connect("source-read", list_modules)
    app.connect("autodoc-process-docstring", plain_docstring)
    featint_answers.setup(app)
    featint_atlas.setup(app)
    featint_explore.setup(app)
    featint_names.setup(app)
    featint_roles.setup(app)
    featint_theme.setup(app)
    code = b"".join(file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py")))
    return {
        "env_version": zlib.crc32(code),
        "parallel_read_safe": False,
        "parallel_write_safe": True,
    }  # new code: every page is read again
