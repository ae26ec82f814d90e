"""What a sweep runs: `python -m sweeps.grid FILE PROFILE` checks its file and lists the cells."""

import itertools
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import yaml

from companion import notebook, places, results
from companion.profiles import Profile

FORM = {"notebook": str, "grid": dict, "seeds": list, "show": list}
"""What a sweep's file holds; `seeds` may be missing."""


@dataclass(frozen=True)
class Cell:
    """One run of the notebook."""

    parameters: dict
    """What it is given, the profile besides."""
    profile: Profile
    """What that asks for."""
    folder: Path
    """Of the sweep."""

    def __str__(self) -> str:
        return ", ".join(f"{name} = {value}" for name, value in self.parameters.items())

    @property
    def name(self) -> str:
        """Of its files: `k-8_seed-0`; Snakemake tells jobs on a cluster apart by `=` and `,`."""
        return re.sub(r"[^\w.+-]+", "-", str(self).replace(" = ", "-").replace(", ", "_"))

    @property
    def executed(self) -> Path:
        """The executed copy of the notebook; it appears once all is well."""
        return self.folder / f"{self.name}.ipynb"

    @property
    def failed(self) -> Path:
        """The copy that shows what went wrong."""
        return self.executed.with_suffix(".failed.ipynb")


@dataclass(frozen=True)
class Sweep:
    """A sweep's file and what follows from it at a profile's size."""

    name: str
    notebook: str
    grid: dict[str, list]
    """The values of each parameter; the seeds are among them."""
    show: list[str]
    """Patterns of the ids of values that the page shows."""
    cells: list[Cell]
    folder: Path

    def results(self, cell: Cell) -> Path:
        return results.folder(cell.profile) / f"{self.notebook}.json"

    def done(self, cell: Cell) -> bool:
        return cell.executed.exists() and self.results(cell).exists()

    def shows(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.show)


def read(file: Path, profile_name: str) -> Sweep:
    """The sweep of a file at a profile's size.

    Raises ValueError, before anything runs, for a file of another form, a parameter that the
    notebook lacks, one with no value or one twice, and values that it or a config refuses.
    """
    asked = of_form(file)
    name, show = asked["notebook"], asked["show"]
    grid = asked["grid"] | ({"seed": asked["seeds"]} if "seeds" in asked else {})
    if "seeds" in asked and "seed" in asked["grid"]:
        raise ValueError(f"{file}: seed stands in the grid, and there are seeds: name them once")
    for parameter, values in grid.items():
        if not isinstance(values, list) or not values or None in values:
            said = f"{file}: {parameter} = {values!r} has no value"
            raise ValueError(f"{said}; it takes a list such as {parameter}: [1, 2]")
    cells, folder = [], places.BUILD / "sweeps" / profile_name / file.stem
    for point in itertools.product(*grid.values()):
        parameters = dict(zip(grid, point, strict=True))
        try:
            values, defaults = notebook.given(name, profile_name, parameters)
            if "profile" not in values:
                raise ValueError(f"{name} stores no results that could be compared")
            profile = notebook.asked(defaults | values, defaults)
        except ValueError as e:
            raise ValueError(f"{file}: {e}") from e
        cells.append(Cell({k: values[k] for k in grid}, profile, folder))
    for one, other in itertools.combinations(cells, 2):
        if one.name == other.name or one.profile == other.profile:
            raise ValueError(f"{file}: {one} and {other} are the same run")
    return Sweep(file.stem, name, grid, show, cells, folder)


def of_form(file: Path) -> Mapping:
    """What a sweep's file holds. Raises ValueError if it is missing or of another form."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as e:
        raise ValueError(f"{file} is not a sweep: {e}") from e
    words = ", ".join(FORM)
    if not isinstance(content, dict) or set(content) - set(FORM):
        raise ValueError(f"{file} is not a sweep: it holds {words} and nothing else")
    for name, kind in FORM.items():
        if (name in content or name != "seeds") and not isinstance(content.get(name), kind):
            raise ValueError(f"{file}: {name} = {content.get(name)!r} must be a {kind.__name__}")
        if name in content and not content[name] and name != "seeds":
            raise ValueError(f"{file}: {name} is empty")
    return content


def main() -> int:
    try:
        sweep = read(Path(sys.argv[1]), sys.argv[2])
    except ValueError as e:
        print(e, file=sys.stderr)
        return 2
    print(f"{sweep.notebook}, {len(sweep.cells)} cells:", *sweep.cells, sep="\n  ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
