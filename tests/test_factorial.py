"""Repeated-measures ANOVA against a textbook, pingouin and statsmodels; false positives and power against what they should be."""

import numpy as np
import pandas as pd
import pingouin
import pytest
from scipy import stats as st
from statsmodels.stats.anova import AnovaRM

from companion import factorial, stats

FACTORS = {"formality": ("casual", "formal"), "emotion": ("neutral", "emotional")}
EFFECTS = ["formality", "emotion", "formality x emotion"]


def design(n_topics, seed=0):
    """All four cells of each topic, rows in random order."""
    rows = [
        (f"t{t:03}", a, b)
        for t in range(n_topics)
        for a in FACTORS["formality"]
        for b in FACTORS["emotion"]
    ]
    return pd.DataFrame(rows, columns=["topic", *FACTORS]).sample(
        frac=1, random_state=seed, ignore_index=True
    )


def simulate(frame, n_features, seed=0, interaction=0.0):
    """Topics differ in level and in both main effects; the interaction is planted, in units of its contrast."""
    rng = np.random.default_rng(seed)
    topic = pd.factorize(frame.topic)[0]
    n = topic.max() + 1
    a = np.where(frame.formality == "formal", 0.5, -0.5)[:, None]
    b = np.where(frame.emotion == "emotional", 0.5, -0.5)[:, None]
    level, slope_a, slope_b = rng.normal(size=(3, n, n_features))[:, topic]
    return pd.DataFrame(
        level
        + a * slope_a
        + b * (0.7 + slope_b)
        + a * b * interaction
        + 0.5 * rng.normal(size=(len(frame), n_features))
    )


def test_textbook_example():
    """Hays (1988), Statistics, table 13.21.2, p. 518: reaction times of 12 subjects, 2 shapes x 2 colours of buttons.

    Data and sums of squares as worked through by Baron & Li, Notes on the use of R for psychology experiments and questionnaires (2003):
    shape 12.0 against 17.5, colour 12.0 against 9.5, interaction 0 against 30.5, each with 1 and 11 degrees of freedom.
    """
    rt = [
        49,
        47,
        46,
        47,
        48,
        47,
        41,
        46,
        43,
        47,
        46,
        45,
        48,
        46,
        47,
        45,
        49,
        44,
        44,
        45,
        42,
        45,
        45,
        40,
        49,
        46,
        47,
        45,
        49,
        45,
        41,
        43,
        44,
        46,
        45,
        40,
        45,
        43,
        44,
        45,
        48,
        46,
        40,
        45,
        40,
        45,
        47,
        40,
    ]
    frame = pd.DataFrame(
        {
            "subject": list(range(12)) * 4,
            "shape": ["square"] * 12 + ["circle"] * 12 + ["square"] * 12 + ["circle"] * 12,
            "colour": ["red"] * 24 + ["blue"] * 24,
        }
    )
    factors = {"shape": ("square", "circle"), "colour": ("red", "blue")}
    table = factorial.rm_anova(frame, pd.DataFrame({"rt": rt}), factors, unit="subject").set_index(
        "effect"
    )
    assert table.loc["shape", "F"] == pytest.approx(12 / (17.5 / 11), rel=1e-12)
    assert table.loc["colour", "F"] == pytest.approx(12 / (9.5 / 11), rel=1e-12)
    assert table.loc["shape x colour", "F"] == pytest.approx(0, abs=1e-12)
    assert table.F.round(4).tolist() == [7.5429, 13.8947, 0.0]
    assert table.p.round(5).tolist() == [0.01901, 0.00334, 1.0]
    assert table.partial_eta2.tolist() == pytest.approx([12 / 29.5, 12 / 21.5, 0])
    assert table.estimate.tolist() == pytest.approx([-1, -1, 0])
    assert set(table.df2) == {11}


def test_agrees_with_pingouin_and_statsmodels():
    frame = design(17)
    values = simulate(frame, 4, interaction=0.8)
    ours = factorial.rm_anova(frame, values, FACTORS)
    for feature in values:
        long = frame.assign(y=values[feature])
        table = ours[ours.feature == feature].set_index("effect").loc[EFFECTS]
        theirs = pingouin.rm_anova(
            long, dv="y", within=list(FACTORS), subject="topic", detailed=True, effsize="np2"
        )
        assert table.F.to_numpy() == pytest.approx(theirs["F"].to_numpy(), rel=1e-8)
        assert table.p.to_numpy() == pytest.approx(theirs["p_unc"].to_numpy(), rel=1e-8)
        assert table.partial_eta2.to_numpy() == pytest.approx(theirs["np2"].to_numpy(), rel=1e-8)
        second = AnovaRM(long, "y", "topic", within=list(FACTORS)).fit().anova_table
        assert table.F.to_numpy() == pytest.approx(second["F Value"].to_numpy(), rel=1e-8)
        assert table.p.to_numpy() == pytest.approx(second["Pr > F"].to_numpy(), rel=1e-8)
        assert (table.df2 == second["Den DF"].to_numpy()).all()


def test_estimates_are_differences_of_cell_means():
    frame = design(9)
    values = simulate(frame, 2, seed=5)
    ours = factorial.rm_anova(frame, values, FACTORS).set_index(["feature", "effect"]).estimate
    mean = values[1].groupby([frame.formality, frame.emotion]).mean()
    ff, fn, cf, cn = (
        mean[k]
        for k in [
            ("formal", "emotional"),
            ("formal", "neutral"),
            ("casual", "emotional"),
            ("casual", "neutral"),
        ]
    )
    assert ours[1, "formality"] == pytest.approx((ff + fn) / 2 - (cf + cn) / 2)
    assert ours[1, "emotion"] == pytest.approx((ff + cf) / 2 - (fn + cn) / 2)
    assert ours[1, "formality x emotion"] == pytest.approx((ff - fn) - (cf - cn))


def test_q_is_benjamini_hochberg_by_definition():
    """q of the i-th smallest of m p values: the least m p_(j) / j over j >= i."""
    frame = design(12)
    table = factorial.rm_anova(frame, simulate(frame, 30, interaction=1), FACTORS)
    for _, effect in table.groupby("effect"):
        p = effect.p.sort_values()
        by_hand = [
            min(len(p) * p.iloc[j] / (j + 1) for j in range(i, len(p))) for i in range(len(p))
        ]
        assert effect.q[p.index].to_numpy() == pytest.approx(np.minimum(by_hand, 1))


def test_silent_and_perfect_features():
    """A feature that never fires has no effect; one that is on in exactly one cell has all effects, with no error left."""
    frame = design(6)
    corner = ((frame.formality == "formal") & (frame.emotion == "emotional")).astype(float)
    table = factorial.rm_anova(frame, pd.DataFrame({"silent": 0.0, "corner": corner}), FACTORS)
    silent, corner = (table[table.feature == f] for f in ("silent", "corner"))
    assert silent[["F", "p", "partial_eta2"]].to_numpy().tolist() == [[0, 1, 0]] * 3
    assert (
        corner.p.tolist() == [0, 0, 0]
        and corner.partial_eta2.tolist() == [1, 1, 1]
        and corner.estimate.tolist() == [0.5, 0.5, 1]
    )


def test_false_positives_are_five_percent_under_shuffled_labels():
    """2,000 independent features that differ between topics only; the share with p < 0.05 lies in the binomial 95 % interval around 5 %."""
    frame = design(30)
    rng = np.random.default_rng(3)
    level = rng.normal(size=(30, 2000))[pd.factorize(frame.topic)[0]]
    noise = pd.DataFrame(level + rng.normal(size=level.shape))
    passes = factorial.shuffled_passes(frame, noise, FACTORS, draws=1, seed=1)
    low, high = st.binom(2000, 0.05).interval(0.95)
    assert passes.p_passes.between(low, high).all()
    assert passes.q_passes.max() <= 3


def test_shuffling_destroys_real_effects():
    frame = design(30)
    values = simulate(frame, 300, interaction=1.5)
    true = factorial.rm_anova(frame, values, FACTORS)
    passes = (
        factorial.shuffled_passes(frame, values, FACTORS, draws=5).groupby("effect").q_passes.mean()
    )
    for effect in EFFECTS[1:]:
        assert (true[true.effect == effect].q < 0.05).mean() > 0.8
        assert passes[effect] < 10


def test_power_is_what_simulation_finds():
    """A planted interaction of 0.5 with contrast sd 1 (noise 0.5 in each of four cells) in 30 topics; 3,000 features as replicates."""
    frame = design(30)
    predicted = stats.power(0.5, se=1 / np.sqrt(30), df=29)
    assert 0.6 < predicted < 0.9
    table = factorial.rm_anova(frame, simulate(frame, 3000, seed=4, interaction=0.5), FACTORS)
    found = (table[table.effect == EFFECTS[2]].p < 0.05).mean()
    assert found == pytest.approx(predicted, abs=0.05)


def test_sign_flip_agrees_with_scipy():
    """scipy's permutation_test with permutation_type='samples' and one sample flips signs, all 2^10 of them here."""
    scores = np.random.default_rng(0).normal(0.4, 1, size=(10, 3))
    ours = factorial.sign_flip(scores, draws=20_000)
    for column, p in zip(scores.T, ours, strict=True):
        exact = st.permutation_test(
            (column,), lambda x, axis: x.mean(axis), permutation_type="samples", n_resamples=np.inf
        ).pvalue
        assert p == pytest.approx(exact, abs=0.015)
    assert factorial.sign_flip(np.zeros((5, 1)))[0] == 1
    with pytest.raises(ValueError, match="1 values"):
        factorial.sign_flip(np.array([[np.inf], [1.0]]))


def test_contrast_scores_average_to_the_estimates():
    frame = design(8)
    values = simulate(frame, 3)
    scores = factorial.contrast_scores(frame, values, FACTORS)
    table = factorial.rm_anova(frame, values, FACTORS)
    for effect in EFFECTS:
        assert scores[effect].mean(axis=0) == pytest.approx(
            table[table.effect == effect].estimate.to_numpy()
        )
        assert st.ttest_1samp(scores[effect], 0).pvalue == pytest.approx(
            table[table.effect == effect].p.to_numpy()
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d, v: (d.drop(index=3), v.drop(index=3)),
            r"topic 't00\d' has no (casual|formal)/(neutral|emotional): each topic needs all",
        ),
        (
            lambda d, v: (d.assign(topic="t001"), v),
            r"topic 't001' has \w+/\w+ twice: again in row \d+",
        ),
        (
            lambda d, v: (d.replace("formal", "stiff"), v),
            r"formality = 'stiff' in row \d+ is not known; allowed: 'casual', 'formal'",
        ),
        (
            lambda d, v: (d, v.mask(np.repeat(v.index == 5, 2).reshape(-1, 2), np.inf)),
            "feature 0 = inf in row 5 is not finite",
        ),
        (lambda d, v: (d, v.iloc[:-1]), "design has 12 rows and values 11"),
        (lambda d, v: (d.rename(columns={"emotion": "mood"}), v), "column 'emotion' is missing"),
        (lambda d, v: (d[d.topic == "t001"], v[d.topic == "t001"]), "1 topic is too few"),
        (
            lambda d, v: (d.assign(topic=d.topic.where(d.index != 2)), v),
            "topic is missing in row 2",
        ),
    ],
)
def test_bad_input_is_named(change, message):
    frame = design(3)
    with pytest.raises(ValueError, match=message):
        factorial.rm_anova(*change(frame, simulate(frame, 2)), FACTORS)


def test_a_factor_needs_two_levels():
    with pytest.raises(ValueError, match="two different levels"):
        factorial.rm_anova(
            design(3), simulate(design(3), 1), {"formality": ("a", "a"), "emotion": ("b", "c")}
        )
