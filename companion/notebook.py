"""The two ends of a chapter: what its first cell calls, and what runs it."""

import ast
import inspect
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import nbformat
import pandas as pd
import torch
from IPython import get_ipython
from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from companion import dependencies, places, profiles, results, variants
from companion.profiles import Profile
from featint import lm, runs, store, train
from featint.config import SEEDS
from featint.joint import JointSAE
from featint.nfm import NFM
from featint.sae import TopKSAE

REMEDY = "copy the project to a folder of your own"
FOLDER = places.PROJECT / "notebooks"


class NotebookError(Exception):
    """A cell of a notebook failed; the message names it, the error and the copy that shows both."""


def no_bool(value):
    """What pydantic is to read as a number; Python takes True for 1."""
    if isinstance(value, bool):
        raise ValueError(value)
    return value


NUMBER, FINITE = BeforeValidator(no_bool), {"allow_inf_nan": False}
FACTORS = list[Annotated[float, NUMBER, Field(gt=0, **FINITE)]]
KINDS = {
    "int": ("a whole number of at least 1", Annotated[int, NUMBER, Field(ge=1)]),
    "float": ("a finite number of at least 0", Annotated[float, NUMBER, Field(ge=0, **FINITE)]),
    "bool": ("True or False", bool),
    "str": ("text", str),
    "list[float]": ("a list of numbers above 0", Annotated[FACTORS, Field(min_length=1)]),
}
"""What a parameter may be: its annotation, in words and for pydantic."""
KINDS |= dict.fromkeys(
    ("seed", "feature"),
    (f"a whole number from 0 to {SEEDS - 1}", Annotated[int, NUMBER, Field(ge=0, lt=SEEDS)]),
)
"""These by name: all other whole numbers count something."""


def typed(whose: str, declared: Mapping[str, tuple[str, bool]], passed: Mapping) -> dict:
    """The values of parameters as what they are declared to be, `{name: (annotation, whether None
    is the default)}`: 32.0, "32" and "1e2" are whole numbers, "[1, 2]" is a list.

    Raises ValueError for a value that is none, and for a parameter that is not declared.
    """
    values = dict(passed)
    for name, value in passed.items():
        if name not in declared:
            raise ValueError(f"{whose} has no parameter {name!r}; it has {', '.join(declared)}")
        annotation, optional = declared[name]
        if isinstance(value, str) and (annotation != "str" or (optional and value == "None")):
            with suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
                values[name] = ast.literal_eval(value.strip())
        if annotation not in KINDS or (optional and values[name] is None):
            continue
        words, kind = KINDS.get(name) or KINDS[annotation]
        try:
            values[name] = TypeAdapter(kind).validate_python(values[name])
        except ValidationError:
            words += ", or None for the default" if optional else ""
            got = f"{name} = {value!r} ({type(value).__name__})"
            raise ValueError(f"{got} must be {words}") from None
    return values


def declarations(namespace: dict) -> tuple[dict, list[str], dict]:
    """What the cells that a kernel has run (`In`) say of parameters: which there are, as `typed`
    takes them, which were passed, and their defaults. The names in `globals()` may be left from a
    run of cells that come later."""
    annotations = namespace.get("__annotations__", {}).items()
    declared = {name: (inspect.formatannotation(kind), True) for name, kind in annotations}
    passed, defaults = [], {}
    for cell in namespace.get("In", ()):
        try:
            lines = ast.parse(cell).body
        except SyntaxError:  # it did not run
            continue
        annotated = [line for line in lines if isinstance(line, ast.AnnAssign)]
        plain = [line for line in lines if isinstance(line, ast.Assign)]
        injected = cell.startswith("# Parameters")  # by papermill
        if (annotated or injected) and len(annotated) + len(plain) == len(lines):
            for line in annotated:
                name, default = ast.unparse(line.target), ast.literal_eval(line.value)
                defaults[name] = default
                declared[name] = ast.unparse(line.annotation), default is None
            passed = [ast.unparse(target) for line in plain for target in line.targets]
    return declared, passed, defaults


def check(namespace: dict) -> dict:
    """Make the parameters in a notebook's `globals()` what they are declared to be; their values.

    Raises ValueError as `typed`; papermill alone would only log a parameter that there is not.
    """
    declared, passed, _ = declarations(namespace)
    there = {name: namespace[name] for name in (*declared, *passed) if name in namespace}
    values = typed("this notebook", declared, there)
    namespace.update(values)
    return values


def start(namespace: dict) -> Profile:
    """Check a notebook's parameters (`check`) and return the profile they ask for (`asked`).

    Raises ValueError also for an unknown profile and a knob that its config refuses, StoreError if
    results could not be written.
    """
    profile = asked(check(namespace), declarations(namespace)[2])
    store.writable(results.folder(profile), REMEDY)
    if given := profile.given:
        beside = f"SAEs trained beside it have {profile.sae.k} of {profile.sae.d_sae:,}"
        print(f"`sae` is {given.source}: {given.d_sae:,} features, finished, so that it is its own")
        print(f"start wherever a page asks what came before training; {beside} features per token.")
    sys.stderr.isatty = lambda: True  # what a kernel writes is read: show progress
    return profile


def leave_out(need: str, why: object) -> None:
    """Say why a part of a chapter cannot run here. Cells that begin with `# needs <need>` are left
    out from here on, and say so."""
    print(f"Left out below: what needs {need}. {why}.")
    first, instead = [f"# needs {need}\n"], ["print('Left out, as said above.')"]
    cells = get_ipython().input_transformers_cleanup
    cells.append(lambda lines: instead if lines[:1] == first else lines)


def asked(values: Mapping, defaults: Mapping) -> Profile:
    """The profile that a notebook's parameters ask for, of their values and defaults. Those of the
    notebook alone are among what was `turned`, too: its results are others. Raises ValueError as
    `profiles.get`."""
    knobs = {name: value for name, value in values.items() if name in profiles.KNOBS}
    profile = profiles.get(values["profile"], **knobs)
    own = {k: v for k, v in defaults.items() if k not in {*knobs, "profile"}}
    turned = tuple(f"{k} = {values[k]!r}" for k, v in own.items() if values[k] != v)
    return replace(profile, turned=(*profile.turned, *turned))


def announce(name: str, p: Profile) -> None:
    """Say on stderr how many models a notebook trains before it can measure, and about how long
    that takes here, by a few steps of the profile's joint model on random activations."""
    if "hook_point" in p.turned:  # a place that there is not is refused before anything else
        lm.block_of(lm.load(p.harvest.lm), p.harvest.hook_point)
    lacking = [c for c in variants.of_chapter(name, p) if not store.exists(runs.KIND, c)]
    configs = [c for c in lacking if not c.finished]
    if not configs:
        return
    few = replace(p.train, n_tokens=4 * p.train.batch_tokens)
    model = JointSAE(TopKSAE(p.d_in, p.sae), NFM(p.d_in, p.sae.d_sae, p.nfm))
    began = time.monotonic()
    train.fit(model, [torch.randn(few.batch_tokens, p.d_in)] * few.n_steps, few)
    tokens = sum(c.train.n_tokens for c in configs)
    minutes = (time.monotonic() - began) / few.n_tokens * tokens / 60
    where = store.path(runs.KIND, configs[0]).parent
    said = f"{len(configs)} models of {tokens:,} training tokens together, at most about"
    print(f"{name}: trains {said} {minutes:.0f} min here, into {where}", file=sys.stderr)


def provenance(profile: Profile, began: float) -> pd.DataFrame:
    """For a chapter's last table: what ran, with what, where, when, how long since `began`."""
    stamp = store.provenance()
    versions = ", ".join(f"{name} {version}" for name, version in stamp.pop("versions").items())
    rows = {"profile": profile.label, "seeds": ", ".join(map(str, profile.seeds))} | stamp
    rows |= {"seconds": f"{time.monotonic() - began:.0f}", "versions": versions}
    return pd.DataFrame({"what": rows.keys(), "value": map(str, rows.values())})


def names() -> list[str]:
    """The notebooks of the table of contents; others in the folder are drafts of somebody's."""
    from sphinx_external_toc.parsing import parse_toc_yaml

    pages = map(Path, parse_toc_yaml(places.TOC))
    return sorted(page.stem for page in pages if page.parent.name == FOLDER.name)


def literal(path: Path) -> str:
    """A path for papermill, which would put parameters into its braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def executed(name: str, profile_name: str) -> Path:
    """Where the executed copy of a notebook lies; the book shows this one."""
    return places.BUILD / "executed" / profile_name / "notebooks" / f"{name}.ipynb"


def given(name: str, profile_name: str, parameters: dict) -> tuple[dict, dict]:
    """The parameters with which a notebook is to run, as `typed`, paths as they are from anywhere,
    and the defaults of all it has. Raises ValueError as `run`."""
    import papermill

    source = FOLDER / f"{name}.ipynb"
    if f"{name}.ipynb" not in os.listdir(FOLDER):  # nor is one of another folder
        raise ValueError(f"notebook = {name!r} is not known; there are {', '.join(names())}")
    dependencies.code(source)
    known = papermill.inspect_notebook(literal(source))
    if "profile" in known:
        parameters = {"profile": profile_name} | parameters
    declared = {k: (p["inferred_type_name"], p["default"] == "None") for k, p in known.items()}
    parameters = typed(name, declared, parameters)
    paths_here = {k: Path(parameters[k]) for k in ("lm", "corpus", "sae") if parameters.get(k)}
    parameters |= {k: str(path.resolve()) for k, path in paths_here.items() if path.exists()}
    return parameters, {k: ast.literal_eval(p["default"]) for k, p in known.items()}


def run(name: str, profile_name: str, parameters: dict, out: Path | None = None) -> Path:
    """Execute a notebook, a page or a draft, by papermill and return the executed copy's path; it
    appears only if every cell succeeded.

    A walkthrough on toy data has no `profile` parameter and runs the same in all of them.

    Raises ValueError for an unknown or damaged notebook and what `typed` refuses, StoreError if a
    folder takes no files, NotebookError if a cell fails; the failed copy is then kept beside the
    good one's place, as `<name>.failed.ipynb`.
    """
    # only here: a chapter that calls `start` should not wait for them
    import papermill
    from jupyter_core import paths

    source, (parameters, known) = FOLDER / f"{name}.ipynb", given(name, profile_name, parameters)
    p = asked(known | parameters, known) if "profile" in parameters else None
    remedy = "choose another --out" if out else REMEDY
    out = out or executed(name, p.label if p else profile_name)
    store.writable(out.parent, remedy)
    try:
        runtime = Path(paths.jupyter_runtime_dir())
    except RuntimeError as e:
        raise store.StoreError(f"{e} Set HOME to a folder that takes files") from e
    store.writable(runtime, "set HOME or JUPYTER_RUNTIME_DIR to a folder that does")
    if p:
        announce(name, p)
    os.environ.setdefault("TQDM_MININTERVAL", "10")  # of the kernel's bars: seconds
    failed = out.with_suffix(".failed.ipynb")
    with tempfile.TemporaryDirectory(prefix=store.sweep(out), dir=out.parent) as folder:
        copy = Path(folder, out.name)
        # else every kernel warns of its unencrypted connection to this very machine
        quiet = {"extra_arguments": ["--IPKernelApp.log_level=ERROR"], "progress_bar": False}
        place = {"kernel_name": "python3", "cwd": places.PROJECT, "stderr_file": sys.stderr}
        try:
            papermill.execute_notebook(literal(source), literal(copy), parameters, **place, **quiet)
        except papermill.PapermillExecutionError as e:
            copy.replace(failed)
            what = f"{name} failed in cell {e.exec_count}: {e.ename}: {e.evalue}"
            raise NotebookError(f"{what}. The copy with the whole traceback: {failed}") from e
        without_progress(copy)
        copy.replace(out)
    failed.unlink(missing_ok=True)
    return out


def without_progress(file: Path) -> None:
    """Take the lines of progress bars, of no use to a reader, out of an executed notebook."""
    notebook = nbformat.read(file, nbformat.NO_CONVERT)
    for cell in notebook.cells:
        for output in list(cell.get("outputs", [])):
            if output.get("name") == "stderr":
                kept = (line for line in output.text.splitlines(keepends=True) if "%|" not in line)
                output.text = "".join(kept).replace("\r", "")
                if not output.text.strip():
                    cell.outputs.remove(output)
    nbformat.write(notebook, file)
