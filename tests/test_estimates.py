"""Estimates against arithmetic by hand, scipy and the printed tables of Student's t.

With three articles an interval can be written down: a draw is one article three times over with
probability 1/27, which is more than 2.5 %, so the ends are the least and the greatest article's own.
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


def test_a_gain_by_hand():
    """Joint 1 + 5 + 9 = 15 of the SAE's 20 are left: a quarter is gone. Article x alone: 3 of 4, z: 1 of 10."""
    frame = estimates.gains(ERRORS, [("joint", "sae"), ("sae", "joint")])
    row = estimates.pick(frame, model="joint", baseline="sae", quantity="gain")
    assert told(row) == pytest.approx((25, 10, 75))
    assert (row.n, row.of, row.unit, row.protocol) == (3, "articles", "%", "controlled")
    assert estimates.identifier(row) == "joint/gain_vs_sae/controlled"
    worse = estimates.pick(frame, model="sae")  # 20 of 15: a third more; x: 4 of 1; z: 10 of 9
    assert told(worse) == pytest.approx((-100 / 3, -300, -100 / 9))


def test_a_gain_is_paired_by_article():
    """The twin has half of the SAE's error in every article, so in every draw: no width at all."""
    row = estimates.gains(ERRORS, [("twin", "sae")], part="all", protocol="as published").iloc[0]
    assert told(row) == pytest.approx((50, 50, 50))
    assert estimates.identifier(row) == "twin/gain_vs_sae/all/as_published"


def test_a_ratio_by_hand():
    """20 / (8 + 4 + 8) = 1, and by article 4 / 8, 6 / 4, 10 / 8."""
    size = pd.Series([8.0, 4.0, 8.0], index=ERRORS.index)
    frame = estimates.ratios(ERRORS[["sae", "twin"]], size, quantity="fvu", unit="fraction")
    assert told(estimates.pick(frame, model="sae")) == pytest.approx((1, 0.5, 1.5))
    assert told(estimates.pick(frame, model="twin")) == pytest.approx((0.5, 0.25, 0.75))
    assert frame["unit"].eq("fraction").all() and frame["n"].eq(3).all()
    scaled = estimates.ratios(ERRORS[["sae"]], size, scale=100, quantity="fvu")
    assert told(scaled.iloc[0]) == pytest.approx((100, 50, 150))


def test_column_levels_become_names():
    columns = pd.MultiIndex.from_tuples([("sae", "all"), ("joint", "own_path")])
    sums = ERRORS[["sae", "joint"]].set_axis(columns, axis=1)
    frame = estimates.ratios(sums, ERRORS["twin"], names=("model", "part"), quantity="fvu")
    row = estimates.pick(frame, model="joint", part="own_path")
    assert told(row) == pytest.approx((1.5, 0.5, 1.8))  # 15 / 10; 1 / 2, 5 / 3, 9 / 5
    assert estimates.identifier(row) == "joint/fvu/own_path/controlled"


def test_the_bootstrap_agrees_with_scipys():
    rng = np.random.default_rng(1)
    sums = pd.DataFrame({"sse": rng.gamma(3, 1, 200), "sst": rng.gamma(9, 1, 200)})
    ours = estimates.ratios(sums[["sse"]], sums["sst"], 20_000, quantity="fvu").iloc[0]
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


def test_intervals_cover_as_often_as_they_say():
    """Means over 100 articles of unequal length, true value 2, 400 times; the band is the binomial
    99 % interval around 0.93 to 0.95, as percentile intervals undercover slightly. An interval that
    takes tokens for independent covers far less often."""
    n, rng = 400, np.random.default_rng(0)
    article = np.repeat(np.arange(100), rng.integers(5, 40, 100))
    kl = 2 + 0.5 * rng.normal(size=(100, n))[article] + 0.5 * rng.normal(size=(len(article), n))
    sums = pd.DataFrame(kl).add_prefix("sample ").groupby(article).sum()
    found = estimates.ratios(sums, pd.Series(np.bincount(article)))
    clustered = ((found["lo"] <= 2) & (found["hi"] >= 2)).sum()
    naive = (np.abs(kl.mean(0) - 2) < 1.96 * kl.std(0, ddof=1) / np.sqrt(len(kl))).sum()
    assert st.binom(n, 0.93).ppf(0.005) <= clustered <= st.binom(n, 0.95).ppf(0.995)
    assert naive < 0.6 * n


def test_calls_share_their_draws_and_the_data_come_first():
    seen = []

    def statistic(total):
        seen.append(total)
        return {"sae": total["sae"]}

    one = estimates.bootstrap(ERRORS, statistic, draws=450, quantity="sum")
    two = estimates.bootstrap(ERRORS[["sae"]], statistic, draws=450, quantity="sum")
    other = estimates.bootstrap(ERRORS.iloc[[0, 1, 2, 2]], statistic, draws=450, quantity="sum")
    assert one.equals(two) and len(seen[0]) == 451 and seen[0]["sae"].iloc[0] == 20
    assert seen[0]["sae"].equals(seen[1]["sae"]) and not seen[0]["sae"].equals(seen[2]["sae"])
    assert other["value"].tolist() == [30] and other["n"].tolist() == [4]


def test_the_ends_are_quantiles_of_the_draws_alone():
    """40 draws of 30 articles; the first row, the data themselves, takes no part."""
    many = pd.DataFrame({"sae": np.random.default_rng(0).gamma(2, size=30)})
    totals = []
    row = estimates.bootstrap(many, lambda t: totals.append(t) or {"sae": t["sae"]}, 40).iloc[0]
    drawn = totals[0]["sae"].to_numpy()[1:]
    assert len(drawn) == 40
    assert (row.lo, row.hi) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), rel=1e-12)


def test_two_thousand_draws_unless_another_number_is_asked_for():
    many = pd.DataFrame(np.random.default_rng(0).gamma(2, size=(60, 2)), columns=["a", "b"])
    gain, ratio = estimates.gains(many, [("a", "b")]), estimates.ratios(many[["a"]], many["b"])
    assert gain.equals(estimates.gains(many, [("a", "b")], 2000))
    assert ratio.equals(estimates.ratios(many[["a"]], many["b"], 2000))
    assert estimates.ratios(many[["a"]], many["b"], 90).lo[0] == pytest.approx(
        1 - estimates.gains(many, [("a", "b")], 90).hi[0] / 100
    )
    lengths = []
    estimates.bootstrap(many, lambda total: lengths.append(len(total)) or {"a": total["a"]})
    assert lengths == [2001]


@pytest.mark.parametrize("undefined", [lambda a: np.log(0 * a), lambda a: np.sqrt(-a)])
def test_what_numpy_would_warn_of_is_an_error_by_name(undefined):
    with pytest.raises(ValueError, match="'sae' is not finite in 11 of 11 draws"):
        estimates.bootstrap(ERRORS, lambda total: {"sae": undefined(total["sae"].to_numpy())}, 10)


def test_one_article_has_no_interval():
    row = estimates.gains(ERRORS.iloc[:1], [("joint", "sae")]).iloc[0]
    assert told(row) == (75, None, None) and row.n == 1
    two = estimates.gains(ERRORS.iloc[:2], [("joint", "sae")]).iloc[0]  # x alone 3 of 4, y 1 of 6
    assert told(two) == pytest.approx((40, 100 / 6, 75)) and two.n == 2


@pytest.mark.parametrize(
    ("errors", "message"),
    [
        (ERRORS.assign(joint=[1.0, np.nan, 2.0]), "joint = .*nan.* in row 'y' is not finite"),
        (ERRORS.astype(object).replace(5.0, None), "joint = None in row 'y' is not finite"),
        (ERRORS.iloc[:0], "no rows"),
        (ERRORS.assign(sae=0.0), r"\('joint', 'sae'\) is not finite in 11 of 11 draws"),
    ],
)
def test_what_cannot_be_estimated_is_named(errors, message):
    with pytest.raises(ValueError, match=message):
        estimates.gains(errors, [("joint", "sae")], 10)


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
    with pytest.raises(ValueError, match="nan"):
        estimates.over_seeds(by_seed.assign(sae=[1.0, np.nan, 2.0]).rename_axis(columns="model"))


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
    """The interval tanh(artanh r +- 1.96 / sqrt(n - 3))."""
    middle, half = math.log((1 + r) / (1 - r)) / 2, 1.959964 / math.sqrt(n - 3)
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
