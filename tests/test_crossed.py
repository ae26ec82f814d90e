"""Contrasts over prompts and words against statsmodels' and scipy's tests, their false positives and their power."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats as st
from statsmodels.stats.anova import anova_lm

from companion import crossed, stats

FACTORS = {"formality": ("casual", "formal"), "emotion": ("neutral", "emotional")}


def simulate(
    seed,
    n_prompts=20,
    n_words=10,
    interaction=0.0,
    sd_word=1.0,
    sd_prompt=1.0,
    sd_slope=0.7,
    sd_noise=1.0,
):
    """Random prompts, words and prompt x effect slopes around a planted interaction contrast."""
    rng = np.random.default_rng(seed)
    cell = np.repeat(np.arange(4), n_words)
    a, b = np.divmod(cell, 2) - np.array([[0.5], [0.5]])
    prompt, slope_a, slope_b, slope_ab = rng.normal(size=(4, n_prompts, 1))
    values = (
        sd_prompt * prompt
        + sd_slope * (slope_a * a + slope_b * b + slope_ab * a * b)
        + interaction * a * b
    )
    values += sd_word * rng.normal(size=len(cell)) + sd_noise * rng.normal(
        size=(n_prompts, len(cell))
    )
    return crossed.Crossed(
        values, cell, [f"p{i}" for i in range(n_prompts)], [f"w{i}" for i in range(len(cell))]
    )


def tidy(data):
    prompt, word = (i.ravel() for i in np.indices(data.values.shape))
    frame = pd.DataFrame(
        {
            "prompt": np.array(data.prompts)[prompt],
            "word": np.array(data.words)[word],
            "value": data.values.ravel(),
        }
    )
    a, b = np.divmod(data.cell[word], 2)
    return frame.assign(
        formality=np.array(FACTORS["formality"])[a], emotion=np.array(FACTORS["emotion"])[b]
    )


def by_name(results):
    return {r.test: r for r in results}


def test_table_round_trip():
    data = simulate(0, n_prompts=3, n_words=2)
    back = crossed.crossed(
        tidy(data).sample(frac=1, random_state=0).sort_values("word", kind="stable"), FACTORS
    )
    order = [back.prompts.index(p) for p in data.prompts]
    columns = [back.words.index(w) for w in data.words]
    assert (back.values[order][:, columns] == data.values).all() and (
        back.cell[columns] == data.cell
    ).all()


def test_by_prompt_and_by_word_are_the_usual_tests():
    """By prompt: scipy's one-sample t of each prompt's contrast. By word: the interaction row of statsmodels' two-way ANOVA of word means."""
    data = simulate(1, n_words=7)
    results, frame = by_name(crossed.tests(data)), tidy(data)
    means = (
        frame.groupby(["prompt", "formality", "emotion"])
        .value.mean()
        .unstack(["formality", "emotion"])
    )
    contrast = (
        means["formal"]["emotional"]
        - means["formal"]["neutral"]
        - means["casual"]["emotional"]
        + means["casual"]["neutral"]
    )
    reference = st.ttest_1samp(contrast, 0)
    assert results["by prompt"].t == pytest.approx(reference.statistic, rel=1e-8)
    assert results["by prompt"].p == pytest.approx(reference.pvalue, rel=1e-8)
    assert (results["by prompt"].lo, results["by prompt"].hi) == pytest.approx(
        tuple(reference.confidence_interval()), rel=1e-8
    )
    words = frame.groupby(["word", "formality", "emotion"], as_index=False).value.mean()
    table = anova_lm(
        smf.ols("value ~ C(formality, Sum) * C(emotion, Sum)", words).fit(), typ=3
    ).loc["C(formality, Sum):C(emotion, Sum)"]
    assert results["by word"].t ** 2 == pytest.approx(table["F"], rel=1e-8)
    assert results["by word"].p == pytest.approx(table["PR(>F)"], rel=1e-8)
    assert results["by word"].df == 28 - 4


@pytest.mark.parametrize("seed", [0, 1])
def test_both_random_is_the_mixed_model(seed):
    """With all variance components above 0, the closed form must give REML's standard error, found by statsmodels' optimiser."""
    data = simulate(seed, sd_slope=1.5)
    both, mixed = by_name(crossed.tests(data))["both random"], crossed.mixed_model(data)
    assert mixed.reason == ""
    assert mixed.estimate == pytest.approx(both.estimate, rel=1e-6)
    assert mixed.se == pytest.approx(both.se, rel=1e-3)
    assert mixed.p < both.p  # z against t


def test_mixed_model_does_not_depend_on_the_unit():
    """Shifts of 1e-4 logit, as published, must be analysed as well as shifts of 1."""
    data = simulate(2, n_prompts=8, n_words=5, sd_slope=1.5)
    small = crossed.mixed_model(data._replace(values=1e-4 * data.values))
    assert small.t == pytest.approx(crossed.mixed_model(data).t, rel=1e-6)


def test_published_analysis():
    """scipy's one-way ANOVA of differences paired by list position; 5 prompts x 8 words give the published F(1, 78)."""
    data = simulate(3, n_prompts=5, n_words=8)
    ours = crossed.published(data)
    casual, formal = [], []
    for prompt in range(5):
        for position in range(8):
            row = data.values[prompt]
            casual.append(row[data.cell == 1][position] - row[data.cell == 0][position])
            formal.append(row[data.cell == 3][position] - row[data.cell == 2][position])
    reference = st.f_oneway(formal, casual)
    assert ours.df == 78
    assert ours.t**2 == pytest.approx(reference.statistic, rel=1e-8) and ours.p == pytest.approx(
        reference.pvalue, rel=1e-8
    )
    assert ours.estimate == pytest.approx(np.mean(formal) - np.mean(casual))
    keep = np.arange(32) != 31
    with pytest.raises(ValueError, match=r"\[8, 8, 8, 7\] words cannot be paired"):
        crossed.published(data._replace(values=data.values[:, keep], cell=data.cell[keep]))


def test_published_analysis_depends_on_the_order_of_the_lists():
    data = simulate(4)
    order = np.concatenate([np.random.default_rng(c).permutation(10) + 10 * c for c in range(4)])
    other = data._replace(values=data.values[:, order])
    assert crossed.published(other).p != pytest.approx(crossed.published(data).p, rel=1e-3)
    assert by_name(crossed.tests(other))["both random"].p == pytest.approx(
        by_name(crossed.tests(data))["both random"].p
    )


def test_false_positives_under_shuffled_labels():
    """500 shuffles of one table: both random rejects in 5 % of them (binomial 95 % interval), the published test in far more."""
    table = crossed.false_positives(simulate(5), shuffles=500).set_index("test")
    low, high = np.array(st.binom(500, 0.05).interval(0.95)) / 500
    assert low <= table.loc["both random", "rate"] <= high
    assert table.loc["both random", "lo"] < 0.05 < table.loc["both random", "hi"]
    assert table.loc["published", "lo"] > 0.2


def test_false_positives_and_power_over_fresh_prompts_and_words():
    """1,000 new tables each with and without a planted contrast of 1.5, which the known variances predict to be found with this power.

    V = word 4 sd^2 / 10 words + slope^2 / 20 prompts + noise 4 sd^2 / 200; the degrees of freedom are Satterthwaite's at these variances.
    """
    n, word, prompt, noise = 1000, 4 * 1.0 / 10, 0.7**2 / 20, 4 * 1.0 / 200
    v = word + prompt + noise
    df = v**2 / ((word + noise) ** 2 / 36 + (prompt + noise) ** 2 / 19 + noise**2 / (19 * 36))
    rejected = [
        np.mean(
            [
                by_name(crossed.tests(simulate(seed, interaction=effect)))["both random"].p < 0.05
                for seed in range(n)
            ]
        )
        for effect in (0.0, 1.5)
    ]
    low, high = np.array(st.binom(n, 0.05).interval(0.95)) / n
    assert low <= rejected[0] <= high
    assert rejected[1] == pytest.approx(stats.power(1.5, np.sqrt(v), df), abs=0.05)


def test_dose_slopes_by_hand():
    """Shift = 2 (multiplier - 1) exactly for one word, none for the other."""
    frame = pd.DataFrame(
        {
            "prompt": "p",
            "word": ["u", "u", "u", "v", "v"],
            "multiplier": [-4, 0, 1, 0, 4],
            "value": [-10.0, -2, 0, 0, 0],
        }
    )
    slopes = crossed.dose_slopes(frame).set_index("word")
    assert slopes.value.tolist() == [2, 0]
    assert slopes.linear.tolist() == [1, None]
    bent = crossed.dose_slopes(
        pd.DataFrame({"prompt": "p", "word": "u", "multiplier": [0, 2], "value": [1.0, 1.0]})
    )
    assert bent.value[0] == 0 and bent.linear[0] == 0
    assert np.polynomial.polynomial.polyfit([-5, -1, 3], [1, 2, 4], [1])[1] == pytest.approx(
        crossed.dose_slopes(
            pd.DataFrame(
                {"prompt": "p", "word": "u", "multiplier": [-4, 0, 4], "value": [1.0, 2, 4]}
            )
        ).value[0]
    )


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("multiplier", np.inf, "multiplier = .*inf.* in row 1"),
        ("value", np.nan, "value = .*nan.* in row 1"),
        ("multiplier", 1.0, "is 1 in all"),
    ],
)
def test_dose_slopes_refuses(column, value, message):
    frame = pd.DataFrame(
        {"prompt": "p", "word": "u", "multiplier": [1.0, 4.0], "value": [0.0, 1.0]}
    )
    frame.loc[1, column] = value
    with pytest.raises(ValueError, match=message):
        crossed.dose_slopes(frame)


def test_a_clamp_that_does_nothing_gives_a_reason():
    data = simulate(0)
    table = crossed.analyse(data._replace(values=0 * data.values))
    assert (table.reason == "the values show no variation to test against").all()
    assert all(v is None for v in table[["t", "p", "lo", "hi"]].to_numpy().ravel())
    with pytest.raises(ValueError, match="do not vary"):
        crossed.false_positives(data._replace(values=0 * data.values))


def test_analyse_lists_all_tests():
    table = crossed.analyse(simulate(6, n_prompts=8, n_words=5))
    assert table.test.tolist() == [
        "by prompt",
        "by word",
        "both random",
        "mixed model",
        "published",
    ]
    assert table.estimate.to_numpy() == pytest.approx([table.estimate[0]] * 5)
    assert (table.reason == "").all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.iloc[1:], "prompt 'p0' with word 'w0' has 0 rows"),
        (lambda f: pd.concat([f, f.iloc[:1]]), "prompt 'p0' with word 'w0' has 2 rows"),
        (
            lambda f: f.assign(emotion=f.emotion.where(f.index != 4, "loud")),
            "emotion = 'loud' in row 4 is not known; allowed: 'neutral'",
        ),
        (
            lambda f: f.assign(emotion=f.emotion.where(f.index != 1, "emotional")),
            "word 'w[01]' is in two groups",
        ),
        (
            lambda f: f.assign(value=f.value.where(f.index != 2, np.nan)),
            "value = .*nan.* in row 2 is not finite",
        ),
        (lambda f: f[f.word != "w3"], r"\[2, 1, 2, 2\] words per cell"),
        (lambda f: f[f.prompt == "p0"], "1 prompts"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        crossed.crossed(change(tidy(simulate(0, n_prompts=3, n_words=2))), FACTORS)
