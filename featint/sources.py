"""Which source files a result depends on: what the flow watches, so that a change re-runs what it touches and nothing else.

A module goes by its name below `featint.`, such as `runs` or `chapters.norms`; that of a subpackage stands for its `__init__.py`.
"""

import ast
import json
from collections.abc import Iterable
from pathlib import Path

from featint import store

PACKAGE = store.PROJECT / "featint"
FILES = {".".join(f.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): f for f in PACKAGE.rglob("*.py")}
del FILES["__init__"]  # its only work is a setting for threads
"""The file of every module."""
BESIDE = {"kernels": ["_kernels.cpp"]}
"""Files that a module reads besides those it imports."""
IN_THE_KEY = {"config", "store", "profiles", "variants"}
"""Modules that say what is asked for and where it lies; for an artefact the hash in its path says that already."""


def within(name: str) -> set[str]:
    """A dotted name and those of all packages that it lies in, which Python loads before it."""
    parts = name.split(".")
    return {".".join(parts[: n + 1]) for n in range(len(parts))}


def imported(code: str) -> set[str]:
    """The package's modules that a piece of Python imports, anywhere in it, and the subpackages that these lie in."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    ours = (name.removeprefix("featint.") for name in found if name.startswith("featint."))
    return set().union(*map(within, ours)) & set(FILES)


def closure(modules: Iterable[str], without: set[str] = frozenset()) -> list[Path]:
    """The files of these modules and of all that they import, directly or not."""
    found, todo = set(), set().union(*map(within, modules)) - without
    while todo:
        module = todo.pop()
        found.add(module)
        todo |= imported(FILES[module].read_text()) - found - without
    return [file for module in sorted(found) for file in (FILES[module], *(PACKAGE / name for name in BESIDE.get(module, ())))]


def of_stage(module: str) -> list[Path]:
    """What an artefact made by this module depends on besides its config."""
    return closure([module], without=IN_THE_KEY)


def of_notebook(file: Path) -> list[Path]:
    """What a notebook's results depend on besides its own cells."""
    cells = json.loads(file.read_text())["cells"]
    return closure(set().union(*(imported("".join(cell["source"])) for cell in cells if cell["cell_type"] == "code")))
