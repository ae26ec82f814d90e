"""The commands that stand on the pages, in blocks and between backticks: all name what exists, and
all run, page by page, in a copy of the project, but for those of `NOT_HERE`."""

import os
import random
import re
import shlex
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import nbformat
import own
import papermill.cli
import pytest
from markdown_it import MarkdownIt

from companion import cli, notebook, profiles
from companion.places import PROJECT
from featint import store

NOT_HERE = {
    "make book": "`make smoke`, which runs this test, began with it",
    "make smoke": "this test is a part of it",
    "make test": "minutes; CI has done it before",
    "make pdf": "a browser",
    "make slides": "a book that is built; nightly, below, after `make smoke`",
    "make browser": "a browser; `make smoke` does it where there is one",
    ".venv/bin/pytest -m browser": "a browser; `make smoke` does it where there is one",
    "make bench": "half an hour; tests/test_benchmarks.py has a small one",
    ".venv/bin/featint notebook reconstruction -p lm=my_model -p corpus=my_texts -p hook_point=blocks.3.hook_resid_post -p sae=my_sae": "an SAE of that model; tests/test_own_model.py has one",
    ".venv/bin/featint export sae my_export --to saelens": "a model of the default profile; tests/test_cli.py has a small one",
    ".venv/bin/featint compare": "a run of the default profile; tests/test_compare.py has small ones",
    "make publish-results": "a git checkout; tests/test_publish.py has one",
    "make sweep SWEEP=sweeps/k.yaml PROFILE=smoke": "minutes; tests/test_flow.py has a small one",
    "make torture": "half an hour; tests/faults has a slice of it",
    "make versions": "half an hour, and a network; it installs",
    "make audit": "a network; tests/test_vendored.py has what it says",
    "make mutants": "hours; tests/test_mutants.py has a small one",
    ".venv/bin/featint author-data": "a network; tests/test_author_data.py has small ones",
    ".venv/bin/featint author-data --from FOLDER": "the author's tables, which are not kept here",
    "PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make book": "a network; it installs",
}
"""Commands that do not run here, and why: what they need is not on every machine, or it is more
than a minute."""

SHELL = {"sh", "bash", "shell", "console", "shell-session", "zsh"}
BEGINNING = re.compile(
    r"(\w+=\S* )*(\.venv/bin/|make($| )|featint |papermill |python3? -m |pip |-p )"
)
"""What between backticks is a command, or `-p name value`, the end of one."""
PAPERMILL = ".venv/bin/papermill notebooks/{}.ipynb out.ipynb -k python3 --cwd . {}"
"""What `-p name value` in a sentence is the end of."""


class Command(NamedTuple):
    page: str
    text: str
    whole: bool
    """Whether it can be typed as it stands; what only names something need not run."""


def pages() -> dict[str, str]:
    """Every page that tells readers what to do, as Markdown; of a notebook its cells of text."""
    files = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *PROJECT.glob("data/**/*.md")]
    files += PROJECT.glob("book/*.md")
    texts = {str(f.relative_to(PROJECT)): f.read_text(encoding="utf-8") for f in files}
    for name in notebook.names():
        cells = nbformat.read(notebook.FOLDER / f"{name}.ipynb", as_version=4).cells
        words = [cell.source for cell in cells if cell.cell_type == "markdown"]
        texts[f"notebooks/{name}.ipynb"] = "\n\n".join(words)
    return texts


def code(markdown: str):
    """(language, text) of all code in a text, in order, also within directives; what stands between
    backticks has no language."""
    for token in MarkdownIt("commonmark").parse(markdown):
        if token.type == "fence" and token.info.startswith("{"):
            yield from code(token.content)
        elif token.type == "fence":
            yield token.info.strip() or "?", token.content
        for child in token.children or ():
            if child.type == "code_inline":
                yield None, child.content


def commands(page: str, markdown: str) -> list[Command]:
    """The commands of a page in order: of a block with prompts, what stands behind them; `-p name
    value` as a rerun of the notebook of the last command, or that the page is or names."""
    found, rerun, names = [], None, None
    for language, text in code(f"`{page}`\n\n{markdown}"):
        lines = text.replace("\\\n", "").splitlines()
        if language and any(line.startswith("$ ") for line in lines):
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        for line in lines:
            line = re.sub(r"(^|\s+)#\s.*", "", line).strip()
            typed = line and (language in SHELL or (not language and BEGINNING.match(line)))
            if named := re.search(r"notebooks/(\w+)", line):
                rerun, names = (named[1], names) if typed else (rerun, named[1])
            if typed:
                line = PAPERMILL.format(rerun or names, line) if line.startswith("-p ") else line
                whole = bool(language) or line.startswith(".venv/bin/")
                found.append(Command(page, line, whole))
    return found


PAGES = {page: commands(page, text) for page, text in pages().items()}
EVERY = [command for found in PAGES.values() for command in found]


class TestReading:
    """How commands are found on a page."""

    def test_blocks_directives_and_sentences(self):
        page = (
            "Say `make book` or `a word`, not `makeup`.\n\n```bash\nls  # all\n# no\nwc \\\n  -l\n```\n"
            "````{note}\n:class: x\n```console\n$ make test\n3 passed\n```\n````\n"
            "In {doc}`/notebooks/seeds` with `-p k 8`.\n\n```python\nls = 1\n```\n"
        )
        texts = [command.text for command in commands("page.md", page)]
        rerun = ".venv/bin/papermill notebooks/seeds.ipynb out.ipynb -k python3 --cwd . -p k 8"
        assert texts == ["make book", "ls", "wc   -l", "make test", rerun]

    def test_no_block_is_of_a_language_that_is_not_read(self):
        languages = {language for text in pages().values() for language, _ in code(text)}
        assert languages - {None, "python"} <= SHELL

    def test_pages_that_tell_what_to_do_have_commands(self):
        for page, least in {
            "README.md": 10,
            "book/change_a_parameter.md": 8,
            "book/your_own_model.md": 3,
            "book/course.md": 6,
        }.items():
            assert len(PAGES[page]) >= least, page


def test_no_exception_is_stale():
    assert set(NOT_HERE) <= {command.text for command in EVERY if command.whole}


class TestNames:
    """Every command on a page names programs, targets, options, notebooks and parameters that
    there are."""

    @pytest.fixture(autouse=True)
    def steps(self, monkeypatch):
        """`featint` reads its arguments and does nothing."""
        self.seen = []
        for step in cli.STEPS:
            fake = lambda args: self.seen.append(args)  # noqa: E731
            fake.__name__, fake.__doc__ = step.__name__, step.__doc__
            monkeypatch.setattr(cli, step.__name__, fake)
        monkeypatch.setattr(cli, "STEPS", tuple(getattr(cli, step.__name__) for step in cli.STEPS))

    @pytest.mark.parametrize("text", sorted({command.text for command in EVERY}))
    def test_a_command_names_what_there_is(self, text):
        for alternative in alternatives(text):
            self.check(shlex.split(alternative))

    def check(self, words: list[str]):
        while re.match(r"\w+=", words[0]):
            self.setting(words.pop(0))
        program, *rest = words
        program = program.removeprefix(".venv/bin/")
        if program == "make":
            self.make(rest)
        elif program == "featint":
            self.featint(rest)
        elif program == "papermill":
            self.papermill(rest)
        elif program.startswith("python"):
            assert rest[0] == "-m"
            assert (PROJECT / rest[1].replace(".", "/")).with_suffix(".py").exists(), rest[1]
        elif program == "pytest":
            (markers,) = pytest_markers(rest)
            assert re.search(
                rf'^  "{markers}: ', (PROJECT / "pyproject.toml").read_text(encoding="utf-8"), re.M
            )
        else:
            assert program in ("pip", "ls", "jupyter-book"), f"no test knows {program}"

    def setting(self, word: str):
        name, _, value = word.partition("=")
        if name == "PROFILE":
            assert value in profiles.PROFILES
        elif name == "ON":
            assert (PROJECT / "profiles" / value / "config.yaml").is_file()
        elif name in ("MODULES", "SWEEP"):
            assert (PROJECT / value).is_file()
        else:
            assert name == "PIP_EXTRA_INDEX_URL", name

    def make(self, words: list[str]):
        for word in words:
            if "=" in word:
                self.setting(word)
            else:
                makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
                assert re.search(rf"^{word}:", makefile, re.M), f"no target {word}"

    def featint(self, words: list[str]):
        if words == ["--help"]:
            return
        assert cli.main(words) == 0
        (args,) = self.seen
        if args.step == "notebook":
            self.parameters(args.name, dict(item.split("=") for item in args.parameter))
        elif args.step == "compare":
            for run in filter(None, (args.a, args.b)):
                assert re.fullmatch(r"(custom/)?(laptop|full)(-[0-9a-f]{8})?|custom/\.\.\.", run)

    def papermill(self, words: list[str]):
        given = papermill.cli.papermill.make_context("papermill", words).params
        file = PROJECT / given["notebook_path"]
        assert file.parent == notebook.FOLDER
        self.parameters(file.stem, dict(given["parameters"]))

    def parameters(self, name: str, values: dict):
        known = papermill.inspect_notebook(notebook.FOLDER / f"{name}.ipynb")
        declared = {k: (v["inferred_type_name"], v["default"] == "None") for k, v in known.items()}
        values = notebook.typed(name, declared, values)
        if "profile" in known:
            own = ("lm", "corpus", "sae")  # a reader's: what the page calls them is not here
            knobs = {k: v for k, v in values.items() if k in profiles.KNOBS and k not in own}
            profiles.get(values.get("profile", "laptop"), **knobs)


def alternatives(text: str) -> list[str]:
    """`a x|y` as `a x` and `a y`."""
    *rest, last = text.split(" ")
    first, equals, listed = last.partition("=")
    return [" ".join([*rest, f"{first}{equals}{one}"]) for one in listed.split("|")]


def pytest_markers(words: list[str]) -> list[str]:
    return [word for before, word in zip(words, words[1:], strict=False) if before == "-m"]


def small(command: str) -> str:
    """The one substitution: the profile smoke stands for laptop and for none, what is published of
    it is what was run before, and a number of training tokens shrinks as the profiles' do."""
    command = command.replace("laptop", "smoke").replace("compare custom", "compare smoke custom")
    ratio = profiles.smoke().train.n_tokens / profiles.laptop().train.n_tokens
    command = re.sub(r"(?<=n_tokens )\d+", lambda n: f"{int(n[0]) * ratio:.0f}", command)
    _, _, name = command.partition("notebooks/")
    if " notebook " in command or command.endswith(" doctor"):
        return f"{command} --profile smoke"
    if not name or "--help-notebook" in command or "profile" in command:
        return command
    known = papermill.inspect_notebook(notebook.FOLDER / name.split()[0])
    return f"{command} -p profile smoke" if "profile" in known else command


def run(command: str, folder: Path) -> str:
    """What a command says that is typed in a copy of the project; it must succeed."""
    here = {"PYTHONPATH": str(folder), "PROFILE": "smoke", "PIP_NO_INDEX": "1"}
    environment = {k: v for k, v in os.environ.items() if k != "FEATINT_CACHE"} | here
    how = {"cwd": folder, "env": environment, "capture_output": True, "encoding": "utf-8"}
    done = subprocess.run(["bash", "-c", command], **how)
    if "Address already in use" in done.stderr:  # another kernel took the port that this one chose
        done = subprocess.run(["bash", "-c", command], **how)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def check(command: str, said: str, folder: Path):
    """What pages say comes of a command is there."""
    words = command.split()
    if "--help-notebook" in words:
        assert re.search(r"^  k: int \(default None\)", said, re.M), said
    elif out := [word for word in words if re.fullmatch(r"\w+\.ipynb", word)]:
        cells = nbformat.read(folder / out[0], as_version=4).cells
        code = [cell for cell in cells if cell.cell_type == "code"]
        assert all(cell.execution_count for cell in code)
        assert any(cell.source.startswith("# Parameters\n") for cell in code)
    elif words[0] == "ls":
        found = [folder / words[1] / name for name in said.split()]
        assert found and all((place / "reconstruction.json").is_file() for place in found)
    elif "compare" in words:
        assert re.search(r"[1-9]\d* moved", said), said
    elif "jupyter-book" in command:
        assert (folder / "_build/html/book/intro.html").is_file()
    elif "doctor" in words:
        assert "activations: made" in said
    elif "--help" in words:
        assert all(step.__name__.replace("_", "-") in said for step in cli.STEPS)


def published(folder: Path) -> dict:
    return {file: file.read_bytes() for file in folder.glob("data/results/*/*.json")}


@pytest.mark.slow
def test_slides_are_made_of_the_book_that_is_built():
    """`make slides` where `make smoke` has built the book."""
    began = time.time()
    said = run("make slides PROFILE=smoke", PROJECT)
    made = [PROJECT / file for file in re.findall(r"Slides: (.+)", said)]
    assert [file.name for file in made] == [f"session_{n}.html" for n in range(1, 5)]
    assert all(file.stat().st_mtime >= began for file in made)


TYPED = [
    page for page, found in PAGES.items() if any(c.whole and c.text not in NOT_HERE for c in found)
]
SLICE = random.Random(store.commit().removesuffix("+changes")).sample(
    [page for page in TYPED if page != "book/course.md"], 1
)
"""The page whose commands run with `make smoke`: another for each commit. All run every night. The
course's run a chapter several times."""


@pytest.mark.parametrize(
    "where",
    [
        pytest.param(page, marks=[pytest.mark.slow] + [pytest.mark.smoke] * (page in SLICE))
        for page in TYPED
    ],
)
def test_the_commands_of_a_page_run_in_its_order(where, copy):
    said, before = "", published(copy)
    if where == "book/your_own_model.md":
        own.model(copy / "my_model", own.LLAMA, knows_words=True)
        own.texts(copy / "my_texts")
    for command in PAGES[where]:
        if command.whole and command.text not in NOT_HERE:
            text = small(command.text)
            if said:  # a name that the last command printed stands for the page's
                text = text.replace("smoke-1a2b3c4d", said.split()[-1])
            for out in copy.glob("*.ipynb"):
                out.unlink()
            said = run(text, copy)
            check(text, said, copy)
    assert published(copy) == before
