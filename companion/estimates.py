"""One shape for every number with an interval: a tidy frame, one row per estimate.

What was measured (`quantity`), on which `model`, against which `baseline`, by which `part`, under
which `protocol`; then `value`, the ends `lo` and `hi` of its 95 % interval, `n` and what one is
`of` (articles, seeds, features), and the `unit`. A baseline or part that there is none of is "".

Tokens of one article share its topic and its words, so they are not independent observations:
articles are. Every interval over text here resamples whole articles (Cameron, Gelbach & Miller
2008). A mean, FVU, cross-entropy or KL is a ratio of sums; a resampled article brings all of its
sums along, so that one row of sums per article is all a bootstrap needs.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import pingouin
from scipy import stats

NAMES = ["model", "quantity", "baseline", "part", "protocol"]
"""What tells one estimate from another."""
COLUMNS = [*NAMES, "value", "lo", "hi", "n", "of", "unit"]
PROTOCOLS = ("as published", "controlled", "setting")
LEVEL = 0.95
CHUNK = 200  # draws made at once, so that memory does not grow with the number of draws


def tidy(rows: pd.DataFrame | Sequence[Mapping], **same) -> pd.DataFrame:
    """Rows with some of `COLUMNS`, the same for all where given by name, as a frame with all.

    Raises ValueError for an unknown column or protocol, a value that is not finite (None where
    there is nothing to report), a value outside its interval, or two rows of the same names.
    """
    if not isinstance(rows, pd.DataFrame):
        rows = pd.DataFrame(list(rows), dtype=object)  # else pandas makes None a NaN
    frame = rows.assign(**same)
    if unknown := set(frame) - set(COLUMNS):
        raise ValueError(
            f"column {sorted(unknown)[0]!r} is not known; there are {', '.join(COLUMNS)}"
        )
    defaults = dict.fromkeys(COLUMNS, "") | {
        "lo": None,
        "hi": None,
        "n": None,
        "protocol": "controlled",
    }
    frame = frame.assign(**{c: defaults[c] for c in COLUMNS if c not in frame})[COLUMNS]
    frame = frame.reset_index(drop=True).astype(dict.fromkeys(("value", "lo", "hi"), object))
    for column in set(defaults) - {"value"}:
        frame[column] = frame[column].where(frame[column].notna(), defaults[column])
    for row in frame.itertuples():
        where = identifier(row)
        if row.protocol not in PROTOCOLS:
            raise ValueError(f"{where}: protocol = {row.protocol!r}; allowed: {PROTOCOLS}")
        numbers = [x for x in (row.value, row.lo, row.hi) if isinstance(x, float | np.floating)]
        if not np.isfinite(numbers).all():
            raise ValueError(f"{where}: {numbers} must be finite, or None where there is nothing")
        if row.lo is not None and not row.lo <= row.value <= row.hi:
            raise ValueError(f"{where}: {row.value} lies outside its interval {row.lo, row.hi}")
    if (twice := frame.duplicated(NAMES)).any():
        raise ValueError(f"two estimates are called {identifier(frame[twice].iloc[0])}")
    return frame


def identifier(row) -> str:
    """What names a row in a results file: `joint/gain_vs_sae/controlled`, `sae/fvu/all/controlled`,
    and without protocol, since they have none, `setting/k`."""
    against = f"_vs_{row.baseline}" if row.baseline else ""
    protocol = "" if row.protocol == "setting" else row.protocol
    parts = [row.model, f"{row.quantity}{against}", row.part, protocol]
    return "/".join(part for part in parts if part).replace(" ", "_")


def bootstrap(
    sums: pd.DataFrame,
    statistic: Callable[[pd.DataFrame], Mapping],
    draws: int = 2000,
    seed: int = 0,
    names: str | Sequence[str] = "model",
    of: str = "articles",
    **same,
) -> pd.DataFrame:
    """Percentile cluster bootstrap of functions of totals; a tidy frame.

    `sums` has one row per cluster. `statistic` gets a frame of totals, one row per draw and the
    columns of `sums`, and returns columns of the same length by key: `lambda t: {"sae": t.sse /
    t.sst}`. A key, or each part of a tuple, fills the columns `names`; `same` fills others. Calls
    with as many clusters and the same seed share their draws, so that they are paired.

    With a single cluster there is no interval. Raises ValueError if a sum or a statistic is not
    finite, on the data or in a draw.
    """
    require(sums)
    n, rng = len(sums), np.random.default_rng(seed)
    columns = sums.to_numpy(dtype=float)
    resampled = [  # how often a draw holds each cluster, times the clusters' sums
        rng.multinomial(n, np.full(n, 1 / n), size=min(CHUNK, draws - start)) @ columns
        for start in range(0, draws, CHUNK)
    ]
    observed = columns.sum(0, keepdims=True)
    totals = pd.DataFrame(np.concatenate([observed, *resampled]), columns=sums.columns)
    rows = []
    with np.errstate(divide="ignore", invalid="ignore"):  # reported below by name instead
        found = {key: np.asarray(column, float) for key, column in statistic(totals).items()}
    for key, column in found.items():
        if bad := int((~np.isfinite(column)).sum()):
            raise ValueError(
                f"{key!r} is not finite in {bad} of {draws + 1} draws from {n} clusters: "
                "its denominator is 0 in too many of them"
            )
        ends = np.quantile(column[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if n > 1 else [None] * 2
        named = {names: key} if isinstance(names, str) else dict(zip(names, key, strict=True))
        rows.append(named | {"value": column[0], "lo": ends[0], "hi": ends[1]})
    return tidy(rows, n=n, of=of, **same)


def gains(
    errors: pd.DataFrame, pairs: Sequence[tuple[str, str]], draws=2000, **same
) -> pd.DataFrame:
    r"""How much of the baseline's error a model removes, per cent, for pairs (model, baseline).

    .. math::

        \text{gain} = 100 \left(1 -
        \frac{\sum_a E_{\text{model}, a}}{\sum_a E_{\text{baseline}, a}}\right)

    `errors` has one row per article a and one column per model: sums over the article's tokens of a
    squared error, a KL or a rise in cross-entropy. Positive where the model is better; articles
    are drawn anew for both at once.
    """

    def statistic(total: pd.DataFrame) -> dict:
        return {(a, b): 100 * (1 - total[a] / total[b]) for a, b in pairs}

    same = {"quantity": "gain", "unit": "%"} | same
    return bootstrap(errors, statistic, draws, names=("model", "baseline"), **same)


def ratios(errors: pd.DataFrame, size: pd.Series, draws=2000, scale=1.0, **same) -> pd.DataFrame:
    """Each column's total over that of `size`: FVU from squared errors and squared distances from
    the mean, a mean from sums and numbers of tokens; times `scale`."""

    def statistic(total: pd.DataFrame) -> dict:
        return {key: scale * total[i] / total["size"] for i, key in enumerate(errors)}

    sums = errors.set_axis(range(errors.shape[1]), axis=1).assign(size=size)
    return bootstrap(sums, statistic, draws, **same)


def path_shares(none, linear, interaction, both) -> dict[tuple[str, str], object]:
    """Each path's share of the joint gain `none - both`, as it is added alone, last, or averaged
    over both orders (Shapley), by (path, kind).

    Arguments are losses (squared error, KL, CE): numbers, or columns of draws. Shares of one kind
    add up to 1 only for Shapley; alone and last differ by what the paths do only together.
    """
    gain = none - both
    alone = {"linear": (none - linear) / gain, "interaction": (none - interaction) / gain}
    last = {"linear": (interaction - both) / gain, "interaction": (linear - both) / gain}
    shapley = {path: (alone[path] + last[path]) / 2 for path in alone}
    kinds = {"alone": alone, "last": last, "shapley": shapley}
    return {(path, kind): shares[path] for kind, shares in kinds.items() for path in shares}


def over_seeds(by_seed: pd.DataFrame, of: str = "seeds", **same) -> pd.DataFrame:
    """Mean of each column over its rows, one per seed, with Student's t interval; a tidy frame.

    One seed has no spread and gets no interval. Raises ValueError for values that are not finite.
    """
    require(by_seed)
    n, mean = len(by_seed), by_seed.mean()
    half = stats.t.ppf((1 + LEVEL) / 2, n - 1) * by_seed.sem() if n > 1 else None
    rows = [
        dict(zip(by_seed.columns.names, key if isinstance(key, tuple) else (key,), strict=True))
        | {"value": float(mean[key])}
        | ({} if half is None else {"lo": mean[key] - half[key], "hi": mean[key] + half[key]})
        for key in by_seed
    ]
    return tidy(rows, n=n, of=of, **same)


def jackknife(
    statistic: Callable[[np.ndarray], Mapping],
    blocks: int,
    names: str | Sequence[str] = "part",
    **same,
) -> pd.DataFrame:
    """Numbers that are not functions of sums, with Student's t intervals from leaving out one of
    so many blocks at a time (Tukey 1958); a tidy frame.

    `statistic` gets a mask (blocks,) of those to use, and returns numbers by key; a key, or each
    part of a tuple, fills the columns `names`. Raises ValueError for fewer than two blocks.
    """
    if blocks < 2:
        raise ValueError(f"blocks = {blocks}: at least 2 are needed, to leave one out")
    whole = pd.Series(statistic(np.ones(blocks, dtype=bool)))
    without = pd.DataFrame([statistic(np.arange(blocks) != block) for block in range(blocks)])
    error = np.sqrt((blocks - 1) / blocks * ((without - without.mean()) ** 2).sum())
    half = stats.t.ppf((1 + LEVEL) / 2, blocks - 1) * error
    rows = [
        ({names: key} if isinstance(names, str) else dict(zip(names, key, strict=True)))
        | {"value": whole[key], "lo": whole[key] - half[key], "hi": whole[key] + half[key]}
        for key in whole.index
    ]
    return tidy(rows, **{"n": blocks, "of": "blocks"} | same)


def spearman(frame: pd.DataFrame, x: str, y: str, given: str | None = None, **same) -> pd.DataFrame:
    """Rank correlation of two columns with Fisher's interval, over the rows that lack neither; with
    `given`, that column's ranks are held fixed. A tidy frame of one row.

    Where it is undefined (fewer than 6 rows, a constant column, a `given` that orders the rows as x
    or y does) the value is None and the unit says why.
    """
    columns = [x, y] if given is None else [x, y, given]
    known = frame[columns].dropna().astype(float)
    ranks, n, reason = known.rank().corr(), len(known), ""
    if n < 6:
        reason = f"{n} rows are too few, at least 6 are needed"
    elif constant := [c for c in columns if known[c].nunique() < 2]:
        reason = f"{constant[0]} is constant"
    elif given and (alike := [c for c in (x, y) if abs(ranks.loc[c, given]) > 1 - 1e-12]):
        reason = f"{given} orders the rows as {alike[0]} does"
    same = {"quantity": "correlation", "n": n} | same
    if reason:
        return tidy([{"value": None}], **same | {"unit": reason})
    r = ranks.loc[x, y]
    if given:
        r = pingouin.partial_corr(known, x, y, given, method="spearman")["r"].iloc[0]
    fixed = n - len(columns) + 2  # a degree of freedom goes to the covariate
    lo, hi = (
        (r, r)
        if abs(r) > 1 - 1e-12
        else pingouin.compute_esci(stat=r, nx=fixed, ny=fixed, eftype="r", decimals=12)
    )
    return tidy([{"value": r, "lo": lo, "hi": hi}], **{"unit": "Spearman r"} | same)


def require(frame: pd.DataFrame) -> None:
    """Raise a ValueError unless the frame has rows and holds finite numbers only."""
    if frame.empty:
        raise ValueError("the frame has no rows: there is nothing to estimate from")
    bad = ~np.isfinite(frame.to_numpy(dtype=float))
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise ValueError(
            f"{frame.columns[column]} = {frame.iloc[row, column]!r} in row {frame.index[row]!r} "
            f"is not finite ({bad.any(axis=1).sum()} such rows)"
        )


def pick(frame: pd.DataFrame, **names) -> pd.Series:
    """The one row with these names. Raises ValueError if there is none, or several."""
    rows = frame
    for column, value in names.items():
        rows = rows[rows[column] == value]
    if len(rows) != 1:
        raise ValueError(f"{len(rows)} estimates have {names}; it takes one")
    return rows.iloc[0]


def number(x, spec: str | None = None) -> str:
    """A number for readers: four significant digits, from 1000 on whole, from 100,000 on with
    commas, unless `spec` says otherwise; a true minus, a dash where there is none; lists joined."""
    if isinstance(x, list | tuple):
        return ", ".join(number(y, spec) for y in x)
    if x is None or x is pd.NA or x != x:
        return "–"
    if isinstance(x, str):
        return x
    if spec is None:
        spec = ".4g" if abs(x) < 1000 else ",.0f" if abs(x) >= 100_000 else ".0f"
    return format(x, spec).replace("-", "−").replace("%", " %")


def interval(value, lo, hi, spec: str | None = None) -> str:
    """A value with its interval, if it has one: `0.312 [0.305, 0.320]`."""
    known = "" if lo is None or lo != lo else f" [{number(lo, spec)}, {number(hi, spec)}]"
    return number(value, spec) + known


def sentence(row) -> str:
    """An estimate in words: `26.1 % (95 % interval 25 to 27, n = 1505 articles)`."""
    known = [] if row.lo is None else [f"95 % interval {number(row.lo)} to {number(row.hi)}"]
    if row.n is not None:
        known.append(f"n = {number(row.n)} {row.of.removesuffix('s') if row.n == 1 else row.of}")
    return f"{number(row.value)} {row.unit}".strip() + (f" ({', '.join(known)})" if known else "")
