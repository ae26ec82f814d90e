"""The small JSON files that readers see: one per chapter and profile, every estimate with its
interval, n, unit and protocol."""

import os
import platform
import re
from pathlib import Path

import numpy as np
import pandas as pd

from companion import estimates, places
from featint import store

LEDGER = "ledger.json"
REMEDY = "`featint notebook {} --profile ...` computes it"


def folder(profile) -> Path:
    """Where a profile's results are written; where knobs were turned, in a folder of their own."""
    return places.RESULTS / profile.label


def save(
    profile, chapter: str, frame: pd.DataFrame, seed: int, seconds: float | None = None
) -> Path:
    """Write a chapter's estimates, a frame of `estimates.tidy`, stamped; returns the file's path.

    This is where estimates get their ids.
    """
    values = {}
    for row in estimates.tidy(frame).itertuples():
        names = {name: getattr(row, name) for name in estimates.NAMES}
        alone = {"each_seed": rounded(row.each_seed)} if row.each_seed else {}
        values[estimates.identifier(row)] = plain(row) | names | alone
    memory_gb = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)
    machine = {"processor": processor(), "memory_gb": memory_gb}
    stamp = store.provenance(seed=seed, seconds=seconds and round(seconds, 1), **machine)
    content = {"chapter": chapter, "profile": profile.label, "provenance": stamp, "values": values}
    file = folder(profile) / f"{chapter}.json"
    store.write_json(file, content | {"sha256": store.digest(content)})
    return file


def processor() -> str:
    """The processor's name, as far as the system tells."""
    cpu = Path("/proc/cpuinfo")
    text = cpu.read_text(encoding="utf-8") if cpu.exists() else ""
    said = re.search("model name\\s*: (.+)", text)
    return said[1] if said else platform.processor() or "unknown"


def plain(row) -> dict:
    """An estimate as JSON, but for its names."""
    ci = None if row.lo is None else rounded([row.lo, row.hi])
    n = None if row.n is None else int(row.n)
    return {"value": rounded(row.value), "ci": ci, "n": n, "of": row.of, "unit": row.unit}


def rounded(x):
    """Numbers cut to eight significant digits: beyond that machines differ."""
    if isinstance(x, np.generic):
        x = x.item()
    if isinstance(x, float):
        return float(f"{x:.8g}")
    return [rounded(y) for y in x] if isinstance(x, list | tuple) else x


def read(file: Path) -> dict:
    """A results file. Raises StoreError if it is missing or not in the format."""
    fields = {"chapter": str, "profile": str, "provenance": dict, "values": dict}
    return store.read_json(file, REMEDY.format(file.stem), fields)


def table(file: Path) -> pd.DataFrame:
    """A results file's estimates as they were given to `save`, indexed by id. Raises as `read`."""
    values = read(file)["values"]
    try:
        for value in values.values():
            value["lo"], value["hi"] = value.pop("ci") or (None, None)
        return estimates.tidy(list(values.values())).set_axis(pd.Index(values, name="id"))
    except (ValueError, TypeError, KeyError, AttributeError) as e:
        said = f"{file} was written by another version ({e})"
        raise store.StoreError(f"{said}; {REMEDY.format(file.stem)}") from e


def files(place: Path) -> list[Path]:
    """The results files of a folder, one per chapter; the ledger that may lie there is none."""
    return sorted(f for f in place.glob("*.json") if f.name != LEDGER)


def load(place: Path) -> pd.DataFrame:
    """All estimates of a folder of results, indexed by chapter and id. Raises as `read`."""
    tables = {f.stem: table(f) for f in files(place)}
    return pd.concat(tables, names=["chapter"]) if tables else estimates.tidy([])


def lookup(file: Path, name: str) -> pd.Series:
    """One estimate of a results file. Raises as `read`, and StoreError naming the ids there are."""
    values = table(file)
    if name not in values.index:
        has = ", ".join(sorted(values.index))
        raise store.StoreError(f"{file} has no value {name!r}; it has {has}")
    return values.loc[name]
