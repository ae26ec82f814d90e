"""Which source files a result depends on: the flow re-runs what a change touches, and nothing else.

A module goes by its dotted name, `featint.runs`; that of a package stands for its `__init__.py`.
"""

import ast
import json
from collections.abc import Iterable
from pathlib import Path

from companion import places

PACKAGES = ("featint", "companion")
FILES = {
    ".".join(f.relative_to(places.PROJECT).with_suffix("").parts).removesuffix(".__init__"): f
    for package in PACKAGES
    for f in places.PROJECT.joinpath(package).rglob("*.py")
    if f != places.PROJECT / package / "__init__.py"
}
"""The file of every module; the packages' own only set threads, and where the cache lies."""
BESIDE = {
    places.PROJECT / "featint" / "kernels" / "loops.cpp": "featint.kernels.loops",
    places.DATA / "author_tables.toml": "companion.chapters.author_data",
    places.DATA / "models.toml": "companion.variants",
    places.DATA / "book.mplstyle": "companion.plots",
    places.DATA / "colours.csv": "companion.plots",
    places.PROJECT / "notebooks" / "solutions" / "exercises.py": "companion.exercises",
}
"""Files that are read besides modules, and by which."""
IN_THE_KEY = {"featint.config", "featint.store", "companion.profiles", "companion.variants"}
"""Modules that say what is asked for and where; the hash in an artefact's path says it already."""
ON_THE_SPOT = {
    "featint.activations": {"featint.harvest"},
    "companion.profiles": {"featint.corpora", "featint.foreign", "featint.harvest", "featint.lm"},
}
"""Imports, by module, that only make or look at artefacts which the flow makes beforehand; it
watches what those depend on already."""


def within(name: str) -> set[str]:
    """A dotted name and those of all packages that it lies in, which Python loads before it."""
    parts = name.split(".")
    return {".".join(parts[: n + 1]) for n in range(len(parts))}


def imported(code: str) -> set[str]:
    """Our modules that a piece of Python imports, anywhere in it, and the packages they lie in."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return set().union(*map(within, found)) & set(FILES)


def closure(modules: Iterable[str], without: set[str] = frozenset()) -> list[Path]:
    """The files of these modules and of all that they import, directly or not."""
    found, todo = set(), set().union(*map(within, modules)) - set(PACKAGES) - without
    while todo:
        module = todo.pop()
        found.add(module)
        asked = imported(FILES[module].read_text(encoding="utf-8"))
        todo |= asked - ON_THE_SPOT.get(module, set()) - found - without
    return sorted(FILES[m] for m in found) + sorted(f for f, m in BESIDE.items() if m in found)


def of_stage(module: str) -> list[Path]:
    """What an artefact made by this module depends on besides its config."""
    return closure([module], without=IN_THE_KEY)


def of_notebook(file: Path) -> list[Path]:
    """What a notebook's results depend on besides its own cells. Raises ValueError as `code`."""
    return closure(set().union(*map(imported, code(file))))


def code(file: Path) -> list[str]:
    """A notebook's cells of code, with IPython's own signs (`%time`, `!ls`) as Python.

    Raises ValueError naming the file, and the cell that is not Python.
    """
    from IPython.core.inputtransformer2 import TransformerManager

    mend = f"mend it, or take it out of {places.TOC.name}"
    try:
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise ValueError(f"{file} is not a notebook ({e!r}); {mend}") from e
    found = []
    for n, source in enumerate(sources, 1):
        try:
            found.append(TransformerManager().transform_cell(source))
            ast.parse(found[-1])
        except SyntaxError as e:
            raise ValueError(f"{file}: code cell {n} is not Python ({e}); {mend}") from e
    return found
