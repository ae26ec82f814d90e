"""Uncertainty of what the chapters report: cluster bootstrap, intervals over seeds, shares of two paths. Frames in, frames out.

Tokens of one article share its topic and its words, so they are not independent observations: articles are. Every interval here resamples
whole articles (Cameron, Gelbach & Miller 2008), and every comparison is paired by token. A mean, FVU, cross-entropy or KL is a ratio of
sums; a resampled article brings all of its sums along, so that one row of sums per article is all a bootstrap needs.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import pingouin
import statsmodels.api as sm
from scipy import stats

LEVEL = 0.95
CHUNK = 200  # draws made at once, so that memory does not grow with the number of draws


class Estimate(NamedTuple):
    """A number with its 95 % interval."""

    value: float | None
    """None where it is undefined; `reason` says why."""
    lo: float | None
    """Lower end; None where `n` is too small for an interval."""
    hi: float | None
    n: int
    """Independent units behind the interval: articles, seeds or features."""
    reason: str = ""
    """Why the value or its interval is missing."""


def require(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise a ValueError unless the frame has rows, and these columns hold finite numbers."""
    if missing := [c for c in columns if c not in frame.columns]:
        raise ValueError(
            f"column {missing[0]!r} is missing; there are: {', '.join(map(repr, frame.columns))}"
        )
    if frame.empty:
        raise ValueError("the frame has no rows: there is nothing to estimate from")
    for column in columns:
        if (bad := ~np.isfinite(frame[column].to_numpy(dtype=float))).any():
            row = frame.index[bad.argmax()]
            raise ValueError(
                f"{column} = {frame[column].iloc[bad.argmax()]!r} in row {row!r} is not finite ({bad.sum()} such rows)"
            )


def cluster_sums(frame: pd.DataFrame, columns: Sequence[str], cluster: str) -> pd.DataFrame:
    """One row per cluster: the sums of `columns`, and `rows`, the number of rows summed.

    Raises ValueError for a missing column, a value that is not finite (naming its row), or a row without cluster.
    """
    require(frame, columns)
    if frame[cluster].isna().any():
        raise ValueError(
            f"{cluster} is missing in row {frame.index[frame[cluster].isna().argmax()]!r}: every row needs its cluster"
        )
    groups = frame.groupby(cluster, sort=True)
    return groups[list(columns)].sum().assign(rows=groups.size())


def pair(
    frame: pd.DataFrame, unit: str | Sequence[str], condition: str, value: str
) -> pd.DataFrame:
    """Long to wide: one row per unit, e.g. ["article", "window", "position"], and one column of `value` per condition.

    Raises ValueError if a unit misses a condition or has it twice, since the comparison would no longer be paired.
    """
    require(frame, [value])
    units = [unit] if isinstance(unit, str) else list(unit)
    if (twice := frame.duplicated([*units, condition])).any():
        raise ValueError(
            f"row {frame.index[twice.argmax()]!r} repeats a {condition} of the same {units}"
        )
    wide = frame.set_index([*units, condition])[value].unstack(condition)
    if wide.isna().to_numpy().any():
        row, column = np.argwhere(wide.isna().to_numpy())[0]
        raise ValueError(
            f"{condition} {wide.columns[column]!r} is missing for {units} = {wide.index[row]!r}: paired tests need it everywhere"
        )
    return wide.reset_index().rename_axis(columns=None)


def bootstrap(
    sums: pd.DataFrame,
    statistic: Callable[[pd.DataFrame], Mapping[str, object]],
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Percentile cluster bootstrap of any functions of totals.

    `sums`: one row per cluster, as from `cluster_sums`. `statistic` gets a frame of totals, one row per draw and the columns of `sums`, and
    returns named columns of the same length: `lambda t: {"fvu": t.sse / t.sst, "cut": 1 - t.kl_joint / t.kl_sae}`. All share their draws.

    Returns a frame indexed by name with `value` (on the data), `lo`, `hi` (95 %) and `n` (clusters). With a single cluster the interval is
    missing (None). Raises ValueError if a statistic is not finite, on the data or in a draw.
    """
    require(sums, list(sums.columns))
    n, rng = len(sums), np.random.default_rng(seed)
    columns = sums.to_numpy(dtype=float)
    resampled = [  # how often a draw holds each cluster, times the clusters' sums: the totals of that draw
        rng.multinomial(n, np.full(n, 1 / n), size=min(CHUNK, draws - start)) @ columns
        for start in range(0, draws, CHUNK)
    ]
    totals = pd.DataFrame(
        np.concatenate([columns.sum(0, keepdims=True), *resampled]), columns=sums.columns
    )
    with np.errstate(divide="ignore", invalid="ignore"):  # reported below by name instead
        results = pd.DataFrame(statistic(totals))
    for name in results:
        if bad := int((~np.isfinite(results[name])).sum()):
            raise ValueError(
                f"{name!r} is not finite in {bad} of {draws + 1} draws from {n} clusters: its denominator is 0 in too many of them"
            )
    ends = (
        results.iloc[1:].quantile([(1 - LEVEL) / 2, (1 + LEVEL) / 2]).to_numpy()
        if n > 1
        else [None, None]
    )
    return pd.DataFrame({"value": results.iloc[0], "lo": ends[0], "hi": ends[1], "n": n})


def cluster_ratio(
    frame: pd.DataFrame, num: str, den: str, cluster: str, draws: int = 2000, seed: int = 0
) -> Estimate:
    """Sum of `num` over sum of `den`, clusters resampled; e.g. FVU from each token's squared error and squared distance from the mean."""
    table = bootstrap(
        cluster_sums(frame, [num, den], cluster), lambda t: {"ratio": t[num] / t[den]}, draws, seed
    )
    return Estimate(*table.loc["ratio"])


def interval_over_seeds(values: Iterable[float]) -> Estimate:
    """Mean over seeds with Student's t interval; no interval from one seed. Raises ValueError for no or non-finite values."""
    frame = pd.DataFrame({"value": list(values)})
    require(frame, ["value"])
    mean = float(frame.value.mean())
    if len(frame) == 1:
        return Estimate(mean, None, None, 1, "one seed has no spread")
    half = stats.t.ppf((1 + LEVEL) / 2, len(frame) - 1) * stats.sem(
        frame.value
    )  # scipy's own interval warns where seeds agree
    return Estimate(mean, float(mean - half), float(mean + half), len(frame))


def naive_and_clustered(frame: pd.DataFrame, a: str, b: str, cluster: str) -> pd.DataFrame:
    """Three t tests of mean(a) - mean(b), one token per row, that differ in what they take for an independent observation.

    Two samples of tokens (the published choice), paired tokens, and paired tokens in clusters (cluster-robust variance, df = clusters - 1).
    Columns: test, n, difference, t, df, p, lo, hi. Only the last is valid; the box in the book shows what the first would have claimed.
    """
    require(frame, [a, b])
    clusters = pd.factorize(frame[cluster])
    if (n := len(clusters[1])) < 2:
        raise ValueError(f"{cluster} has {n} value: a clustered test needs at least 2")
    robust = sm.OLS(frame[a] - frame[b], np.ones(len(frame))).fit(
        cov_type="cluster", cov_kwds={"groups": clusters[0]}, use_t=True
    )
    unpaired, paired = stats.ttest_ind(frame[a], frame[b]), stats.ttest_rel(frame[a], frame[b])
    rows = [
        (
            "tokens, two samples",
            2 * len(frame),
            unpaired.statistic,
            unpaired.df,
            unpaired.pvalue,
            *unpaired.confidence_interval(LEVEL),
        ),
        (
            "tokens, paired",
            len(frame),
            paired.statistic,
            paired.df,
            paired.pvalue,
            *paired.confidence_interval(LEVEL),
        ),
        (
            "tokens, paired, clustered",
            n,
            robust.tvalues.iloc[0],
            n - 1,
            robust.pvalues.iloc[0],
            *robust.conf_int(1 - LEVEL).to_numpy()[0],
        ),
    ]
    table = pd.DataFrame(rows, columns=["test", "n", "t", "df", "p", "lo", "hi"])
    table.insert(2, "difference", frame[a].mean() - frame[b].mean())
    return table


def path_shares(none, linear, interaction, both) -> dict:
    """Each path's share of the joint gain `none - both`, as it is added alone, last, or averaged over both orders (Shapley).

    Arguments are losses (FVU, KL, CE): numbers, or columns of draws, so that it can be the statistic of `bootstrap`. Shares of one kind add
    up to 1 only for Shapley; alone and last differ by what the paths do only together, or can both do.
    """
    gain = none - both
    alone = {"linear": (none - linear) / gain, "interaction": (none - interaction) / gain}
    last = {"linear": (interaction - both) / gain, "interaction": (linear - both) / gain}
    shapley = {path: (alone[path] + last[path]) / 2 for path in alone}
    kinds = {"alone": alone, "last": last, "shapley": shapley}
    return {f"{path}_{kind}": shares[path] for kind, shares in kinds.items() for path in shares}


def partial_spearman(frame: pd.DataFrame, x: str, y: str, given: str) -> Estimate:
    """Rank correlation of x and y with `given` held fixed (e.g. norm and selectivity given the firing rate); Fisher's interval.

    Where it is undefined (a constant column, too few rows, a `given` that orders all rows as x or y does) the value is None, with the reason.
    """
    require(frame, [x, y, given])
    n = len(frame)
    if constant := [c for c in (x, y, given) if frame[c].nunique() < 2]:
        return Estimate(None, None, None, n, f"{constant[0]} is constant")
    if n < 6:
        return Estimate(None, None, None, n, f"{n} rows are too few, at least 6 are needed")
    ranks = frame[[x, y, given]].rank().corr()
    if same := [c for c in (x, y) if abs(ranks.loc[c, given]) > 1 - 1e-12]:
        return Estimate(None, None, None, n, f"{given} orders the rows as {same[0]} does")
    r = float(pingouin.partial_corr(frame, x=x, y=y, covar=given, method="spearman")["r"].iloc[0])
    if abs(r) > 1 - 1e-12:
        return Estimate(r, r, r, n)
    # one degree of freedom goes to the covariate; pingouin's own interval is rounded to two decimals
    lo, hi = pingouin.compute_esci(
        stat=r, nx=n - 1, ny=n - 1, eftype="r", confidence=LEVEL, decimals=12
    )
    return Estimate(r, float(lo), float(hi), n)
