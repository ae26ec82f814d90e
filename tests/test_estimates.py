"""Estimates against arithmetic by hand, scipy and the printed tables of Student's t.

What leaving out one of three articles gives, x, y, z with the mean m, makes an interval of +- t(2)
sqrt(2/3 ((x - m)^2 + (y - m)^2 + (z - m)^2)), and t(2) is 4.302653.
"""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats as st

from companion import estimates

ERRORS = pd.DataFrame(  # squared errors of three articles
    {"sae": [4.0, 6.0, 10.0], "joint": [1.0, 5.0, 9.0], "twin": [2.0, 3.0, 5.0]},
    index=["x", "y", "z"],
)


def told(row):
    return row.value, row.lo, row.hi


def half(*without):
    """Half an interval from what leaving out one of three articles gives."""
    mean = sum(without) / 3
    return 4.302653 * math.sqrt(2 / 3 * sum((x - mean) ** 2 for x in without))


def test_a_gain_by_hand():
    """Joint 1 + 5 + 9 = 15 of the SAE's 20 are left: a quarter is gone. Without x 14 of 16 are left,
    without y 10 of 14, without z 6 of 10."""
    frame = estimates.gains(ERRORS, [("joint", "sae"), ("sae", "joint")])
    row = estimates.pick(frame, model="joint", baseline="sae", quantity="gain")
    wide = 100 * half(14 / 16, 10 / 14, 6 / 10)
    assert told(row) == pytest.approx((25, 25 - wide, 25 + wide), rel=1e-6)
    assert (row.n, row.of, row.unit, row.protocol) == (3, "articles", "%", "controlled")
    assert estimates.identifier(row) == "joint/gain_vs_sae/controlled"
    worse = estimates.pick(frame, model="sae")  # 20 of 15: a third more
    wide = 100 * half(16 / 14, 14 / 10, 10 / 6)
    assert told(worse) == pytest.approx((-100 / 3, -100 / 3 - wide, -100 / 3 + wide), rel=1e-6)


def test_a_gain_is_paired_by_article():
    """The twin has half of the SAE's error in every article: no width at all."""
    row = estimates.gains(ERRORS, [("twin", "sae")], part="all", protocol="as published").iloc[0]
    assert told(row) == pytest.approx((50, 50, 50))
    assert estimates.identifier(row) == "twin/gain_vs_sae/all/as_published"


def test_a_ratio_by_hand():
    """20 / (8 + 4 + 8) = 1; without x, y, z 16 / 12, 14 / 16, 10 / 12."""
    size = pd.Series([8.0, 4.0, 8.0], index=ERRORS.index)
    frame = estimates.ratios(ERRORS[["sae", "twin"]], size, quantity="fvu", unit="fraction")
    wide = half(16 / 12, 14 / 16, 10 / 12)
    sae = (1, 1 - wide, 1 + wide)
    assert told(estimates.pick(frame, model="sae")) == pytest.approx(sae, rel=1e-6)
    twin = tuple(x / 2 for x in sae)
    assert told(estimates.pick(frame, model="twin")) == pytest.approx(twin, rel=1e-6)
    assert frame["unit"].eq("fraction").all() and frame["n"].eq(3).all()
    scaled = estimates.ratios(ERRORS[["sae"]], size, scale=100, quantity="fvu")
    assert told(scaled.iloc[0]) == pytest.approx(tuple(100 * x for x in sae), rel=1e-6)


def test_column_levels_become_names():
    columns = pd.MultiIndex.from_tuples([("sae", "all"), ("joint", "own_path")])
    sums = ERRORS[["sae", "joint"]].set_axis(columns, axis=1)
    frame = estimates.ratios(sums, ERRORS["twin"], names=("model", "part"), quantity="fvu")
    row = estimates.pick(frame, model="joint", part="own_path")
    wide = half(14 / 8, 10 / 7, 6 / 5)  # 15 / 10; without x, y, z
    assert told(row) == pytest.approx((1.5, 1.5 - wide, 1.5 + wide), rel=1e-6)
    assert estimates.identifier(row) == "joint/fvu/own_path/controlled"


def test_over_many_articles_it_is_scipys_bootstrap():
    rng = np.random.default_rng(1)
    sums = pd.DataFrame({"sse": rng.gamma(3, 1, 200), "sst": rng.gamma(9, 1, 200)})
    ours = estimates.ratios(sums[["sse"]], sums["sst"], quantity="fvu").iloc[0]
    theirs = st.bootstrap(
        (sums.sse, sums.sst),
        lambda a, b, axis: a.sum(axis) / b.sum(axis),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        rng=rng,
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.value == pytest.approx(sums.sse.sum() / sums.sst.sum(), rel=1e-14)
    assert ours.lo == pytest.approx(theirs.low, abs=0.03 * width)
    assert ours.hi == pytest.approx(theirs.high, abs=0.03 * width)
    assert ours.n == 200


def test_an_interval_over_tokens_as_if_they_were_independent_is_far_too_narrow():
    n, rng = 400, np.random.default_rng(0)
    article = np.repeat(np.arange(100), rng.integers(5, 40, 100))
    kl = 2 + 0.5 * rng.normal(size=(100, n))[article] + 0.5 * rng.normal(size=(len(article), n))
    sums = pd.DataFrame(kl).add_prefix("sample ").groupby(article).sum()
    found = estimates.ratios(sums, pd.Series(np.bincount(article)))
    clustered = ((found["lo"] <= 2) & (found["hi"] >= 2)).sum()
    naive = (np.abs(kl.mean(0) - 2) < 1.96 * kl.std(0, ddof=1) / np.sqrt(len(kl))).sum()
    assert st.binom(n, 0.95).ppf(0.005) <= clustered <= st.binom(n, 0.95).ppf(0.995)
    assert naive < 0.6 * n


def by_seed(*seeds, article="xyz"):
    """Sums of three articles from seeds 7, 8, ..."""
    frames = [pd.DataFrame(seed, index=list(article)) for seed in seeds]
    return pd.concat(dict(enumerate(frames, 7)), names=["seed", "article"])


def test_articles_and_seeds_by_hand():
    """Three articles by two seeds: means 0, 4, 8 of the articles, 3, 5 of the seeds; what is left is
    1, -1 / -1, 1 / 0, 0. Over articles 16 / 3, over seeds 2 / 2, in both 4 / 2 / 6 = 1/3: the variance
    is 6, its df 6^2 / ((16/3)^2 / 2 + 1 + (1/3)^2 / 2) = 2.35636. Here an article has ten tokens,
    and every mean is 1000 higher."""
    sums = by_seed({"kl": [0.0, 2, 7]}, {"kl": [0.0, 6, 9]}) * 10 + 10_000
    size = pd.Series(10, sums.index)
    (row,) = estimates.ratios(sums.iloc[::-1], size, quantity="kl", unit="nats").itertuples()
    wide = st.t.ppf(0.975, 2.35636) * math.sqrt(6)
    assert told(row) == pytest.approx((1004, 1004 - wide, 1004 + wide), rel=1e-7)
    assert (row.n, row.of) == (3, "articles x 2 seeds")
    assert estimates.sentence(row).endswith("n = 3 articles x 2 seeds)")


def test_one_seed_is_an_interval_over_articles():
    sums = ERRORS.set_axis(pd.MultiIndex.from_product([[3], ERRORS.index]))
    pairs = [("joint", "sae")]
    assert estimates.gains(sums, pairs).equals(estimates.gains(ERRORS, pairs))


def test_seeds_that_differ_decide_however_many_articles_there_are():
    """Gains of 10, 20 and 30 % in every article: Student's t over three seeds; and if all seeds gain
    the same in an article, its interval is that of one seed."""
    errors = {"sae": np.arange(1.0, 41)}
    seeds = [pd.DataFrame(errors | {"joint": errors["sae"] * x}) for x in (0.9, 0.8, 0.7)]
    row = estimates.gains(pd.concat(seeds, keys=[0, 1, 2]), [("joint", "sae")]).iloc[0]
    wide = 4.302653 * 10 / math.sqrt(3)
    assert told(row) == pytest.approx((20, 20 - wide, 20 + wide), rel=1e-6)
    assert row.of == "articles x 3 seeds"
    alike = pd.concat([ERRORS] * 5, keys=range(5))
    assert told(estimates.gains(alike, [("joint", "sae")]).iloc[0]) == pytest.approx(
        told(estimates.gains(ERRORS, [("joint", "sae")]).iloc[0]), rel=1e-6
    )


def test_the_statistic_sees_each_total_once():
    """The data, then each article left out, each seed, and each article of each seed; then each
    seed alone, and without one of its articles."""
    seen = []
    sums = by_seed({"sae": [1, 2, 4]}, {"sae": [8, 16, 32]})
    estimates.of_totals(sums, lambda t: seen.append(t["sae"].tolist()) or {"a": t["sae"]})
    estimates.of_totals(sums.xs(7), lambda t: seen.append(t["sae"].tolist()) or {"a": t["sae"]})
    left_out = [0, 9, 18, 36, 7, 56, 1, 2, 4, 8, 16, 32]
    alone = [7, 6, 5, 3], [56, 48, 40, 24]
    assert seen == [[63 - x for x in left_out], *alone, alone[0]]


def test_a_model_that_lacks_a_seed_or_an_article_is_named():
    few = by_seed({"sae": [4.0, 6, 10], "joint": [1.0, 5, 9]}, {"sae": [4.0, 7, 10]})
    with pytest.raises(ValueError, match="joint lacks 3 of 3 articles from seed 8"):
        estimates.gains(few, [("joint", "sae")])
    with pytest.raises(ValueError, match="sae lacks 1 of 3 articles from seed 7"):
        estimates.gains(few[["sae"]].iloc[1:], [("sae", "sae")])
    with pytest.raises(ValueError, match="sae = .*inf.* in row .*is not finite"):
        estimates.gains(by_seed({"sae": [1, 1, np.inf]}, {"sae": [1, 1, 1]}), [("sae", "sae")])
    with pytest.raises(ValueError, match="no rows"):
        estimates.gains(few.iloc[:0], [("joint", "sae")])


@pytest.mark.parametrize("undefined", [lambda a: np.log(0 * a), lambda a: np.sqrt(-a)])
def test_what_numpy_would_warn_of_is_an_error_by_name(undefined):
    with pytest.raises(ValueError, match="'sae' is not finite in 4 of 4 totals"):
        estimates.of_totals(ERRORS, lambda total: {"sae": undefined(total["sae"].to_numpy())})


def test_one_article_has_no_interval():
    row = estimates.gains(ERRORS.iloc[:1], [("joint", "sae")]).iloc[0]
    assert told(row) == (75, None, None) and row.n == 1
    row = estimates.gains(by_seed(*[{"a": [2.0], "b": [4.0]}] * 2, article="x"), [("a", "b")]).iloc[
        0
    ]
    assert told(row) == (50, None, None) and (row.n, row.of) == (1, "articles x 2 seeds")
    two = estimates.gains(ERRORS.iloc[:2], [("joint", "sae")]).iloc[0]
    wide = 12.7062 * 100 * abs(1 / 4 - 5 / 6) / 2  # t(1); y alone 5 of 6, x alone 1 of 4
    assert told(two) == pytest.approx((40, 40 - wide, 40 + wide), rel=1e-5) and two.n == 2


@pytest.mark.parametrize(
    ("errors", "message"),
    [
        (ERRORS.assign(joint=[1.0, np.nan, 2.0]), "joint = .*nan.* in row 'y' is not finite"),
        (ERRORS.astype(object).replace(5.0, None), "joint = None in row 'y' is not finite"),
        (ERRORS.iloc[:0], "no rows"),
        (ERRORS.assign(sae=0.0), r"\('joint', 'sae'\) is not finite in 4 of 4 totals"),
    ],
)
def test_what_cannot_be_estimated_is_named(errors, message):
    with pytest.raises(ValueError, match=message):
        estimates.gains(errors, [("joint", "sae")])


def test_over_seeds_by_hand():
    """Mean +- t(0.975, 2) sd / sqrt(3), with t(0.975, 2) = 4.302653 from the printed tables."""
    by_seed = pd.DataFrame({"sae": [1.0, 2.0, 3.0], "joint": [4.0, 4.0, 4.0]})
    frame = estimates.over_seeds(by_seed.rename_axis(columns="model"), quantity="fvu", unit="%")
    sae, joint = frame.itertuples()
    half = 4.302653 / np.sqrt(3)
    assert told(sae) == pytest.approx((2, 2 - half, 2 + half), rel=1e-6)
    assert told(joint) == (4, 4, 4)
    two = estimates.over_seeds(by_seed[:2].rename_axis(columns="model")).iloc[0]
    half_of_two = 12.7062 * 0.5  # t(0.975, 1) from the tables; 1 and 2 have sd / sqrt(2) = 0.5
    assert told(two) == pytest.approx((1.5, 1.5 - half_of_two, 1.5 + half_of_two), rel=1e-5)
    assert (sae.model, sae.n, sae.of, sae.unit) == ("sae", 3, "seeds", "%")
    pairs = pd.MultiIndex.from_tuples([("joint", "sae")], names=["model", "baseline"])
    one = estimates.over_seeds(pd.DataFrame([[0.5]], columns=pairs), quantity="gain").iloc[0]
    assert told(one) == (0.5, None, None) and (one.baseline, one.n) == ("sae", 1)
    assert one.each_seed is None and sae.each_seed == [[x, None, None] for x in (1, 2, 3)]
    with pytest.raises(ValueError, match="nan"):
        estimates.over_seeds(by_seed.assign(sae=[1.0, np.nan, 2.0]).rename_axis(columns="model"))


def test_what_each_seed_gives_alone_stands_beside_what_all_give():
    seeds = {3: ERRORS, 1: ERRORS.assign(joint=ERRORS["joint"] * [1.1, 0.9, 1.2])}
    pairs = [("joint", "sae"), ("sae", "joint")]
    frame = estimates.gains(pd.concat(seeds), pairs)
    for i, alone in enumerate(estimates.gains(sums, pairs) for sums in seeds.values()):
        assert [row[i] for row in frame.each_seed] == alone[estimates.NUMBERS].values.tolist()
    assert estimates.gains(ERRORS, pairs).each_seed.tolist() == [None, None]
    halved = estimates.scaled(frame, 0.5, unit="x")
    assert halved.value.tolist() == [x / 2 for x in frame.value]
    assert halved.each_seed[1][0] == [x / 2 for x in frame.each_seed[1][0]]
    assert set(halved.unit) == {"x"} and halved.n.tolist() == frame.n.tolist()


def test_jackknife_of_a_mean_by_hand():
    """1, 2, 6: leaving one out gives 4, 3.5, 1.5; 2/3 of their squared deviations from 3, 1 + 1/4 +
    9/4, is 7/3, the squared standard error of the mean; t(2) is 4.3027."""
    values = np.array([1.0, 2.0, 6.0])
    found = estimates.jackknife(lambda kept: {"low": values[kept].mean()}, 3, quantity="mean")
    row = found.iloc[0]
    half = 4.302653 * math.sqrt(7 / 3)
    assert (row.value, row.lo, row.hi) == pytest.approx((3, 3 - half, 3 + half), rel=1e-6)
    assert (row.part, row.n, row.of) == ("low", 3, "blocks")
    two = estimates.jackknife(
        lambda kept: {("a", "x"): kept.sum(), ("b", "y"): 1}, 3, ["model", "part"], n=7, of="units"
    )
    assert two[["model", "part", "value", "n"]].values.tolist() == [
        ["a", "x", 3, 7],
        ["b", "y", 1, 7],
    ]
    pair = estimates.jackknife(lambda kept: {"low": values[:2][kept].mean()}, 2).iloc[0]
    assert told(pair) == pytest.approx((1.5, 1.5 - 12.7062 * 0.5, 1.5 + 12.7062 * 0.5), rel=1e-5)
    with pytest.raises(ValueError, match="blocks = 1: at least 2"):
        estimates.jackknife(lambda kept: {"low": 0.0}, 1)


RANKS = pd.DataFrame({"z": range(1, 7), "x": [2, 1, 4, 3, 6, 5], "y": [1, 3, 2, 5, 4, 6]})
"""By 1 - 6 sum d^2 / (6 * 35): r(x, z) = 29/35, r(y, z) = 31/35, r(x, y) = 17/35."""


def fisher(r, n):
    """The interval tanh(artanh r +- 1.96 sqrt((1 + r^2 / 2) / (n - 3)))."""
    middle, half = math.log((1 + r) / (1 - r)) / 2, 1.959964 * math.sqrt((1 + r * r / 2) / (n - 3))
    return r, math.tanh(middle - half), math.tanh(middle + half)


def test_rank_correlation_by_hand():
    squares = RANKS.assign(x=RANKS.x**2.0)  # ranks stay
    squares.loc[6] = [7, math.nan, 7]  # a row that lacks one takes no part
    row = estimates.spearman(squares, "x", "y", model="joint", of="features").iloc[0]
    assert (row.value, row.lo, row.hi) == pytest.approx(fisher(17 / 35, 6), abs=1e-6)
    assert (row.model, row.quantity, row.n, row.of) == ("joint", "correlation", 6, "features")
    assert row.unit == "Spearman r"
    same = estimates.spearman(RANKS.assign(y=2 * RANKS.x), "x", "y").iloc[0]
    assert (same.value, same.lo, same.hi) == (1, 1, 1)
    halves = estimates.spearman(RANKS.assign(y=[1, 1, 1, 2, 2, 2]), "x", "y").iloc[0]
    # y's ranks are 2 and 5, 1.5 from their mean; x's are 2 + 1 + 4 = 7 and 3 + 6 + 5 = 14 there
    assert halves.value == pytest.approx(1.5 * (14 - 7) / math.sqrt(17.5 * 6 * 1.5**2))


def test_partial_rank_correlation_by_hand():
    """(17/35 - 29/35 * 31/35) / sqrt((1 - 29^2/35^2) (1 - 31^2/35^2)) = -304 / sqrt(384 * 264); the
    interval is that of one row less."""
    row = estimates.spearman(RANKS**3, "x", "y", given="z").iloc[0]  # ranks stay
    expected = fisher(-304 / math.sqrt(384 * 264), 5)
    assert (row.value, row.lo, row.hi) == pytest.approx(expected, abs=1e-6)
    assert row.n == 6


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (RANKS[:5], "5 rows are too few, at least 6 are needed"),
        (RANKS.assign(y=1), "y is constant"),
        (RANKS.assign(z=1), "z is constant"),
        (RANKS.assign(z=-RANKS.x), "z orders the rows as x does"),
        (RANKS.assign(z=RANKS.y), "z orders the rows as y does"),
    ],
)
def test_an_undefined_correlation_gives_a_reason(frame, reason):
    row = estimates.spearman(frame, "x", "y", given="z").iloc[0]
    assert (row.value, row.lo, row.hi, row.unit) == (None, None, None, reason)


def test_path_shares_by_hand():
    """Gain 10 in all; linear alone 8, interaction alone 4, so 2 overlap: last they have 6 and 2."""
    shares = estimates.path_shares(none=10.0, linear=2.0, interaction=6.0, both=0.0)
    assert shares == pytest.approx(
        {
            ("linear", "alone"): 0.8,
            ("interaction", "alone"): 0.4,
            ("linear", "last"): 0.6,
            ("interaction", "last"): 0.2,
            ("linear", "shapley"): 0.7,
            ("interaction", "shapley"): 0.3,
        }
    )


def test_path_shares_of_the_paper():
    """50.9, 8.6 and 51.9 % of the KL removed: alone the interactions have 8.6 / 51.9 = 16.6 %,
    last 1.0 / 51.9 = 1.9 %, Shapley 9.2 %."""
    shares = estimates.path_shares(1, 1 - 0.509, 1 - 0.086, 1 - 0.519)
    assert shares["interaction", "alone"] == pytest.approx(0.1657, abs=1e-4)
    assert shares["interaction", "last"] == pytest.approx(0.0193, abs=1e-4)
    assert shares["interaction", "shapley"] == pytest.approx(0.0925, abs=1e-4)
    assert shares["linear", "last"] == pytest.approx(0.8343, abs=1e-4)  # 43.3 / 51.9


def test_tidy_fills_in_what_is_not_there():
    frame = estimates.tidy([{"model": "sae", "quantity": "fvu", "value": 1}], n=3, of="seeds")
    assert list(frame) == estimates.COLUMNS
    assert frame.iloc[0].tolist() == [
        "sae",
        "fvu",
        "",
        "",
        "controlled",
        1,
        None,
        None,
        3,
        "seeds",
        "",
        None,
    ]


def test_nothing_to_report_stays_nothing_beside_numbers():
    known = {"model": "sae", "quantity": "fvu", "value": 1.0, "lo": 0.5, "hi": 1.5}
    frame = estimates.tidy([known, {"model": "joint", "quantity": "fvu", "value": None}])
    assert frame[["value", "lo", "hi"]].values.tolist() == [[1.0, 0.5, 1.5], [None] * 3]
    lacking = pd.DataFrame([known, known | {"model": "twin", "lo": np.nan, "hi": np.nan}])
    assert told(estimates.tidy(lacking).iloc[1]) == (1.0, None, None)


def test_a_setting_has_no_protocol_in_its_name():
    row = {"model": "setting", "quantity": "batch tokens", "value": 4, "protocol": "setting"}
    assert estimates.identifier(estimates.tidy([row]).iloc[0]) == "setting/batch_tokens"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": 1}, "column 'mean' is not known"),
        ({"protocol": "guess"}, "sae/fvu/guess: protocol = 'guess'; allowed"),
        ({"value": float("nan")}, "must be finite"),
        ({"lo": 0.0, "hi": float("inf")}, "must be finite"),
        ({"lo": 0.6, "hi": 0.7}, r"sae/fvu/controlled: 0.5 lies outside its interval \(0.6, 0.7\)"),
        ({"lo": 0.3, "hi": 0.4}, "lies outside its interval"),
    ],
)
def test_an_estimate_that_cannot_be_is_refused(change, message):
    row = {"model": "sae", "quantity": "fvu", "value": 0.5, "n": 3}
    estimates.tidy([row])
    with pytest.raises(ValueError, match=message):
        estimates.tidy([row | change])
    with pytest.raises(ValueError, match="two estimates are called sae/fvu/controlled"):
        estimates.tidy([row, row | {"value": 0.6}])


def test_pick_takes_one():
    frame = estimates.tidy([{"model": m, "quantity": "fvu", "value": 1.0} for m in ("a", "b")])
    assert estimates.pick(frame, model="b", quantity="fvu").model == "b"
    for names in ({"quantity": "fvu"}, {"model": "c"}):
        with pytest.raises(ValueError, match="[02] estimates have .*; it takes one"):
            estimates.pick(frame, **names)


@pytest.mark.parametrize(
    ("x", "spec", "text"),
    [
        (0.123456, None, "0.1235"),
        (-1234.5, None, "−1234"),
        (123456.7, None, "123,457"),
        (100_000, None, "100,000"),
        (99_999, None, "99999"),
        ([0.5, 1], ".2f", "0.50, 1.00"),
        (0.355, ".1%", "35.5 %"),
        (-0.00004234, None, "−4.234 × 10⁻⁵"),
        (1.3e-12, ".2e", "1.30 × 10⁻¹²"),
        (0.0042, ".2g", "0.0042"),
        (None, None, "–"),
        (float("nan"), None, "–"),
        ([1.0, -4], None, "1, −4"),
        ("none", None, "none"),
    ],
)
def test_a_number_for_readers(x, spec, text):
    assert estimates.number(x, spec) == text


def test_an_estimate_in_words():
    row = {"model": "sae", "quantity": "gain", "value": 26.1, "lo": 25.0, "hi": 27.0, "unit": "%"}
    (many,) = estimates.tidy([row], n=1505, of="articles").itertuples()
    assert estimates.sentence(many) == "26.1 % (95 % interval 25 to 27, n = 1505 articles)"
    (one,) = estimates.tidy(
        [row | {"lo": None, "hi": None, "unit": ""}], n=1, of="seeds"
    ).itertuples()
    assert estimates.sentence(one) == "26.1 (n = 1 seed)"
    (bare,) = estimates.tidy([{"model": "sae", "quantity": "k", "value": 64}]).itertuples()
    assert estimates.sentence(bare) == "64"
    assert estimates.interval(0.3, 0.2, 0.4, ".2f") == "0.30 [0.20, 0.40]"
    assert estimates.interval(0.3, None, None) == "0.3"


def test_captions_say_what_an_interval_holds():
    sums = pd.DataFrame({"a": [1.0, 2, 4, 3, 1, 5], "b": [2.0, 3, 5, 5, 2, 6]})
    index = pd.MultiIndex.from_product([(0, 1), list("xyz")])
    one, two = (estimates.gains(x, [("a", "b")]) for x in (sums, sums.set_axis(index)))
    assert estimates.held(two) == "3 articles x 2 seeds"
    assert estimates.held(one) == ("6 articles, one seed: what another would change is not in them")
    assert estimates.held(one.assign(n=1234)).startswith("1,234 articles, ")
