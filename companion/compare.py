"""Two runs side by side: which values moved beyond their intervals, and which are in one run
only."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from companion import estimates, places, results
from featint.config import at_least

TOLERANCE = 0.01  # relative; for numbers that come without an interval
KEYS = ["chapter", "id"]


@dataclass(frozen=True)
class Comparison:
    """What came of comparing run B with run A."""

    common: pd.DataFrame
    """One row per value that both runs have: chapter, id, unit, A, B, `judged by`, `moved`."""
    only: dict[str, dict[str, list[str]]]
    """By run, "A" and "B": the values that the other lacks, by chapter; an empty list stands for
    a whole chapter."""

    @property
    def moved(self) -> pd.DataFrame:
        return self.common[self.common.moved]


def folder(run: str) -> Path:
    """The results of a run, given as a folder or as a label under `data/results`.

    Raises ValueError naming the labels that there are.
    """
    home = places.DATA / "results"
    for place in (home / run, Path(run)):
        if any(f.stem != "ledger" for f in place.glob("*.json")):
            return place
    files = [f for f in home.glob("**/*.json") if f.stem != "ledger"]
    labels = ", ".join(sorted({str(f.parent.relative_to(home)) for f in files})) or "none yet"
    what = f"run = {run!r} is neither a folder with results nor a label"
    raise ValueError(f"{what}; labels: {labels}")


def load(place: Path) -> pd.DataFrame:
    """All estimates of a folder of results, with columns `chapter` and `id`.

    Raises StoreError for a damaged file.
    """
    files = sorted(f for f in place.glob("*.json") if f.stem != "ledger")
    tables = {f.stem: results.table(f) for f in files}
    return pd.concat(tables, names=KEYS).reset_index()


def judge(a, b, tolerance: float) -> tuple[str, bool]:
    """By what two values of one name are compared, and whether B moved.

    `intervals`: each value lies outside the interval of the other (of the only one, if there is
    one). `tolerance`: two numbers without interval differ by more than this share of the larger.
    `equality`: settings, words, lists, and values that are missing.
    """
    if a.unit != b.unit:
        return "unit", True
    if a.protocol == "setting" or not all(isinstance(v.value, int | float) for v in (a, b)):
        return "equality", a.value != b.value
    known = [(x, other.value) for x, other in ((a, b), (b, a)) if x.lo is not None]
    if known:
        return "intervals", not any(x.lo <= value <= x.hi for x, value in known)
    return "tolerance", abs(a.value - b.value) > tolerance * max(abs(a.value), abs(b.value))


def compare(a: pd.DataFrame, b: pd.DataFrame, tolerance: float = TOLERANCE) -> Comparison:
    """Compare two tables of `load`. Raises ValueError for a tolerance below 0, or if no chapter
    is in both."""
    at_least("tolerance", tolerance, 0)
    chapters = {"A": set(a.chapter), "B": set(b.chapter)}
    if not (shared := chapters["A"] & chapters["B"]):
        names = {run: ", ".join(sorted(c)) for run, c in chapters.items()}
        raise ValueError(f"the runs share no chapter: A has {names['A']}, B has {names['B']}")
    both = a.merge(b, on=KEYS, how="outer", indicator=True, suffixes=(" A", " B"), sort=False)
    only = {}
    for run, side in (("A", "left_only"), ("B", "right_only")):
        alone = both[both._merge == side]
        only[run] = {chapter: [] for chapter in sorted(chapters[run] - shared)}
        for chapter, ids in alone[alone.chapter.isin(shared)].groupby("chapter")["id"]:
            only[run][chapter] = list(ids)
    rows = []
    known = b.set_index(KEYS)
    for ours in a[a.set_index(KEYS).index.isin(known.index)].itertuples():
        theirs = known.loc[(ours.chapter, ours.id)]
        by, moved = judge(ours, theirs, tolerance)
        unit = " / ".join(dict.fromkeys((ours.unit, theirs.unit)))
        said = [estimates.interval(v.value, v.lo, v.hi) for v in (ours, theirs)]
        rows.append((ours.chapter, ours.id, unit, *said, by, moved))
    columns = [*KEYS, "unit", "A", "B", "judged by", "moved"]
    return Comparison(pd.DataFrame(rows, columns=columns).astype({"moved": bool}), only)


def report(comparison: Comparison, a: Path, b: Path, tolerance: float = TOLERANCE) -> str:
    """The comparison in words and a table."""
    counts = comparison.common["judged by"].value_counts()
    about = {"tolerance": f" ({tolerance:g})"}
    how = ", ".join(f"{n} by {by}{about.get(by, '')}" for by, n in counts.items())
    moved = comparison.moved
    lines = [
        f"A: {a}",
        f"B: {b}",
        f"{len(comparison.common)} values in both ({how}); {len(moved)} moved.",
    ]
    if len(moved):
        lines += ["", moved.drop(columns="moved").to_string(index=False)]
    for run, chapters in comparison.only.items():
        if whole := [chapter for chapter, ids in chapters.items() if not ids]:
            lines += ["", f"Chapters only in {run}: {', '.join(whole)}"]
        listed = {chapter: ", ".join(ids) for chapter, ids in chapters.items() if ids}
        lines += [f"Only in {run}, {chapter}: {ids}" for chapter, ids in listed.items()]
    return "\n".join(lines)
