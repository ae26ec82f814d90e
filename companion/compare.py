"""Two runs side by side: which values moved beyond their intervals or changed their sign, which are
in one run only, and which verdicts differ."""

from pathlib import Path

import pandas as pd

from companion import estimates, places, results
from featint import store
from featint.config import at_least


def folder(run: str | Path) -> Path:
    """The results of a run, given as a folder or as a label: of this machine where it has them,
    else the published ones. `report` says which folders these are.

    Raises ValueError naming the labels that there are.
    """
    homes = places.RESULTS, places.PUBLISHED
    for place in (*(home / run for home in homes), Path(run)):
        if results.files(place):
            return place
    found = {str(f.relative_to(h)) for h in homes for f in h.glob("**/") if results.files(f)}
    labels = ", ".join(sorted(found)) or "none yet"
    what = f"run = {str(run)!r} is neither a folder with results nor a label; labels: {labels}"
    raise ValueError(f"{what}; `make book` makes more")


def published(run: Path) -> Path:
    """The published results of a run's profile. Raises ValueError if there are none."""
    label = results.read(results.files(run)[0])["profile"]
    name = label.removeprefix("custom/").partition("-")[0]
    if not results.files(places.PUBLISHED / name):
        raise ValueError(f"nothing is published for the profile {name!r}: name two runs to compare")
    return places.PUBLISHED / name


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


def apart(a, b) -> str:
    """What is clear of two numbers by any rule: `disjoint` intervals, `opposite` signs."""
    if not all(isinstance(v.value, int | float) for v in (a, b)):
        return ""
    disjoint = None not in (a.lo, b.lo) and (a.hi < b.lo or b.hi < a.lo)
    return " ".join(["disjoint"] * disjoint + ["opposite"] * (a.value * b.value < 0))


def common(a: pd.DataFrame, b: pd.DataFrame, tolerance: float) -> pd.DataFrame:
    """One row per value that is in two tables of `results.load`: chapter, id, unit, A, B, `judged
    by`, `moved`, `apart`."""
    rows = []
    for chapter, name in a.index[a.index.isin(b.index)]:
        pair = a.loc[(chapter, name)], b.loc[(chapter, name)]
        unit = " / ".join(dict.fromkeys(v.unit for v in pair))
        said = [estimates.interval(v.value, v.lo, v.hi) for v in pair]
        rows.append((chapter, name, unit, *said, *judge(*pair, tolerance), apart(*pair)))
    columns = ["chapter", "id", "unit", "A", "B", "judged by", "moved", "apart"]
    return pd.DataFrame(rows, columns=columns).astype({"moved": bool})


def report(a: Path, b: Path, tolerance: float = 0.01) -> str:
    """The comparison of two folders in words and a table. Raises ValueError for a tolerance below
    0, or if no chapter is in both, StoreError for a damaged file."""
    at_least("tolerance", tolerance, 0)
    runs = {"A": results.load(a), "B": results.load(b)}
    chapters = {run: table.index.unique("chapter") for run, table in runs.items()}
    if chapters["A"].intersection(chapters["B"]).empty:
        has = ", ".join(f"{run} has {', '.join(known)}" for run, known in chapters.items())
        raise ValueError(f"the runs share no chapter: {has}")
    both = common(*runs.values(), tolerance)
    about = {"tolerance": f" ({tolerance:g})"}
    counts = both["judged by"].value_counts()
    how = ", ".join(f"{n} by {by}{about.get(by, '')}" for by, n in counts.items())
    disjoint, opposite = (both.apart.str.contains(x).sum() for x in ("disjoint", "opposite"))
    found = f"{both.moved.sum()} moved, {disjoint} to disjoint intervals; {opposite} changed sign"
    lines = [f"In both: {', '.join(f'{name}.json' for name in both.chapter.unique())}"]
    lines.append(f"{len(both)} values in both ({how}); {found}.")
    shown = both[both.moved | (both.apart != "")].drop(columns="moved")
    if len(shown):
        lines += ["", shown.to_string(index=False)]
    if all((place / results.LEDGER).exists() for place in (a, b)):
        remedy = "`featint ledger` writes it"
        rows = [store.read_json(place / results.LEDGER, remedy) for place in (a, b)]
        ours, theirs = ({row["id"]: row["verdict"] for row in ledger} for ledger in rows)
        differ = [f"{x}: A {v}, B {theirs[x]}" for x, v in ours.items() if theirs.get(x, v) != v]
        lines += ["", f"{len(differ)} of {len(ours)} verdicts differ.", *differ]
    lines.append("")
    for run, other in ("AB", "BA"):
        if len(whole := chapters[run].difference(chapters[other])):
            lines += [f"Chapters only in {run}: {', '.join(whole)}"]
        alone = runs[run].index.difference(runs[other].index).drop(whole, level="chapter")
        for chapter, ids in alone.to_frame(index=False).groupby("chapter")["id"]:
            lines.append(f"Only in {run}, {chapter}: {', '.join(ids)}")
    return "\n".join(lines).strip()
