"""2x2 designs worked out by hand, and against a textbook, pingouin, scipy and statsmodels."""

import numpy as np
import pandas as pd
import pingouin
import pytest
import statsmodels.formula.api as smf
from scipy import stats as st
from statsmodels.stats.anova import anova_lm

from companion import designs

FACTORS = {"formality": ("casual", "formal"), "emotion": ("neutral", "emotional")}
EFFECTS = ["formality", "emotion", "formality x emotion"]
CELLS = pd.MultiIndex.from_product(FACTORS.values(), names=FACTORS)


def design(n_topics, seed=0):
    """All four cells of each topic, rows in random order."""
    frame = pd.concat({f"t{t:03}": CELLS.to_frame() for t in range(n_topics)}, names=["topic"])
    frame = frame.reset_index("topic").reset_index(drop=True)
    return frame.sample(frac=1, random_state=seed, ignore_index=True)


def simulate(frame, n_features, seed=0, interaction=0.0):
    """Topics differ in level and in both main effects; the interaction is that of a contrast."""
    rng = np.random.default_rng(seed)
    topic = pd.factorize(frame.topic)[0]
    a = np.where(frame.formality == "formal", 0.5, -0.5)[:, None]
    b = np.where(frame.emotion == "emotional", 0.5, -0.5)[:, None]
    level, slope_a, slope_b = rng.normal(size=(3, topic.max() + 1, n_features))[:, topic]
    noise = 0.5 * rng.normal(size=(len(frame), n_features))
    return pd.DataFrame(level + a * slope_a + b * (0.7 + slope_b) + a * b * interaction + noise)


class TestTopics:
    def three_topics(self):
        """Casual neutral, casual emotional, formal neutral, formal emotional of three topics."""
        frame = pd.concat({t: CELLS.to_frame() for t in "cab"}, names=["topic"])
        values = [2, 2, 2, 4, 1, 2, 3, 8, 0, 1, 2, 3]  # topics c, a, b
        frame = frame.reset_index("topic").reset_index(drop=True)
        return frame, pd.DataFrame({"answers": values, "silent": 0.0}).astype(float)

    def test_the_anova_by_hand(self):
        """Interaction per topic: a (8 - 3) - (2 - 1) = 4, b 1 - 1 = 0, c 2 - 0 = 2. Mean 2, variance 4,
        F = 3 x 2² / 4 = 3 on 1 and 2 degrees of freedom, p = 1 - sqrt(3 / (3 + 2)) = 0.2254; two
        features, so q = 2 p. Formality 4, 2, 1: mean 7/3, variance 7/3, F = 7. Emotion 3, 1, 1: mean
        5/3, variance 4/3, F = 25/4."""
        table = designs.rm_anova(*self.three_topics(), FACTORS).set_index(["feature", "effect"])
        answers, silent = table.loc["answers"], table.loc["silent"]
        assert answers.estimate[EFFECTS].tolist() == pytest.approx([7 / 3, 5 / 3, 2])
        assert answers.F[EFFECTS].tolist() == pytest.approx([7, 25 / 4, 3])
        row = answers.loc[EFFECTS[2]]
        assert (row.df1, row.df2, row.partial_eta2) == pytest.approx((1, 2, 3 / 5))
        assert (row.p, row.q) == pytest.approx((1 - 0.6**0.5, 2 * (1 - 0.6**0.5)))
        assert silent[["F", "p", "partial_eta2"]].to_numpy().tolist() == [[0, 1, 0]] * 3

    def test_other_columns_of_a_design_play_no_part(self):
        frame, values = self.three_topics()
        wide = frame[["emotion", "formality", "topic"]].assign(text=range(12), half="selection")
        assert designs.rm_anova(wide, values, FACTORS).equals(
            designs.rm_anova(frame, values, FACTORS)
        )

    def test_a_feature_of_one_cell_leaves_no_error(self):
        frame = design(6)
        corner = (frame.formality == "formal") & (frame.emotion == "emotional")
        table = designs.rm_anova(frame, pd.DataFrame({"x": corner.astype(float)}), FACTORS)
        assert table.p.tolist() == [0, 0, 0] and table.partial_eta2.tolist() == [1, 1, 1]
        assert table.estimate.tolist() == [0.5, 0.5, 1]

    def test_cell_means_by_hand(self):
        """Topics 1, 2, 3, 6 and 3, 4, 5, 12. Less their means 3 and 6: -2, -1, 0, 3 and -3, -2, -1, 6,
        with variances 1/2, 1/2, 1/2, 9/2 per cell. Half width t(0.975, 1) sqrt(4/3 variance / 2)."""
        frame = pd.concat({t: CELLS.to_frame() for t in "ab"}, names=["topic"])
        frame = frame.reset_index("topic").reset_index(drop=True)
        values = pd.DataFrame({7: [1.0, 2, 3, 6, 3, 4, 5, 12]})
        means = designs.cell_means(frame, values, FACTORS)
        assert means.columns.tolist() == [*FACTORS, "feature", "value", "lo", "hi"]
        assert means.value.tolist() == [2, 3, 4, 9]
        assert means[["formality", "emotion"]].iloc[1].tolist() == ["casual", "emotional"]
        half = 12.7062 * np.sqrt(4 / 3 * np.array([0.5, 0.5, 0.5, 4.5]) / 2)
        assert (means.hi - means.value).tolist() == pytest.approx(half.tolist(), rel=1e-5)
        assert (means.value - means.lo).tolist() == pytest.approx(half.tolist(), rel=1e-5)

    def test_textbook_example(self):
        """Hays (1988), Statistics, table 13.21.2, p. 518: reaction times of 12 subjects, 2 shapes x 2
        colours of buttons. Sums of squares as worked through by Baron & Li, Notes on the use of R
        (2003): shape 12.0 against 17.5, colour 12.0 against 9.5, interaction 0 against 30.5."""
        times = (
            "49 47 46 47 48 47 41 46 43 47 46 45 48 46 47 45 49 44 44 45 42 45 45 40 "
            "49 46 47 45 49 45 41 43 44 46 45 40 45 43 44 45 48 46 40 45 40 45 47 40"
        ).split()
        frame = pd.DataFrame({"topic": list(range(12)) * 4})
        frame["shape"] = np.repeat(["square", "circle", "square", "circle"], 12)
        frame["colour"] = np.repeat(["red", "blue"], 24)
        factors = {"shape": ("square", "circle"), "colour": ("red", "blue")}
        values = pd.DataFrame({"rt": map(float, times)})
        table = designs.rm_anova(frame, values, factors)
        assert table.F.tolist() == pytest.approx([12 * 11 / 17.5, 12 * 11 / 9.5, 0], abs=1e-12)
        assert table.p.round(5).tolist() == [0.01901, 0.00334, 1.0]
        assert table.estimate.tolist() == pytest.approx([-1, -1, 0])

    def test_agrees_with_pingouin(self):
        frame = design(17)
        values = simulate(frame, 2, interaction=0.8)
        ours = designs.rm_anova(frame, values, FACTORS)
        for feature in values:
            table = ours[ours.feature == feature].set_index("effect").loc[EFFECTS]
            theirs = pingouin.rm_anova(
                frame.assign(y=values[feature]), "y", list(FACTORS), "topic", effsize="np2"
            )
            for column, other in {"F": "F", "p": "p_unc", "partial_eta2": "np2"}.items():
                assert table[column].to_numpy() == pytest.approx(theirs[other].to_numpy(), rel=1e-8)

    def test_q_is_benjamini_hochberg_by_definition(self):
        """q of the i-th smallest of m p values: the least m p_(j) / j over j >= i, per effect."""
        frame = design(12)
        table = designs.rm_anova(frame, simulate(frame, 30, interaction=1), FACTORS)
        for _, effect in table.groupby("effect"):
            p = effect.p.sort_values()
            q = [min(30 * p.iloc[j] / (j + 1) for j in range(i, 30)) for i in range(30)]
            assert effect.q[p.index].to_numpy() == pytest.approx(np.minimum(q, 1))

    def test_shuffled_labels_pass_in_five_percent(self):
        """2,000 independent features that differ between topics only: the share with p < 0.05 lies in
        the binomial 95 % interval, and next to none passes corrected for their number."""
        frame, rng = design(30), np.random.default_rng(3)
        level = rng.normal(size=(30, 2000))[pd.factorize(frame.topic)[0]]
        noise = pd.DataFrame(level + rng.normal(size=level.shape))
        passes = designs.shuffled_passes(frame, noise, FACTORS, draws=1, seed=1)
        low, high = st.binom(2000, 0.05).interval(0.95)
        assert passes.p_passes.between(low, high).all() and passes.q_passes.max() <= 3
        assert passes.effect.tolist() == EFFECTS

    def test_labels_are_shuffled_within_topics(self):
        """Two topics whose sentences are alike but for one, which moves every contrast by as much, up
        or down: in half of the shuffles to the same side, which leaves no error, in half to opposite
        sides, which leaves no effect. 1,000 shuffles."""
        frame = design(2)
        one = pd.DataFrame({"x": (frame.groupby("topic").cumcount() == 0).astype(float)})
        passes = designs.shuffled_passes(frame, one, FACTORS, draws=1000, seed=2)
        low, high = st.binom(1000, 0.5).interval(0.999)
        assert passes.groupby("effect").p_passes.sum().between(low, high).all()
        assert passes.draw.tolist() == np.repeat(np.arange(1000), 3).tolist()
        assert passes.equals(designs.shuffled_passes(frame, one, FACTORS, draws=1000, seed=2))

    def test_shuffling_destroys_real_effects(self):
        frame = design(30)
        values = simulate(frame, 300, interaction=1.5)
        true = designs.rm_anova(frame, values, FACTORS).set_index("effect").q
        chance = designs.shuffled_passes(frame, values, FACTORS, draws=5).groupby("effect").q_passes
        for effect in EFFECTS[1:]:
            assert (true[effect] < 0.05).mean() > 0.8 and chance.mean()[effect] < 10

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                lambda d, v: (d[d.index != 3], v[v.index != 3]),
                "topic '{topic}' has 0 sentences in {formality}/{emotion}, not one",
            ),
            (lambda d, v: (d.assign(topic="t1"), v), r"topic 't1' has 3 sentences in casual/neut"),
            (
                lambda d, v: (d.replace("formal", "stiff"), v),
                r"row \d+: formality = 'stiff' is not",
            ),
            (
                lambda d, v: (d, v.replace(v.loc[5, 0], np.inf)),
                "0 = .*inf.* in row 5 is not finite",
            ),
            (lambda d, v: (d, v.iloc[:-1]), "12 rows of design and 11 of values"),
            (lambda d, v: (d[d.topic == "t001"], v[d.topic == "t001"]), "1 topic is too few"),
        ],
    )
    def test_bad_input_is_named(self, change, message):
        frame = design(3)
        with pytest.raises(ValueError, match=message.format(**frame.loc[3])):
            designs.rm_anova(*change(frame, simulate(frame, 2)), FACTORS)
        with pytest.raises(ValueError, match="two different levels"):
            designs.effect_names({"formality": ("a", "a"), "emotion": ("b", "c")})


def words(values, n_words=2):
    """A `crossed` table of an array (prompts, 4 cells x n_words)."""
    columns = [(c, f"w{c}{i}") for c in range(4) for i in range(n_words)]
    columns = pd.MultiIndex.from_tuples(columns, names=["cell", "word"])
    index = pd.Index([f"p{i}" for i in range(len(values))], name="prompt")
    return pd.DataFrame(np.asarray(values, dtype=float), index, columns)


def tidy(table):
    """The rows of a `crossed` table."""
    frame = table.stack(["cell", "word"], future_stack=True).rename("value").reset_index()
    labels = CELLS.to_frame(index=False).loc[frame.cell].reset_index(drop=True)
    return pd.concat([frame.drop(columns="cell"), labels], axis=1)


HAND = [
    [0.25, 1.75, 1.25, 2.75, 1.75, 2.25, 6.75, 5.25],
    [0.75, 1.25, 1.75, 2.25, 1.25, 2.75, 4.25, 3.75],
]
"""Two prompts, two words per cell. Cell means 1, 2, 2, 6 and 1, 2, 2, 4: contrasts 3 and 1. Words of
a cell differ from its mean by ±1/2, and differently in the two prompts by ±1/4."""


def simulated(seed, n_prompts=20, n_words=10, interaction=0.0, sd_slope=0.7):
    """Random prompts, words and prompt x effect slopes around a planted interaction contrast."""
    rng = np.random.default_rng(seed)
    a, b = np.divmod(np.repeat(np.arange(4), n_words), 2) - np.array([[0.5], [0.5]])
    prompt, slope_a, slope_b, slope_ab = rng.normal(size=(4, n_prompts, 1))
    slope = sd_slope * (slope_a * a + slope_b * b + slope_ab * a * b) + interaction * a * b
    noise = rng.normal(size=4 * n_words) + rng.normal(size=(n_prompts, 4 * n_words))
    return words(prompt + slope + noise, n_words)


class TestWords:
    def test_the_three_tests_by_hand(self):
        """By prompt: mean 2, variance 2 / 2 prompts = 1, df 1. By word: mean square of the words'
        errors 8 (1/2)² / 4 = 1/2, times 1/2 + 1/2 + 1/2 + 1/2 = 2 over the cells: 1, df 4. Shared:
        16 (1/4)² / 4 = 1/4, times 2, over 2 prompts: 1/4, df 4. Both: 1 + 1 - 1/4 = 7/4, df (7/4)² /
        (1²/1 + 1²/4 + (1/4)²/4) = 2.4198. t(0.975, 1) = 12.7062 and t(0.975, 4) = 2.77645."""
        tests = designs.interactions(words(HAND)).drop("published")
        assert tests.estimate.tolist() == [2, 2, 2]
        assert tests.se.tolist() == pytest.approx([1, 1, 1.75**0.5])
        assert tests.df.tolist() == pytest.approx([1, 4, 2.4198], rel=1e-4)
        assert tests.t.tolist() == pytest.approx([2, 2, 2 / 1.75**0.5])
        assert tests.F.tolist() == pytest.approx([4, 4, 4 / 1.75])
        both = tests.loc["both random"]
        assert both.hi - 2 == pytest.approx(st.t.isf(0.025, both.df) * 1.75**0.5)
        assert tests.index.name == "test"
        assert tests.hi[:2].tolist() == pytest.approx([14.7062, 4.77645], rel=1e-5)
        assert tests.lo[:2].tolist() == pytest.approx([-10.7062, -0.77645], rel=1e-5)
        assert tests.p["by prompt"] == pytest.approx(1 - 2 / np.pi * np.arctan(2))  # t with df 1

    def test_without_noise_that_prompts_or_words_add_there_is_one_source(self):
        """All prompts alike: what differs between words is all there is, V = V_word."""
        tests = designs.interactions(words([HAND[0]] * 3))
        assert tests.loc["both random"].equals(tests.loc["by word"])
        assert pd.isna(tests.loc["by prompt", ["t", "F", "p", "lo", "hi"]]).all()

    def test_the_published_test_by_hand(self):
        """Differences by position: casual 1, 1, 1, 1; formal 5, 3, 3, 1 of variance 8/3. Contrast
        3 - 1 = 2, F = 2² / ((0 + 8/3) / 4) = 6 on 1 and 6 degrees of freedom."""
        test = designs.interactions(words(HAND)).loc["published"]
        assert (test.estimate, test.F, test.df) == pytest.approx((2, 6, 6))
        assert test.p == pytest.approx(st.f.sf(6, 1, 6))
        swapped = words([[row[1], row[0], *row[2:]] for row in HAND])  # one list in another order
        assert designs.interactions(swapped).F["published"] != pytest.approx(6)
        with pytest.raises(ValueError, match="words per cell cannot be paired by their position"):
            designs.interactions(words(HAND).iloc[:, 1:])

    def test_the_mean_by_hand(self):
        """Means of prompts 0, 4, 8, of words 3, 5; what is left is 1, -1 / -1, 1 / 0, 0. Over prompts
        16 / 3, over words 2 / 2 = 1, shared 4 / (2 x 1) / 6 = 1/3: variance 6, df 6² / ((16/3)²/2 +
        1²/1 + (1/3)²/2) = 2.35636. Prompts that differ less than chance has it add nothing: words of
        means 1 and 7 over a rest of ±1 alone give 18 / 2 = 9, df 1."""
        test = designs.mean_test(np.array([[0.0, 0], [2, 6], [7, 9]]))
        assert (test.estimate, test.se, test.df) == pytest.approx((4, 6**0.5, 2.35636), rel=1e-5)
        test = designs.mean_test(np.array([[2.0, 6], [0, 8]]))
        assert (test.estimate, test.se, test.df) == pytest.approx((4, 3, 1))
        # prompts 4, 8, 12 (16 / 3), words 5, 8, 11 (9 / 3), what is left: squares of 12 over 4 x 9
        rest = np.array([[1.0, -1, 0], [-1, 2, -1], [0, -1, 1]]) * 12**0.5 / 10**0.5
        test = designs.mean_test(np.array([[4.0], [8], [12]]) + [-3, 0, 3] + rest)
        df = 8**2 / ((16 / 3) ** 2 / 2 + 3**2 / 2 + (1 / 3) ** 2 / 4)
        assert (test.estimate, test.se, test.df) == pytest.approx((8, 8**0.5, df))
        with pytest.raises(ValueError, match="2 prompts and 1 words"):
            designs.mean_test(np.ones((2, 1)))

    def test_by_prompt_and_by_word_are_the_usual_tests(self):
        """scipy's one-sample t of each prompt's contrast; the interaction row of statsmodels' two-way
        ANOVA of word means."""
        table = simulated(1, n_words=7)
        tests = designs.interactions(table)
        contrast = table.T.groupby(level="cell").mean().T @ [1, -1, -1, 1]
        assert tests.p["by prompt"] == pytest.approx(st.ttest_1samp(contrast, 0).pvalue, rel=1e-8)
        means = tidy(table).groupby(["word", *FACTORS], as_index=False).value.mean()
        fit = smf.ols("value ~ C(formality, Sum) * C(emotion, Sum)", means).fit()
        row = anova_lm(fit, typ=3).loc["C(formality, Sum):C(emotion, Sum)"]
        assert tests.F["by word"] == pytest.approx(row["F"], rel=1e-8)
        assert tests.p["by word"] == pytest.approx(row["PR(>F)"], rel=1e-8)

    def test_both_random_is_the_mixed_model(self):
        """With all variance components above 0, the closed form must give REML's standard error, in
        any unit: shifts of 1e-4 logit are analysed as well as shifts of 1."""
        table = 1e-4 * simulated(0, n_prompts=12, n_words=6, sd_slope=1.5)
        tests = designs.interactions(table, mixed=True)
        assert tests.index.tolist()[2:] == ["both random", "published", "mixed model"]
        assert tests.index.name == "test"
        both, mixed = tests.loc["both random"], tests.loc["mixed model"]
        assert mixed.estimate == pytest.approx(both.estimate, rel=1e-6)
        assert mixed.se == pytest.approx(both.se, rel=1e-3) and mixed.p < both.p  # z against t
        still = designs.interactions(0 * table, mixed=True)
        assert still[["t", "F", "p", "lo", "hi"]].isna().all(axis=None)
        assert still.estimate.tolist() == [0] * 5

    def test_a_mixed_model_that_did_not_converge_tests_nothing(self, monkeypatch):
        class Model:
            converged, params, bse = False, {"ab": 1.0}, {"ab": 1.0}

            def fit(self, **_):
                return self

        monkeypatch.setattr(designs.smf, "mixedlm", lambda *_, **__: Model())
        assert np.isnan(designs.mixed_model(words(HAND)).variance)

    def test_false_positives_under_shuffled_labels(self):
        """500 shuffles: by word and both random reject in 5 % (binomial 95 % interval), the test by
        prompt, which takes the words for granted, and the published one in far more."""
        rates = designs.false_positives(simulated(5), shuffles=500)
        low, high = np.array(st.binom(500, 0.05).interval(0.95)) / 500
        assert rates.rate[["by word", "both random"]].between(low, high).all()
        assert (rates.lo[["by prompt", "published"]] > 0.2).all()
        assert (rates["tail"][["by prompt", "published"]] < 1e-6).all()
        row = rates.loc["both random"]
        exact = st.binomtest(round(500 * row.rate), 500, 0.05)
        assert (row.lo, row.hi) == pytest.approx(tuple(exact.proportion_ci(0.95)))
        assert rates.index.tolist() == ["by prompt", "by word", "both random", "published"]
        few, again = (designs.false_positives(simulated(5), 20, seed) for seed in (1, 1))
        assert few.equals(again) and few.index.name == "test"
        assert row["tail"] == pytest.approx(exact.pvalue) and row.shuffles == 500
        with pytest.raises(ValueError, match="do not vary"):
            designs.false_positives(0 * simulated(5))

    def test_false_positives_and_power_over_fresh_prompts_and_words(self):
        """1,000 new tables each with and without a planted contrast of 1.5. V = word 4 sd² / 10 words
        + slope² / 20 prompts + noise 4 sd² / 200; Satterthwaite's df at these variances; power from
        the noncentral t."""
        n, word, prompt, noise = 1000, 4 / 10, 0.7**2 / 20, 4 / 200
        v = word + prompt + noise
        df = v**2 / ((word + noise) ** 2 / 36 + (prompt + noise) ** 2 / 19 + noise**2 / (19 * 36))
        rates = []
        for effect in (0.0, 1.5):
            tables = [simulated(seed, interaction=effect) for seed in range(n)]
            both = [designs.contrasts(table)["both random"] for table in tables]
            rates.append((designs.t_tests(dict(enumerate(both))).p < 0.05).mean())
        low, high = np.array(st.binom(n, 0.05).interval(0.95)) / n
        assert low <= rates[0] <= high
        power = st.nct.sf(st.t.isf(0.025, df), df, 1.5 / np.sqrt(v))
        assert rates[1] == pytest.approx(power, abs=0.05)

    def test_tables_keep_the_order_of_first_appearance(self):
        table = words(HAND)
        back = designs.crossed(tidy(table).iloc[::-1], FACTORS)
        assert back.equals(table.iloc[::-1, ::-1])
        assert back.columns.tolist() == table.columns[::-1].tolist()
        tests = designs.interactions(back)
        assert (tests.estimate["by prompt"], tests.F["published"]) == pytest.approx((2, 6))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda f: f.iloc[1:], "prompt 'p0' with word 'w00' has no value"),
            (
                lambda f: pd.concat([f, f.iloc[:1].assign(value=9)]),
                "prompt 'p0' with word 'w00' stands twice",
            ),
            (lambda f: f.replace("formal", "loud"), "row 4: formality = 'loud' is not known"),
            (
                lambda f: f.assign(emotion=f.emotion.where(f.index != 1, "emotional")),
                "word 'w01' is in two groups",
            ),
            (lambda f: f.assign(value=f.value.where(f.index != 2)), "value = .*nan.* in row 2"),
            (lambda f: f[f.word != "w30"], r"\[2, 2, 2, 1\] words per cell"),
            (lambda f: f[~f.word.isin(["w10", "w11"])], r"\[2, 0, 2, 2\] words per cell"),
            (lambda f: f[f.prompt == "p0"], "1 prompts"),
        ],
    )
    def test_bad_input_is_named(self, change, message):
        with pytest.raises(ValueError, match=message):
            designs.crossed(change(tidy(words(HAND))), FACTORS)
