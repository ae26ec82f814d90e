"""One shape for every number with an interval: a tidy frame, one row per estimate.

What was measured (`quantity`), on which `model`, against which `baseline`, by which `part`, under
which `protocol`; then `value`, the ends `lo` and `hi` of its 95 % interval, `n` and what one is
`of` (articles, seeds, features), and the `unit`. A baseline or part that there is none of is "".
Where several seeds stand behind it, `each_seed` holds value and ends that each gives alone.

Tokens of one article share its topic and its words, so they are not independent observations:
articles are. Nor are all articles together, if one training made what is measured on them: another
seed gives another model. A mean, FVU, cross-entropy or KL is a ratio of sums, so that one row of
sums per article, or per seed and article, is all that an interval needs. `benchmarks/coverage.py`
simulates how often the intervals hold the truth.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import pingouin
from scipy import stats

NAMES = ["model", "quantity", "baseline", "part", "protocol"]
"""What tells one estimate from another."""
NUMBERS = ["value", "lo", "hi"]
COLUMNS = [*NAMES, *NUMBERS, "n", "of", "unit", "each_seed"]
DEFAULTS = pd.Series("", COLUMNS, object)
"""Of what is not said."""
DEFAULTS[[*NUMBERS, "n", "each_seed", "protocol"]] = [*[None] * 5, "controlled"]
PROTOCOLS = ("as published", "controlled", "setting")


def tidy(rows: pd.DataFrame | Sequence[Mapping], **same) -> pd.DataFrame:
    """Rows with some of `COLUMNS`, the same for all where given by name, as a frame with all.

    Raises ValueError for an unknown column or protocol, a value that is not finite (None where
    there is nothing to report), a value outside its interval, or two rows of the same names.
    """
    if not isinstance(rows, pd.DataFrame):
        rows = pd.DataFrame(list(rows), dtype=object)  # else pandas makes None a NaN
    frame = rows.assign(**same).reset_index(drop=True).astype(object)
    if unknown := set(frame) - set(COLUMNS):
        raise ValueError(f"column {min(unknown)!r} is not known; there are {', '.join(COLUMNS)}")
    frame = frame.reindex(columns=COLUMNS)
    frame = frame.where(frame.notna() | (frame.columns == "value"), DEFAULTS, axis=1)
    for row in frame.itertuples():
        where = identifier(row)
        if row.protocol not in PROTOCOLS:
            raise ValueError(f"{where}: protocol = {row.protocol!r}; allowed: {PROTOCOLS}")
        words = [getattr(row, name) for name in (*NAMES, "of", "unit")]
        if not all(isinstance(word, str) for word in words):
            raise ValueError(f"{where}: {words} must be words")
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


def of_totals(
    sums: pd.DataFrame,
    statistic: Callable[[pd.DataFrame], Mapping],
    names: str | Sequence[str] = "model",
    **same,
) -> pd.DataFrame:
    """Functions of totals, with Student's t intervals from leaving out one article, or seed, at a
    time (Tukey 1958); a tidy frame.

    `sums` has a row per article, or per seed and article: two index levels in this order.
    `statistic` gets a frame of totals, each row for itself, with the columns of `sums`, and returns
    columns of the same length by key: `lambda t: {"sae": t.sse / t.sst}`. A key, or each part of a
    tuple, fills the columns `names`; `same` fills others.

    From one seed the interval holds what other articles would change; from several, what other
    seeds would change too (`both_random`), and `of` says so. A single article has no interval.
    Raises ValueError if a column lacks a seed or an article, or if a sum or a statistic, with or
    without one of them, is not finite.
    """
    cells = by_seed(sums)
    s, a, width = cells.shape
    of = "articles" if s == 1 else f"articles x {s} seeds"
    left_out = [np.zeros((1, width)), cells.sum(0), cells.sum(1), cells.reshape(-1, width)]
    left_out = left_out[: 1 if a == 1 else 2 if s == 1 else 4]
    totals = pd.DataFrame(cells.sum((0, 1)) - np.concatenate(left_out), columns=sums.columns)
    with np.errstate(divide="ignore", invalid="ignore"):  # reported below by name instead
        found = pd.DataFrame(statistic(totals), dtype=float)
    for key, column in found.items():
        if bad := int((~np.isfinite(column)).sum()):
            where = f"in {bad} of {len(found)} totals, with all of {a} {of} or without one"
            raise ValueError(f"{key!r} is not finite {where}: its denominator is 0 there")
    same = {"n": a, "of": of} | same
    value, found = found.iloc[0].rename_axis(names), found[1:]
    if a == 1:
        return tidy(value.rename("value").reset_index(), **same)
    variance, df = tukey(found[:a]), a - 1
    if s > 1:
        each = found[a + s :].to_numpy().reshape(s, a, -1)
        rest = each - each.mean(0) - each.mean(1, keepdims=True) + each.mean((0, 1))
        dfs = s - 1, a - 1, (s - 1) * (a - 1)
        of_rest = (s * a - 1) ** 2 / (s * a) * (rest**2).sum((0, 1)) / dfs[2]
        parts = zip(tukey(found[a : a + s]), variance, of_rest, strict=True)
        variance, df = np.array([both_random(v, dfs) for v in parts]).T
    frame = student(value, np.sqrt(np.asarray(variance)), df, **same)
    if s > 1:
        seeds = [of_one for _, of_one in sums.groupby(level=0, sort=False)]
        alone = [of_totals(of_one, statistic, names)[NUMBERS] for of_one in seeds]
        frame["each_seed"] = np.stack(alone, axis=1).tolist()
    return frame


def by_seed(sums: pd.DataFrame) -> np.ndarray:
    """Sums by article, or by seed and article, as an array (seeds, articles, columns). Raises
    ValueError if a column lacks a seed or an article, or for what is not finite."""
    if sums.index.nlevels == 1 or sums.empty:
        require(sums)
        return sums.to_numpy(dtype=float)[None]
    seeds, articles = sums.index.unique(0), sums.index.unique(1)
    grid = sums.reindex(pd.MultiIndex.from_product([seeds, articles]))
    lacks = grid.isna().groupby(level=0, sort=False).sum()
    if lacks.any(axis=None):
        row, column = np.argwhere(lacks.to_numpy())[0]
        lost = f"{lacks.iloc[row, column]} of {len(articles)} articles from seed {seeds[row]}"
        remedy = "what is compared takes the same seeds and the same articles"
        raise ValueError(f"{sums.columns[column]} lacks {lost}: {remedy}")
    require(grid)
    return grid.to_numpy(dtype=float).reshape(len(seeds), len(articles), -1)


def both_random(v: tuple[float, ...], df: tuple[float, ...]) -> tuple[float, float]:
    """Variance and Satterthwaite's degrees of freedom of a mean over two crossed kinds of random
    units (articles and seeds, prompts and words), from the variances and df over the first, over
    the second, and of the residual that both contain."""
    first, second, residual = v
    if min(first, second) > residual:
        variance = first + second - residual
        return variance, variance**2 / sum(x**2 / d for x, d in zip(v, df, strict=True))
    return max(zip(v, df, strict=True))  # one source adds nothing to the noise of the other


def tukey(without: pd.DataFrame) -> pd.Series:
    """The jackknife's variance of each column, whose rows leave out one unit each."""
    return (len(without) - 1) ** 2 / len(without) * without.var()


def gains(errors: pd.DataFrame, pairs: Sequence[tuple[str, str]], **same) -> pd.DataFrame:
    r"""How much of the baseline's error a model removes, per cent, for pairs (model, baseline).

    .. math::

        \text{gain} = 100 \left(1 -
        \frac{\sum_{s,a} E_{\text{model}, s, a}}{\sum_{s,a} E_{\text{baseline}, s, a}}\right)

    `errors` has one row per article a, or per seed s and article, as in `of_totals`, and one column
    per model: sums over the article's tokens of a squared error, a KL or a rise in cross-entropy.
    Positive where the model is better; what is left out is left out of both at once.
    """
    return of_totals(
        errors,
        lambda total: {(a, b): 100 * (1 - total[a] / total[b]) for a, b in pairs},
        names=("model", "baseline"),
        **{"quantity": "gain", "unit": "%"} | same,
    )


def ratios(errors: pd.DataFrame, size: pd.Series, scale=1.0, **same) -> pd.DataFrame:
    """Each column's total over that of `size`: FVU from squared errors and squared distances from
    the mean, a mean from sums and numbers of tokens; times `scale`. Rows as in `of_totals`."""
    sums = errors.set_axis(range(errors.shape[1]), axis=1).assign(size=size)
    return of_totals(
        sums,
        lambda total: {key: scale * total[i] / total["size"] for i, key in enumerate(errors)},
        **same,
    )


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


def over_seeds(by_seed: pd.DataFrame, **same) -> pd.DataFrame:
    """Mean of each column over its rows, one per seed, with Student's t interval; a tidy frame.

    One seed has no spread and gets no interval. Raises ValueError for values that are not finite.
    """
    require(by_seed)
    n = len(by_seed)
    frame = student(by_seed.mean(), by_seed.sem(), n - 1, **{"n": n, "of": "seeds"} | same)
    if n > 1:
        frame["each_seed"] = [[[x, None, None] for x in by_seed[column]] for column in by_seed]
    return frame


def scaled(frame: pd.DataFrame, factor: float, **same) -> pd.DataFrame:
    """Estimates in another unit: their numbers times a factor above 0, other columns anew."""

    def times(x):
        return [times(y) for y in x] if isinstance(x, list) else None if x is None else factor * x

    numbers = {column: frame[column].map(times) for column in (*NUMBERS, "each_seed")}
    return frame.assign(**numbers, **same)


def student(value: pd.Series, error, df, **same) -> pd.DataFrame:
    """Values with Student's t intervals from their standard errors, none where there is no error;
    a tidy frame whose columns the levels of the index fill."""
    half = stats.t.isf(0.025, df) * error
    frame = pd.DataFrame({"value": value, "lo": value - half, "hi": value + half})
    return tidy(frame.reset_index(), **same)


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
    every = [statistic(np.arange(blocks) != block) for block in range(-1, blocks)]
    whole, *without = (pd.Series(found).rename_axis(names) for found in every)
    error = tukey(pd.DataFrame(without)) ** 0.5
    return student(whole, error, blocks - 1, **{"n": blocks, "of": "blocks"} | same)


def spearman(frame: pd.DataFrame, x: str, y: str, given: str | None = None, **same) -> pd.DataFrame:
    """Rank correlation of two columns with an interval on Fisher's scale, as wide as ranks need it
    (Bonett & Wright 2000), over the rows that lack neither; with `given`, that column's ranks are
    held fixed. A tidy frame of one row.

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
    same = {"quantity": "correlation", "n": n, "unit": "Spearman r"} | same
    if reason:
        return tidy([{"value": None}], **same | {"unit": reason})
    r = ranks.loc[x, y]
    if given:
        r = pingouin.partial_corr(known, x, y, given, method="spearman")["r"].iloc[0]
    lo = hi = r
    if abs(r) < 1 - 1e-12:
        pairs = n - len(columns) + 2  # a degree of freedom goes to the covariate
        half = stats.norm.isf(0.025) * np.sqrt((1 + r**2 / 2) / (pairs - 3))
        lo, hi = np.tanh(np.arctanh(r) + [-half, half])
    return tidy([{"value": r, "lo": lo, "hi": hi}], **same)


def require(frame: pd.DataFrame) -> None:
    """Raise a ValueError unless the frame has rows and holds finite numbers only."""
    if frame.empty:
        raise ValueError("the frame has no rows: there is nothing to estimate from")
    bad = ~np.isfinite(frame.to_numpy(dtype=float))
    if bad.any():
        row, column = np.argwhere(bad)[0]
        value = f"{frame.columns[column]} = {frame.iloc[row, column]!r}"
        rows = f"({bad.any(axis=1).sum()} such rows)"
        raise ValueError(f"{value} in row {frame.index[row]!r} is not finite {rows}")


def pick(frame: pd.DataFrame, **names) -> pd.Series:
    """The one row with these names. Raises ValueError if there is none, or several."""
    rows = frame[(frame[list(names)] == list(names.values())).all(axis=1)]
    if len(rows) != 1:
        raise ValueError(f"{len(rows)} estimates have {names}; it takes one")
    return rows.iloc[0]


def number(x, spec: str | None = None) -> str:
    """A number for readers: four significant digits, from 1000 on whole, from 100,000 on with
    commas unless `spec` says otherwise; 4.2 × 10⁻⁵, a true minus, a dash for none; lists joined."""
    if isinstance(x, list | tuple):
        return ", ".join(number(y, spec) for y in x)
    if pd.isna(x):
        return "–"
    if isinstance(x, str):
        return x
    spec = spec or (".4g" if abs(x) < 1000 else ",.0f" if abs(x) >= 100_000 else ".0f")
    text, _, power = format(x, spec).partition("e")
    if power:
        text += " × 10" + str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return text.replace("-", "−").replace("%", " %")


def interval(value, lo, hi, spec: str | None = None) -> str:
    """A value with its interval, if it has one: `0.312 [0.305, 0.320]`."""
    known = "" if pd.isna(lo) else f" [{number(lo, spec)}, {number(hi, spec)}]"
    return number(value, spec) + known


def sentence(row) -> str:
    """An estimate in words: `26.1 % (95 % interval 25 to 27, n = 1505 articles)`."""
    known = [] if row.lo is None else [f"95 % interval {number(row.lo)} to {number(row.hi)}"]
    if row.n is not None:
        known.append(f"n = {number(row.n)} {row.of.removesuffix('s') if row.n == 1 else row.of}")
    return f"{number(row.value)} {row.unit}".strip() + (f" ({', '.join(known)})" if known else "")


def held(frame: pd.DataFrame) -> str:
    """What the intervals of estimates of one kind hold, for captions: `985 articles x 5 seeds`."""
    n, of = frame[["n", "of"]].iloc[0]
    alone = "" if "seeds" in of else ", one seed: what another would change is not in them"
    return f"{n:,} {of}{alone}"
