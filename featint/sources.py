"""Which source files a result depends on: what the flow watches, so that a change re-runs what it touches and nothing else."""

import ast
import json
from collections.abc import Iterable
from pathlib import Path

from featint import store

PACKAGE = store.PROJECT / "featint"
BESIDE = {"kernels": ["_kernels.cpp"]}
"""Files that a module reads besides those it imports."""
IN_THE_KEY = {"config", "store", "profiles", "variants"}
"""Modules that say what is asked for and where it lies; for an artefact the hash in its path says that already."""


def imported(code: str) -> set[str]:
    """The package's modules that a piece of Python imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in found if name.startswith("featint.")} & {f.stem for f in PACKAGE.glob("*.py")}


def closure(modules: Iterable[str], without: set[str] = frozenset()) -> list[Path]:
    """The files of these modules and of all that they import, directly or not."""
    found, todo = set(), set(modules) - without
    while todo:
        module = todo.pop()
        found.add(module)
        todo |= imported((PACKAGE / f"{module}.py").read_text()) - found - without
    return [PACKAGE / name for module in sorted(found) for name in (f"{module}.py", *BESIDE.get(module, ()))]


def of_stage(module: str) -> list[Path]:
    """What an artefact made by this module depends on besides its config."""
    return closure([module], without=IN_THE_KEY)


def of_notebook(file: Path) -> list[Path]:
    """What a notebook's results depend on besides its own cells."""
    cells = json.loads(file.read_text())["cells"]
    return closure(set().union(*(imported("".join(cell["source"])) for cell in cells if cell["cell_type"] == "code")))
