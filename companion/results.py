"""The small JSON files that readers see: one per chapter and profile, every estimate with its
interval, n, unit and protocol."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from companion import estimates, places
from featint import store


def folder(profile) -> Path:
    """Where a profile's results lie: `data/results/<name>`, or a folder of their own if knobs were
    turned."""
    return places.DATA / "results" / profile.label


def save(
    profile, chapter: str, frame: pd.DataFrame, seed: int, seconds: float | None = None
) -> Path:
    """Write a chapter's estimates, a frame of `estimates.tidy`, stamped; returns the file's path.

    This is where estimates get their ids.
    """
    values = {}
    for row in estimates.tidy(frame).itertuples():
        values[estimates.identifier(row)] = {
            "value": rounded(row.value),
            "ci": None if row.lo is None else rounded([row.lo, row.hi]),
            "n": None if row.n is None else int(row.n),
            **{name: getattr(row, name) for name in ("of", "unit", *estimates.NAMES)},
        }
    stamp = store.provenance(seed=seed, seconds=seconds and round(seconds, 1))
    content = {"chapter": chapter, "profile": profile.label, "provenance": stamp, "values": values}
    file = folder(profile) / f"{chapter}.json"
    store.write_json(file, content)
    return file


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
    if lacks := {"chapter", "profile", "provenance", "values"} - set(content):
        raise store.StoreError(
            f"{file} lacks {', '.join(sorted(lacks))}; delete it and run `make book` again"
        )
    return content


def table(file: Path) -> pd.DataFrame:
    """The estimates of a results file as they were given to `save`, indexed by id. Raises as
    `read`."""
    values = read(file)["values"]
    rows = []
    for value in values.values():
        lo, hi = value["ci"] or (None, None)
        rows.append({name: value[name] for name in value if name != "ci"} | {"lo": lo, "hi": hi})
    return estimates.tidy(rows).set_axis(pd.Index(values, name="id"))


def frame(profile_label: str, chapter: str) -> pd.DataFrame:
    """The estimates of one chapter. Raises as `read`."""
    return table(places.DATA / "results" / profile_label / f"{chapter}.json")


def lookup(profile_label: str, chapter: str, name: str) -> pd.Series:
    """One estimate of one chapter. Raises StoreError naming the ids there are."""
    values = frame(profile_label, chapter)
    if name not in values.index:
        file = places.DATA / "results" / profile_label / f"{chapter}.json"
        raise store.StoreError(
            f"{file} has no value {name!r}; it has {', '.join(sorted(values.index))}"
        )
    return values.loc[name]
