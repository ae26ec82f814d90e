"""The small JSON files that readers see: one per chapter and profile, every value with its interval, n, unit and protocol."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from companion import estimates, places
from featint import store
from featint.config import choose

PROTOCOLS = ("as published", "controlled", "setting")


@dataclass(frozen=True)
class Value:
    """One measured number."""

    value: float | int | str | list | None
    """None where there is nothing to report; `unit` or the chapter then says why."""
    n: int
    """How many independent units stand behind it."""
    unit: str
    """Unit of the value, and after a semicolon what a unit of n is: `%; n articles`."""
    protocol: str
    """`as published`, `controlled` or `setting`."""
    ci: tuple[float, float] | None = None
    """95 % interval."""

    def __post_init__(self):
        choose("protocol", self.protocol, PROTOCOLS)
        numbers = [x for x in (self.value, *(self.ci or ())) if isinstance(x, float)]
        if not all(map(math.isfinite, numbers)):
            raise ValueError(
                f"a result must be finite, or None with the reason in its unit; got value {self.value!r}, ci {self.ci!r}"
            )
        if self.ci is not None and not self.ci[0] <= self.value <= self.ci[1]:
            raise ValueError(f"value {self.value} lies outside its interval {self.ci}")


def folder(profile) -> Path:
    """Where a profile's results lie: `data/results/<name>`, or a folder of their own if knobs were turned."""
    return places.DATA / "results" / profile.label


def write(
    profile, chapter: str, values: dict[str, Value], seed: int, seconds: float | None = None
) -> Path:
    """Write a chapter's results, stamped, and return the file's path."""
    file = folder(profile) / f"{chapter}.json"
    store.write_json(
        file,
        {
            "chapter": chapter,
            "profile": profile.label,
            "provenance": store.provenance(seed=seed, seconds=seconds and round(seconds, 1)),
            "values": {name: plain(value) for name, value in values.items()},
        },
    )
    return file


def save(
    profile, chapter: str, frame: pd.DataFrame, seed: int, seconds: float | None = None
) -> Path:
    """Write a chapter's estimates, a frame of `estimates.tidy`, stamped; returns the file's path."""
    file = folder(profile) / f"{chapter}.json"
    rows = {
        estimates.identifier(row): {
            "value": rounded(row.value),
            "ci": None if row.lo is None else rounded([row.lo, row.hi]),
            "n": None if row.n is None else int(row.n),
            **{name: getattr(row, name) for name in ("of", "unit", *estimates.NAMES)},
        }
        for row in estimates.tidy(frame).itertuples()
    }
    stamp = store.provenance(seed=seed, seconds=seconds and round(seconds, 1))
    store.write_json(
        file, {"chapter": chapter, "profile": profile.label, "provenance": stamp, "values": rows}
    )
    return file


def frame(profile_label: str, chapter: str) -> pd.DataFrame:
    """A chapter's results as they were given to `save`. Raises as `read`."""
    values = read(places.DATA / "results" / profile_label / f"{chapter}.json")["values"]
    rows = [
        v | dict(zip(("lo", "hi"), v["ci"] or (None, None), strict=True)) for v in values.values()
    ]
    return estimates.tidy(pd.DataFrame(rows).drop(columns="ci"))


def plain(value: Value) -> dict:
    """A value as JSON, its numbers cut to eight significant digits (beyond that machines differ)."""
    return {name: rounded(x) for name, x in asdict(value).items()}


def rounded(x):
    """Numbers cut to eight significant digits: beyond that machines differ."""
    if isinstance(x, np.generic):
        x = x.item()
    if isinstance(x, float):
        return float(f"{x:.8g}")
    return [rounded(y) for y in x] if isinstance(x, list | tuple) else x


def read(file: Path) -> dict:
    """A results file. Raises StoreError if it is missing or not in the format."""
    try:
        content = json.loads(file.read_text())
    except FileNotFoundError:
        raise store.StoreError(
            f"there are no results at {file}; `make book` computes them"
        ) from None
    except ValueError as e:
        raise store.StoreError(
            f"{file} is not JSON ({e}); delete it and run `make book` again"
        ) from e
    lacks = {"chapter", "profile", "provenance", "values"} - set(content)
    if lacks:
        raise store.StoreError(
            f"{file} lacks {', '.join(sorted(lacks))}; delete it and run `make book` again"
        )
    return content


def lookup(profile_label: str, chapter: str, name: str) -> dict:
    """One value of one chapter. Raises StoreError naming the keys there are."""
    file = places.DATA / "results" / profile_label / f"{chapter}.json"
    values = read(file)["values"]
    if name not in values:
        raise store.StoreError(f"{file} has no value {name!r}; it has {', '.join(sorted(values))}")
    return values[name]
