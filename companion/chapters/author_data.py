"""The tables that the paper's author released and later removed: fetched, found, checked.

They are not ours to pass on. What follows from them, `data/results/author/`, depends on no profile.
"""

import tomllib
import urllib.request
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import pandas as pd

from companion import designs, estimates, places
from companion.chapters.interactions import FACTORS
from featint import store

KIND, RESULTS = "author_tables", SimpleNamespace(label=places.AUTHOR)
"""The tables' name in the store, and what stands for a profile where their results lie."""
with open(places.DATA / "author_tables.toml", "rb") as _file:
    RELEASE = tomllib.load(_file)
REMEDY = "`featint author-data` without --from fetches the author's tables"
NAMES = {"clamp_value": "multiplier", "logit_difference": "value"}
LEVELS = {"low": "neutral", "high": "emotional"}


def fetch() -> Path:
    """The folder of the tables in the store, fetched from the author's public repository if need
    be. Raises StoreError if one cannot be had, or has another sha256 than is listed."""
    if store.exists(KIND, RELEASE):
        return store.path(KIND, RELEASE)
    with store.create(KIND, RELEASE) as folder:
        for path, sha256 in RELEASE["sha256"].items():
            file, address = folder / path.replace("/", "__"), f"{RELEASE['address']}/{path}"
            try:
                with urllib.request.urlopen(address, timeout=60) as answer:
                    file.write_bytes(answer.read())
            except OSError as e:
                where = "if you have the tables, name their folder by --from FOLDER"
                raise store.StoreError(f"{address} cannot be had ({e}); {where}") from e
            if store.sha256(file) != sha256:
                raise store.StoreError(f"{address} is not the table with the sha256 {sha256}")
    return store.path(KIND, RELEASE)


def read(folder: Path, kind: str) -> pd.DataFrame:
    """The tables of one kind in a folder, or in a checkout of the author's repository.

    `condition` is the feature that a file is on; names are those of `interventions.Site.shifts`.
    Raises StoreError, naming file and column, for one that is missing or of another shape.
    """
    pattern, numbers, labels = RELEASE["tables"][kind].values()
    frames = {}
    for file in sorted(folder.rglob("*.csv")):
        name = file.relative_to(folder).as_posix().replace("/", "__")
        if fnmatch(name, pattern):
            feature = name.rpartition("_features_")[2].removesuffix(".csv")
            try:
                frames[feature] = checked(pd.read_csv(file), numbers, labels)
            except (OSError, ValueError) as e:
                raise store.StoreError(f"{file}: {e}; {REMEDY}") from e
    if not frames:
        raise store.StoreError(f"{folder} holds no table {pattern}; {REMEDY}")
    found = pd.concat(frames, names=["condition"]).reset_index(level=0).reset_index(drop=True)
    if kind == "shifts":
        tested = read(folder, "anova").merge(found, "left", ["condition", "multiplier"])
        for row in tested[tested.value.isna()].itertuples():
            lacks = f"feature {row.condition} lacks clamp_value {row.multiplier:g}"
            raise store.StoreError(f"{folder}: {lacks}, for which there is an ANOVA; {REMEDY}")
    return found


def checked(frame: pd.DataFrame, numbers: list[str], labels: list[str]) -> pd.DataFrame:
    """A table in our names. Raises ValueError unless it has rows, these columns, finite numbers
    where there should be some, and, if it is on clamps, one row per clamp, prompt and word, of one
    baseline; the same row may stand twice."""
    if lacks := [column for column in (*numbers, *labels) if column not in frame]:
        raise ValueError(f"column {lacks[0]!r} is missing; there are {', '.join(frame)}")
    estimates.require(frame[numbers].apply(pd.to_numeric, errors="coerce"))
    ours = frame.rename(columns=NAMES).replace({"emotion": LEVELS})
    if "baseline_type" not in labels:
        return ours
    if len(kinds := ours.baseline_type.unique()) > 1:
        raise ValueError(f"column 'baseline_type' holds {', '.join(kinds)}; keep the rows of one")
    rows, keys = ours.drop_duplicates(), ["multiplier", "prompt", "word"]
    every = pd.MultiIndex.from_product([rows[key].unique() for key in keys])
    counts = rows.value_counts(keys).reindex(every, fill_value=0)
    for (clamp, prompt, word), n in counts[counts != 1].items():
        which = f"clamp_value {clamp:g}, prompt {prompt!r}, word {word!r}"
        raise ValueError(f"{which} has {n} rows, not one")
    designs.crossed(rows[rows.multiplier == rows.multiplier.iloc[0]], FACTORS)
    return ours
