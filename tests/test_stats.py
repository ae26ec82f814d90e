"""Bootstrap, intervals, clustered tests and shares against scipy, statsmodels, pingouin and arithmetic by hand."""

import numpy as np
import pandas as pd
import pingouin
import pytest
import statsmodels.formula.api as smf
from scipy import stats as st

from companion import stats


def tokens(n_articles=40, seed=0, effect=0.1, spread=0.3):
    """Paired tokens of articles of unequal length; articles differ in level and in effect."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(5, 40, n_articles)
    article = np.repeat(np.arange(n_articles), lengths)
    base = rng.gamma(2, 1, n_articles)[article] + rng.gamma(2, 0.3, len(article))
    change = (effect + spread * rng.normal(size=n_articles))[article] + 0.2 * rng.normal(
        size=len(article)
    )
    return pd.DataFrame({"article": article, "a": base + change, "b": base})


def test_bootstrap_agrees_with_scipy():
    """scipy.stats.bootstrap resamples single rows; with one row per cluster the two must agree up to Monte Carlo error."""
    rng = np.random.default_rng(1)
    sums = pd.DataFrame({"sse": rng.gamma(3, 1, 200), "sst": rng.gamma(9, 1, 200)})
    ours = stats.bootstrap(sums, lambda t: {"fvu": t.sse / t.sst}, draws=20_000, seed=0).loc["fvu"]
    theirs = st.bootstrap(
        (sums.sse, sums.sst),
        lambda a, b, axis: a.sum(axis) / b.sum(axis),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        rng=rng,
    )
    assert ours.value == pytest.approx(sums.sse.sum() / sums.sst.sum(), rel=1e-14)
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert ours.lo == pytest.approx(theirs.confidence_interval.low, abs=0.03 * width)
    assert ours.hi == pytest.approx(theirs.confidence_interval.high, abs=0.03 * width)
    assert ours.n == 200


def test_bootstrap_covers_as_often_as_it_says():
    """A ratio over 100 articles of unequal length holds its true value in 95 % of samples, and an interval over tokens does not.

    Percentile intervals undercover slightly in finite samples; the band is the binomial 99 % interval of 400 samples around 0.93 to 0.95.
    """
    true, clustered, naive, n_samples = 2.0, 0, 0, 400
    for seed in range(n_samples):
        rng = np.random.default_rng(seed)
        lengths = rng.integers(5, 40, 100)
        article = np.repeat(np.arange(100), lengths)
        kl = true + 0.5 * rng.normal(size=100)[article] + 0.5 * rng.normal(size=len(article))
        frame = pd.DataFrame({"article": article, "kl": kl, "one": 1.0})
        e = stats.cluster_ratio(frame, "kl", "one", "article", draws=400, seed=seed)
        clustered += e.lo <= true <= e.hi
        half = 1.96 * kl.std(ddof=1) / np.sqrt(len(kl))
        naive += abs(kl.mean() - true) < half
    low, high = st.binom(n_samples, 0.93).ppf(0.005), st.binom(n_samples, 0.95).ppf(0.995)
    assert low <= clustered <= high
    assert naive < 0.6 * n_samples


def test_statistics_share_their_draws_and_stay_paired():
    """b = 2 a token by token: the ratio is 2 in each draw, so its interval has no width."""
    frame = tokens().assign(b=lambda f: 2 * f.a)
    table = stats.bootstrap(
        stats.cluster_sums(frame, ["a", "b"], "article"),
        lambda t: {"ratio": t.b / t.a, "difference": (t.b - t.a) / t.rows, "mean": t.a / t.rows},
        draws=300,
    )
    assert table.loc["ratio", ["value", "lo", "hi"]].to_numpy(dtype=float) == pytest.approx(
        [2, 2, 2]
    )
    assert table.loc["difference", "lo"] == pytest.approx(table.loc["mean", "lo"])
    again = stats.bootstrap(
        stats.cluster_sums(frame, ["a", "b"], "article"),
        lambda t: {"mean": t.a / t.rows},
        draws=300,
    )
    assert again.loc["mean", "hi"] == table.loc["mean", "hi"]


def test_cluster_sums_by_hand():
    frame = pd.DataFrame({"article": ["x", "y", "x"], "sse": [1.0, 2.0, 4.0]})
    sums = stats.cluster_sums(frame, ["sse"], "article")
    assert sums.loc["x"].tolist() == [5, 2] and sums.loc["y"].tolist() == [2, 1]
    e = stats.cluster_ratio(frame.assign(n=1), "sse", "n", "article", draws=200)
    assert e.value == pytest.approx(7 / 3) and (e.lo, e.hi) == (2, 2.5)


def test_one_cluster_has_no_interval():
    e = stats.cluster_ratio(
        pd.DataFrame({"c": [1, 1], "a": [1.0, 2.0], "b": [2.0, 2.0]}), "a", "b", "c"
    )
    assert e[:4] == (0.75, None, None, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.assign(a=[1.0, np.nan, 2.0]), r"a = .*nan.* in row 1 is not finite"),
        (lambda f: f.assign(c=["x", None, "y"]), "c is missing in row 1"),
        (lambda f: f.drop(columns="b"), "column 'b' is missing"),
        (lambda f: f.iloc[:0], "no rows"),
        (lambda f: f.assign(b=0.0), "'ratio' is not finite in 11 of 11 draws"),
    ],
)
def test_bad_input_is_named(change, message):
    frame = pd.DataFrame({"c": ["x", "x", "y"], "a": [1.0, 3.0, 2.0], "b": [2.0, 2.0, 2.0]})
    with pytest.raises(ValueError, match=message):
        stats.cluster_ratio(change(frame), "a", "b", "c", draws=10)


def test_pair_needs_every_condition():
    long = pd.DataFrame(
        {"article": [0, 0, 1, 1], "condition": ["sae", "joint"] * 2, "kl": [3.0, 1.0, 4.0, 2.0]}
    )
    assert stats.pair(long, "article", "condition", "kl")[["sae", "joint"]].to_numpy().tolist() == [
        [3, 1],
        [4, 2],
    ]
    with pytest.raises(ValueError, match="'joint' is missing for .*1"):
        stats.pair(long.iloc[:3], "article", "condition", "kl")
    with pytest.raises(ValueError, match="row 4 repeats"):
        stats.pair(
            pd.concat([long, long.iloc[:1]], ignore_index=True), "article", "condition", "kl"
        )


def test_interval_over_seeds():
    """Student's t by hand: mean +- t(0.975, 2) sd / sqrt(3), with t(0.975, 2) = 4.302653 from the printed tables."""
    e = stats.interval_over_seeds([1.0, 2.0, 3.0])
    assert e.value == 2 and e.n == 3
    assert e.hi - e.value == pytest.approx(4.302653 / np.sqrt(3), rel=1e-6)
    assert stats.interval_over_seeds([0.5])[:4] == (0.5, None, None, 1)
    with pytest.raises(ValueError, match="nan"):
        stats.interval_over_seeds([1.0, float("nan")])


def test_naive_and_clustered():
    """The clustered row against a mixed model's and scipy's; the naive rows claim far more than 40 articles can support."""
    frame = tokens(effect=0.1)
    table = stats.naive_and_clustered(frame, "a", "b", "article").set_index("test")
    two, paired, clustered = (
        table.loc[t] for t in ("tokens, two samples", "tokens, paired", "tokens, paired, clustered")
    )
    assert two.t == pytest.approx(st.ttest_ind(frame.a, frame.b).statistic)
    assert paired.t == pytest.approx(st.ttest_rel(frame.a, frame.b).statistic)
    assert clustered.difference == pytest.approx((frame.a - frame.b).mean())
    # the cluster-robust variance of a mean, written out: G/(G-1) * sum over clusters of (sum of residuals)^2 / N^2, times (N-1)/(N-1)
    residual = (frame.a - frame.b) - clustered.difference
    g, n = 40, len(frame)
    se = np.sqrt(g / (g - 1) * (residual.groupby(frame.article).sum() ** 2).sum()) / n
    assert clustered.difference / clustered.t == pytest.approx(se, rel=1e-9)
    assert clustered.p == pytest.approx(2 * st.t(g - 1).sf(abs(clustered.t)))
    mixed = smf.mixedlm("d ~ 1", frame.assign(d=frame.a - frame.b), groups="article").fit()
    assert clustered.difference / clustered.t == pytest.approx(mixed.bse.iloc[0], rel=0.25)
    assert paired.p < clustered.p
    with pytest.raises(ValueError, match="at least 2"):
        stats.naive_and_clustered(frame.assign(article=0), "a", "b", "article")


def test_partial_spearman():
    """Against the residual definition: rank all three, regress both on the covariate's ranks, correlate what is left."""
    rng = np.random.default_rng(3)
    rate = rng.gamma(1, 1, 400)
    frame = pd.DataFrame(
        {
            "rate": rate,
            "s": rate + 0.3 * rng.normal(size=400),
            "selectivity": rate + 0.3 * rng.normal(size=400),
        }
    )
    e = stats.partial_spearman(frame, "s", "selectivity", "rate")
    ranks = frame.rank()
    left = [
        ranks[c] - np.polyval(np.polyfit(ranks.rate, ranks[c], 1), ranks.rate)
        for c in ("s", "selectivity")
    ]
    assert e.value == pytest.approx(np.corrcoef(left)[0, 1], abs=1e-9)
    assert st.spearmanr(frame.s, frame.selectivity).statistic > 0.7 and abs(e.value) < 0.3
    half = st.norm.ppf(0.975) / np.sqrt(400 - 1 - 3)  # Fisher: se = 1 / sqrt(n - covariates - 3)
    assert (e.lo, e.hi) == pytest.approx(
        (np.tanh(np.arctanh(e.value) - half), np.tanh(np.arctanh(e.value) + half)), abs=1e-9
    )
    reference = pingouin.partial_corr(frame, "s", "selectivity", "rate", method="spearman")
    assert e.lo == pytest.approx(reference["CI95"].iloc[0][0], abs=0.006)


def test_partial_spearman_gives_a_reason():
    frame = pd.DataFrame({"x": range(10), "y": [1.0] * 10, "z": range(10)})
    assert stats.partial_spearman(frame, "x", "y", "z")[::4] == (None, "y is constant")
    assert (
        stats.partial_spearman(frame.assign(y=[3, 1, 2, 5, 4, 9, 7, 8, 6, 0]), "x", "y", "z").reason
        == "z orders the rows as x does"
    )
    assert (
        "too few"
        in stats.partial_spearman(
            pd.DataFrame({"x": [1, 2], "y": [2, 1], "z": [1, 3]}), "x", "y", "z"
        ).reason
    )
