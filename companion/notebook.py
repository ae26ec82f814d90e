"""The two ends of a chapter: what its first cell calls, and what runs it."""

import tempfile
import time
from pathlib import Path
from types import ModuleType

import pandas as pd

from companion import dependencies, places, profiles
from companion.profiles import Profile
from featint import store

FOLDER = places.PROJECT / "notebooks"


class NotebookError(Exception):
    """A notebook in which a cell failed; the message names cell, error and the copy that shows
    it."""


def start(namespace: dict) -> Profile:
    """Check a notebook's parameters and return the profile they ask for.

    `namespace` is the notebook's `globals()`. Its parameters are the annotated names of the cell
    tagged `parameters`; any other plain value is a parameter that somebody passed and the notebook
    does not have, which papermill alone would only log.

    Raises ValueError for an unknown parameter, profile or knob.
    """
    allowed = namespace.get("__annotations__", {})
    known = {*allowed, "In", "Out", "exit", "quit", "get_ipython", "open"}
    for name, value in namespace.items():
        plain = not isinstance(value, ModuleType) and not callable(value)
        if plain and name not in known and not name.startswith("_"):
            has = ", ".join(allowed)
            raise ValueError(f"this notebook has no parameter {name!r}; it has {has}")
    knobs = {name: namespace[name] for name in allowed if name in profiles.KNOBS}
    return profiles.get(namespace["profile"], **knobs)


def provenance(profile: Profile, began: float) -> pd.DataFrame:
    """For a chapter's last table: what ran, with what, where, when, and the seconds since `began`
    (`time.monotonic`)."""
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


def executed(name: str, profile_name: str) -> Path:
    """Where the executed copy of a notebook lies; the book shows this one."""
    return places.BUILD / "executed" / profile_name / "notebooks" / f"{name}.ipynb"


def run(name: str, profile_name: str, parameters: dict, out: Path | None = None) -> Path:
    """Execute a notebook, a page or a draft, by papermill and return the executed copy's path; it
    appears only if every cell succeeded.

    A walkthrough on toy data has no `profile` parameter and runs the same in all of them.

    Raises ValueError for an unknown or damaged notebook or parameter, NotebookError if a cell
    fails; the failed copy is then kept beside the good one's place, as `<name>.failed.ipynb`.
    """
    import papermill  # only here: a chapter that calls `start` should not wait for it

    source = FOLDER / f"{name}.ipynb"
    if not source.exists():
        raise ValueError(f"notebook = {name!r} is not known; there are {', '.join(names())}")
    dependencies.code(source)
    known = papermill.inspect_notebook(source)
    if "profile" in known:
        parameters = {"profile": profile_name} | parameters
    for parameter in parameters:
        if parameter not in known:
            raise ValueError(f"{name} has no parameter {parameter!r}; it has {', '.join(known)}")
    out = out or executed(name, profile_name)
    out.parent.mkdir(parents=True, exist_ok=True)
    failed = out.with_suffix(".failed.ipynb")
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=out.parent) as folder:
        copy = Path(folder, out.name)
        # else every kernel warns of its unencrypted connection to this very machine
        quiet = {"extra_arguments": ["--IPKernelApp.log_level=ERROR"], "progress_bar": False}
        place = {"kernel_name": "python3", "cwd": places.PROJECT}
        try:
            papermill.execute_notebook(source, copy, parameters, **place, **quiet)
        except papermill.PapermillExecutionError as e:
            copy.replace(failed)
            what = f"{name} failed in cell {e.exec_count}: {e.ename}: {e.evalue}"
            raise NotebookError(f"{what}. The copy with the whole traceback: {failed}") from e
        copy.replace(out)
    failed.unlink(missing_ok=True)
    return out
