"""Two runs side by side: which values moved beyond their intervals, and which are in one run only."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from companion import places, results
from companion.verdicts import number
from featint.config import at_least

TOLERANCE = 0.01  # relative; for numbers that come without an interval
KEYS = ["chapter", "value"]


@dataclass(frozen=True)
class Comparison:
    """What came of comparing run B with run A."""

    common: pd.DataFrame
    """One row per value that both runs have: chapter, value, unit, A, B, `judged by` and whether it `moved`."""
    only: dict[str, dict[str, list[str]]]
    """By run, "A" and "B": the values that the other lacks, by chapter; an empty list stands for a whole chapter."""

    @property
    def moved(self) -> pd.DataFrame:
        return self.common[self.common.moved]


def folder(run: str) -> Path:
    """The results of a run, given as a folder or as a label under `data/results`. Raises ValueError naming the labels that there are."""
    home = places.DATA / "results"
    for place in (home / run, Path(run)):
        if any(f.stem != "ledger" for f in place.glob("*.json")):
            return place
    labels = sorted(
        {str(f.parent.relative_to(home)) for f in home.glob("**/*.json") if f.stem != "ledger"}
    )
    raise ValueError(
        f"run = {run!r} is neither a folder with results nor a label; labels: {', '.join(labels) or 'none yet'}"
    )


def load(place: Path) -> pd.DataFrame:
    """All values of a folder of results, indexed by chapter and value: value, ci, unit, protocol. Raises StoreError for a damaged file."""
    rows = [
        {"chapter": file.stem, "value": name, "number": found["value"]}
        | {x: found[x] for x in ("ci", "unit", "protocol")}
        for file in sorted(place.glob("*.json"))
        if file.stem != "ledger"
        for name, found in results.read(file)["values"].items()
    ]
    return pd.DataFrame(
        rows, columns=[*KEYS, "number", "ci", "unit", "protocol"], dtype=object
    ).set_index(KEYS)


def judge(a: pd.Series, b: pd.Series, tolerance: float) -> tuple[str, bool]:
    """By what two values of one name are compared, and whether B moved.

    `intervals`: each value lies outside the interval of the other (of the only one, if there is one). `tolerance`: two numbers without interval
    differ by more than this share of the larger. `equality`: settings, words, lists, and values that are missing.
    """
    if a["unit"].split(";")[0].strip() != b["unit"].split(";")[0].strip():
        return "unit", True
    if a["protocol"] == "setting" or not all(isinstance(v["number"], int | float) for v in (a, b)):
        return "equality", a["number"] != b["number"]
    intervals = [
        (ours["ci"], other["number"]) for ours, other in ((a, b), (b, a)) if ours["ci"] is not None
    ]
    if intervals:
        return "intervals", not any(low <= value <= high for (low, high), value in intervals)
    return "tolerance", abs(a["number"] - b["number"]) > tolerance * max(
        abs(a["number"]), abs(b["number"])
    )


def compare(a: pd.DataFrame, b: pd.DataFrame, tolerance: float = TOLERANCE) -> Comparison:
    """Compare two tables of `load`. Raises ValueError for a tolerance below 0, or if no chapter is in both."""
    at_least("tolerance", tolerance, 0)
    chapters = {
        run: set(table.index.get_level_values("chapter")) for run, table in (("A", a), ("B", b))
    }
    shared = chapters["A"] & chapters["B"]
    if not shared:
        raise ValueError(
            f"the runs share no chapter: A has {', '.join(sorted(chapters['A']))}, B has {', '.join(sorted(chapters['B']))}"
        )
    rows = []
    for key in a.index[a.index.isin(b.index)]:
        ours, theirs = a.loc[key], b.loc[key]
        by, moved = judge(ours, theirs, tolerance)
        unit = " / ".join(dict.fromkeys(v["unit"].split(";")[0].strip() for v in (ours, theirs)))
        rows.append((*key, unit, said(ours), said(theirs), by, moved))
    only = {}
    for run, table, other in (("A", a, b), ("B", b, a)):
        only[run] = {chapter: [] for chapter in sorted(chapters[run] - shared)}
        for chapter, value in table.index[~table.index.isin(other.index)]:
            if chapter in shared:
                only[run].setdefault(chapter, []).append(value)
    common = pd.DataFrame(rows, columns=[*KEYS, "unit", "A", "B", "judged by", "moved"]).astype(
        {"moved": bool}
    )
    return Comparison(common, only)


def said(value: pd.Series) -> str:
    """A value with its interval: `0.31 [0.30, 0.32]`."""
    text = "–" if value["number"] is None else number(value["number"])
    return text if value["ci"] is None else f"{text} [{', '.join(map(number, value['ci']))}]"


def report(found: Comparison, a: Path, b: Path, tolerance: float = TOLERANCE) -> str:
    """The comparison in words and a table."""
    counts = found.common["judged by"].value_counts()
    how = ", ".join(
        f"{counts[by]} by {by}" + (f" ({tolerance:g})" if by == "tolerance" else "")
        for by in counts.index
    )
    lines = [
        f"A: {a}",
        f"B: {b}",
        f"{len(found.common)} values in both ({how}); {len(found.moved)} moved.",
    ]
    if len(found.moved):
        lines += ["", found.moved.drop(columns="moved").to_string(index=False)]
    for run, chapters in found.only.items():
        if whole := [chapter for chapter, values in chapters.items() if not values]:
            lines += ["", f"Chapters only in {run}: {', '.join(whole)}"]
        lines += [
            f"Only in {run}, {chapter}: {', '.join(values)}"
            for chapter, values in chapters.items()
            if values
        ]
    return "\n".join(lines)
