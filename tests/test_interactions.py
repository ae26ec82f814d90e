"""Selection on one half, measurement on the other; clamps worked out by hand."""

import types

import matplotlib.pyplot as plt
import numpy as np
import pages
import pandas as pd
import pytest
import torch
from scipy import stats as st
from test_designs import HAND, tidy, words

from companion import designs, stimuli
from companion.chapters import interactions
from companion.figures import interactions as figures_interactions

FACTORS = interactions.FACTORS
EFFECT = "formality x emotion"
PAGE = pages.functions("interactions")


def passes(features, shuffled):
    """The page's table of how many features pass."""
    return pages.run("interactions", "passes", features=features, shuffled=shuffled)["passes"]


def planted(seed, n_topics=32, n_features=40, interaction=0.0):
    """Sentences of 2 x n_topics topics; feature 0 has an interaction, 1 a main effect of formality, 2
    never fires on the first half, the others are noise."""
    rng = np.random.default_rng(seed)
    topics = [(f"t{i:02d}", stimuli.HALVES[i % 2]) for i in range(2 * n_topics)]
    cells = pd.MultiIndex.from_product(FACTORS.values(), names=FACTORS).to_frame(index=False)
    design = pd.DataFrame(topics, columns=["topic", "half"]).merge(cells, how="cross")
    values = rng.exponential(size=(len(design), n_features))
    formal, emotional = design.formality == "formal", design.emotion == "emotional"
    values[:, 0] += interaction * (formal & emotional)
    values[:, 1] += 3 * formal
    values[design.half == "discovery", 2] = 0
    return design.assign(text="text"), pd.DataFrame(values)


def test_a_planted_interaction_is_found_and_a_main_effect_is_not_taken_for_one():
    design, values = planted(0, interaction=3.0)
    values[5] *= 1e-6  # live all the same
    features, shuffled = interactions.discover(design, values, draws=20, seed=7)
    first = design.index[design.half == "discovery"]
    own = designs.shuffled_passes(
        design.loc[first], values.loc[first].drop(columns=2), FACTORS, 20, 7
    )
    assert shuffled.equals(own)
    assert set(features.feature) == set(range(40)) - {2}
    keys = {"seed": 0, "design": "d", "dictionary": "x"}
    table = passes(features.assign(**keys), shuffled.assign(**keys))
    row = table.set_index("effect").loc[EFFECT]
    assert (row["live"], row["pass"], row["held"]) == (39, 1, 1)
    assert (table["shuffled, mean"] < 1).all()
    for half, suffix in zip(stimuli.HALVES, ("", "_confirmation"), strict=True):
        rows = design.index[design.half == half]
        own = designs.rm_anova(design.loc[rows], values.loc[rows, [0]], FACTORS)
        of_0 = features.set_index(["feature", "effect"]).loc[(0, EFFECT), f"F{suffix}"]
        assert of_0 == pytest.approx(own.set_index("effect").F[EFFECT])
    with pytest.raises(ValueError, match="no feature fires on any sentence of the discovery half"):
        interactions.discover(design, values[[2]])


def test_passes_by_hand():
    """0 passes and holds; 1 has the other sign on the other half; 2 has p = 0.2 there; 3 has q = 0.06;
    4 holds with both signs negative. Of the four that pass eta² is 0.1, 0.3, 0.5, 0.7: median 0.4."""
    features = pd.DataFrame(
        {
            "feature": range(5),
            "estimate": [1.0, 1, 1, 1, -1],
            "q": [0.01, 0.02, 0.03, 0.06, 0.04],
            "partial_eta2": [0.1, 0.3, 0.5, 0.9, 0.7],
            "estimate_confirmation": [0.5, -0.5, 0.5, 0.5, -2],
            "p_confirmation": [0.04, 0.001, 0.2, 0.001, 0.01],
            "partial_eta2_confirmation": [0.0, 0.1, 0.2, 0.8, 0.3],
        }
    )
    keys = {"seed": 0, "design": "d", "dictionary": "x", "effect": "e"}
    shuffled = pd.DataFrame({"draw": [0, 1, 2], "p_passes": [5, 6, 7], "q_passes": [0, 1, 5]})
    features.index = [0, 1, 2, 0, 1]  # as of several designs
    other = {"features": features.tail(1), "shuffled": shuffled.tail(1)}  # of another seed
    other = {name: frame.assign(**keys | {"seed": 1}) for name, frame in other.items()}
    features, shuffled = (
        pd.concat([frame.assign(**keys), other[name]])
        for name, frame in {"features": features, "shuffled": shuffled}.items()
    )
    assert passes(features, shuffled).to_dict("records") == [
        keys
        | {"live": 5, "pass": 4, "shuffled, mean": 2, "shuffled, most": 5, "held": 2}
        | {"eta², selection": pytest.approx(0.4), "eta², confirmation": pytest.approx(0.15)},
        keys
        | {"seed": 1, "live": 1, "pass": 1, "shuffled, mean": 5, "shuffled, most": 5, "held": 1}
        | {"eta², selection": pytest.approx(0.7), "eta², confirmation": pytest.approx(0.3)},
    ]


def test_selected_effects_shrink_on_the_other_half_when_nothing_is_there():
    """Double dipping: the best of forty noise features looks strong where it was chosen, and passes
    5 % as often as chance has it where it was not."""
    chosen, held = [], []
    for seed in range(40):
        features, _ = interactions.discover(*planted(seed), draws=1)
        best = features[features.effect == EFFECT].sort_values("F").iloc[-1]
        chosen.append(best.F)
        held.append(best.F_confirmation)
    critical = st.f.isf(0.05, 1, 31)
    assert np.median(chosen) > critical
    assert (np.array(held) > critical).sum() <= st.binom(40, 0.05).ppf(0.999)


class TestChoice:
    def features(self):
        """Live features 0 to 5; by F of the interaction 4, 3, 2, 1, 0, 5; the largest F of any effect
        is smallest for 2."""
        F = {"formality": [8, 7, 1, 6, 5, 9], EFFECT: [2.0, 3, 4, 5, 6, 1]}  # the last decides
        rows = [(i, effect, f) for effect in F for i, f in enumerate(F[effect])]
        return pd.DataFrame(rows, columns=["feature", "effect", "F"])

    def test_the_largest_interactions_that_can_move_something(self):
        able = torch.ones(4, 8, dtype=torch.bool)
        able[:, 4] = torch.tensor([True, False, False, True])  # on one of three held-apart prompts
        able[0, 2] = False  # on two of three, which is enough
        able[:, 6] = False
        fired = torch.ones(8, dtype=torch.int64)
        fired[3] = 0  # dead in training
        apart = [True, True, True, False]
        chosen = interactions.choose(self.features(), able, fired, apart, 2)
        assert chosen == ([2, 1], 2, 6)
        chosen = interactions.choose(self.features(), able, fired, apart, 2, wanted=1)
        assert chosen.selective == [1, 2, 0]
        assert (
            interactions.choose(self.features(), able[:, :6], fired[:6], apart, 2).inactive is None
        )
        for wanted, message in {3: "feature = 3 is dead", 8: "feature = 8 is out of range"}.items():
            with pytest.raises(ValueError, match=message):
                interactions.choose(self.features(), able, fired, apart, 2, wanted)

    def test_where_none_does_on_half_of_them_those_that_do_on_as_many_as_any(self):
        able = torch.zeros(5, 6, dtype=torch.bool)
        fired, apart = torch.ones(6, dtype=torch.int64), [True] * 4 + [False]
        able[0, [1, 5]], able[3, 0], able[4] = True, True, True  # the last one is not held apart
        assert interactions.choose(self.features(), able, fired, apart, 3).selective == [1, 0, 5]
        able[:, 2] = True  # on half of them and more
        assert interactions.choose(self.features(), able, fired, apart, 3).selective == [2]
        able[:, 2] = False
        assert interactions.choose(self.features(), able, fired, apart, 1).selective == [1]
        with pytest.raises(ValueError, match="no live feature fires on any held-apart prompt"):
            interactions.choose(self.features(), torch.zeros_like(able), fired, apart, 3)


def shifts(table, condition="c"):
    """Shifts that are linear in the dose, with these slopes."""
    slopes = tidy(table).assign(condition=condition)
    doses = [
        slopes.assign(multiplier=m, value=(m - 1) * slopes.value) for m in (-4.0, 0.0, 1.0, 4.0)
    ]
    return pd.concat(doses, ignore_index=True)


class TestClamps:
    """Of `HAND`, whose contrast is 2 with variance 7/4 over prompts and words."""

    def test_dose_slopes_by_hand(self):
        """First word: shift = 2 (multiplier - 1) exactly. The others: doses -1 and 3, shifts 1 and 5,
        (-1 + 15) / (1 + 9). At the largest dose, 5: 10 and 7."""
        one = tidy(words(np.zeros((2, 8))))
        first = one.word == one.word[0]
        doses = [one[first].assign(multiplier=m, value=y) for m, y in ((-4, -10), (0, -2), (1, 0))]
        doses += [one[~first].assign(multiplier=m, value=y) for m, y in ((0, 1), (4, 5))]
        frame = pd.concat(doses)
        slopes = interactions.slopes(frame)
        assert slopes.iloc[0].tolist() == pytest.approx([10] + 7 * [7])
        assert slopes.columns.tolist() == words(np.zeros((2, 8))).columns.tolist()
        turned = interactions.slopes(frame.iloc[::-1])  # words in the order of first appearance
        assert turned.columns.tolist() == slopes.columns[::-1].tolist()
        assert turned.index.tolist() == slopes.index[::-1].tolist()
        with pytest.raises(ValueError, match="multiplier is 1 in all rows"):
            interactions.slopes(frame.assign(multiplier=1))
        with pytest.raises(ValueError, match="value = .*nan"):
            interactions.slopes(frame.assign(value=np.nan))

    def test_the_sign_is_that_of_the_held_apart_prompts(self):
        """Their contrast is that of `HAND`, 2, times a size: where it is negative, the others turn."""
        for size, sign in ((1, 1), (-1, -1), (1e-3, 1), (0, 1)):
            held = words(size * np.array(HAND)).rename(index={"p0": "a", "p1": "b"})
            table = interactions.turned(pd.concat([held, words(HAND)]), {"a", "b"})
            pd.testing.assert_frame_equal(table, sign * words(HAND))

    def test_the_summary_by_hand(self):
        """Times the largest dose, 5: contrast 10, standard error 5 sqrt(7/4) = 6.6144; the words shift
        by 2.5 x 5. A two-sided t test at 5 % of an effect as large as `detectable` has power 0.8."""
        frame = pd.concat([shifts(words(HAND), c) for c in "abr"] + [shifts(0 * words(HAND), "0")])
        kinds = {"a": "secondary feature", "b": "primary feature, all paths"}
        kinds |= {"r": "random direction", "0": "secondary feature"}
        table = interactions.summary(frame, kinds, bound=20)
        assert table.index.tolist() == [*"abr0"] and table.index.name == "condition"
        row, df = table.loc["a"], 1.75**2 / (1 + 1 / 4 + 1 / 64)
        assert (row.estimate, row.se) == pytest.approx((10, 5 * 1.75**0.5))
        assert (row["shift"], row.F) == pytest.approx((12.5, 4 / 1.75))
        assert (row.estimate_over_bound, row.lo_over_bound) == pytest.approx((0.5, row.lo / 20))
        assert row.hi_over_bound == pytest.approx(row.hi / 20)
        assert table.p_holm[["a", "b"]].tolist() == pytest.approx([2 * row.p] * 2)  # two are tested
        assert pd.isna(table.p_holm[["r", "0"]]).all()
        still = ["p", "F", "estimate_over_bound", "lo_over_bound", "detectable"]
        assert pd.isna(table.loc["0", still]).all() and table["shift"]["0"] == 0
        critical, ncp = st.t.isf(0.025, df), row.detectable / row.se
        power = st.nct.sf(critical, df, ncp) + st.nct.cdf(-critical, df, ncp)
        assert power == pytest.approx(0.8, rel=1e-4)

    @pytest.mark.parametrize("sign", [1, -1])
    def test_an_effect_is_ruled_out_by_two_one_sided_tests(self, sign):
        """The larger p of the two is below 5 %; a clamp that moves nothing rules out nothing."""
        frame = shifts(words(sign * np.array(HAND)))
        row = designs.interactions(interactions.slopes(frame)).loc["both random"]
        edge = abs(row.estimate) + st.t.ppf(0.95, row.df) * row.se
        for bound, ruled_out in {0.999 * edge: False, 1.001 * edge: True}.items():
            table = interactions.summary(frame, {"c": "random direction"}, bound)
            assert table.ruled_out.tolist() == [ruled_out]
            t = st.t(row.df)
            p = max(t.sf((row.estimate + bound) / row.se), t.cdf((row.estimate - bound) / row.se))
            assert (p < 0.05) == ruled_out
        still = frame.assign(value=0.0)
        table = interactions.summary(still, {"c": "random direction"}, 1)
        assert table.ruled_out.tolist() == [False]

    def test_shifts_of_groups_by_hand(self):
        """The slopes of formal, emotional words average 5, of casual, neutral ones 1: at -4, 0 and 4
        shifts of -25, -5, 15 and of -5, -1, 3. Holm: the smallest p times 4."""
        frame = shifts(words(HAND))
        groups = interactions.group_shifts(frame)
        assert groups.shifts["FH"] == pytest.approx([-25, -5, 15])
        assert groups.shifts["CL"] == pytest.approx([-5, -1, 3])
        assert groups.shifts["CH"] == pytest.approx([-10, -2, 6])
        p = {g: designs.mean_test(np.array(HAND)[:, i : i + 2]).p for g, i in
             {"CL": 0, "CH": 2, "FL": 4, "FH": 6}.items()}  # fmt: skip
        smallest = min(p, key=p.get)
        assert groups.p[smallest] == pytest.approx(min(1, 4 * p[smallest]))
        assert groups.p.max() <= 1 and all(groups.p[g] >= p[g] for g in p)
        assert interactions.group_shifts(frame.assign(value=0.0)).p.isna().all()
        still = (frame.formality == "casual") & (frame.emotion == "neutral")
        one = interactions.group_shifts(frame.assign(value=frame.value.where(~still, 0.0)))
        assert one.p.isna().all()  # four tests are corrected for, or none

    def test_contrasts_per_multiplier_by_hand(self):
        """At -4 five times the negative of `HAND`: contrast -10; F does not depend on the dose."""
        frame = shifts(words(HAND))
        table = interactions.contrasts(frame[frame.multiplier != 1], "published").loc["c"]
        assert table.index.tolist() == [-4, 0, 4]
        assert table.estimate.tolist() == pytest.approx([-10, -2, 6])
        assert table.F.tolist() == pytest.approx([6] * 3)
        two = pd.concat([frame.iloc[::-1].assign(condition="d"), frame])
        order = [("d", m) for m in (4, 1, 0, -4)] + [("c", m) for m in (-4, 0, 1, 4)]
        assert interactions.contrasts(two).index.tolist() == order
        both = interactions.contrasts(frame).loc["c"]
        assert both.F.tolist()[::3] == pytest.approx([4 / 1.75] * 2) and pd.isna(both.F[1])


class TestSeeds:
    """What is put together over seeds."""

    def test_seeds_whose_contrasts_differ_by_hand(self):
        """`HAND`, contrast 2 with variance 7/4, and the same with 3, 0 and 6 added to its last cell:
        contrasts 5, 2, 8, mean 5, variance 9 / 3 seeds; nothing else differs between seeds. V = 3 +
        7/4, df = V² / (3²/2 + (7/4)²/2.4198)."""
        last = np.repeat([0, 0, 0, 1], 2)
        test = interactions.over_seeds([words(HAND + shift * last) for shift in (3, 0, 6)])
        df = 1.75**2 / (1 + 1 / 4 + 1 / 64)
        df = (3 + 1.75) ** 2 / (3**2 / 2 + 1.75**2 / df)
        assert (test.estimate, test.se, test.df) == pytest.approx((5, 4.75**0.5, df))
        half = st.t.isf(0.025, df) * 4.75**0.5
        assert (test.lo, test.hi) == pytest.approx((5 - half, 5 + half))

    def test_seeds_that_agree_and_a_single_one_add_nothing(self):
        alone = designs.interactions(words(HAND)).loc["both random"]
        for n in (1, 2, 5):
            test = interactions.over_seeds([words(HAND)] * n)
            each = test.pop("each_seed")
            assert test.to_dict() == pytest.approx(alone.to_dict())
            ends = pytest.approx([alone.estimate, alone.lo, alone.hi])
            assert each is None if n == 1 else each == [ends] * n
        still = interactions.over_seeds([0 * words(HAND)] * 2)
        assert still.estimate == 0 and pd.isna([still.p, still.lo]).all()
        assert still.each_seed == [[None] * 3] * 2

    def test_the_variance_is_that_of_three_crossed_random_factors(self):
        """Mean squares of seeds, prompts, words, less those of pairs, plus that of all three (Cornfield
        & Tukey 1956), over the number of values."""
        rng, shape = np.random.default_rng(0), (4, 5, 6)
        y = 0.1 * rng.normal(size=shape)
        for factors in ("s", "p", "w", "sp", "sw", "pw"):
            sizes = [n if name in factors else 1 for name, n in zip("spw", shape, strict=True)]
            y = y + rng.normal(size=sizes)
        squares = {}
        for factors in ("s", "p", "w", "sp", "sw", "pw", "spw"):
            df = np.prod([n - 1 for n, name in zip(shape, "spw", strict=True) if name in factors])
            effect = y.copy()
            for axis, name in enumerate("spw"):  # sweep out, or average over, each factor
                mean = effect.mean(axis=axis, keepdims=True)
                effect = effect - mean if name in factors else mean + 0 * effect
            squares[factors] = (-1) ** (len(factors) - 1) * (effect**2).sum() / df
        test = interactions.over_seeds(list(y), designs.mean_test)
        assert (test.estimate, test.se**2) == pytest.approx(
            (y.mean(), sum(squares.values()) / y.size)
        )

    def test_splices_of_seeds_are_averaged(self):
        """Absolute 1.5 and 3 on average; less each prompt's mean 1 and 2."""
        one = np.array([[1.0, -1.0], [3.0, 1.0]])
        found = interactions.spliced(one, 2 * one).estimate.to_dict()
        assert found == pytest.approx({"moved": 2.25, "relative": 1.5, "bound": 0.15})

    def test_the_p_that_most_seeds_show_it(self):
        """Benjamini & Heller 2008 by hand: u of n seeds, (n - u + 1) times the u-th smallest p."""
        names = PAGE | {"undefined": "nothing moves"}
        in_most = types.FunctionType(PAGE["in_most"].__code__, names)
        p_of = pd.Series({4: 0.3, 1: 0.01, 2: np.nan}, dtype=object)  # the second of three, twice
        seed, frame = in_most(p_of, quantity="p")
        assert (seed, *frame.loc[0, ["value", "unit"]]) == (4, pytest.approx(0.6), "p")
        assert frame.each_seed[0] == [[0.3, None, None], [0.01, None, None], [None, None, None]]
        assert in_most(p_of + 0.5)[1].value[0] == 1
        missing = in_most(p_of * np.nan)[1]
        assert (missing.value[0], missing.unit[0]) == (None, "nothing moves")
        one = in_most(p_of.loc[[1]])[1]
        assert (one.value[0], one.each_seed[0]) == (0.01, None)
        five = in_most(pd.Series([0.5, 0.001, 0.004, 1.0, 0.002]))  # a lucky one does not decide
        assert (five[0], five[1].value[0]) == (2, pytest.approx(3 * 0.004))

    def test_most_seeds_rarely_show_what_two_of_five_have(self):
        """Where two seeds always show it and three never do, at most 5 % of draws reject."""
        names = PAGE | {"undefined": "nothing moves"}
        in_most = types.FunctionType(PAGE["in_most"].__code__, names)
        draws = np.random.default_rng(0).uniform(size=(1000, 3))
        rejected = [in_most(pd.Series([0, 0, *p]))[1].value[0] < 0.05 for p in draws]
        assert 0.02 < np.mean(rejected) < 0.065  # the smallest of three, three times: 4.9 %

    def test_the_least_selective_feature_is_measured_on_the_other_half(self):
        design, values = planted(3)
        features, _ = interactions.discover(design, values[[1, 5, 7]], draws=1)
        names = PAGE | {
            "answers": {"formality_emotion": {"secondary 5": values}},
            "ours": {5: features.assign(dictionary="secondary")},
            "first": design, "confirmation": design[design.half == "confirmation"], "effect": EFFECT,
        }  # fmt: skip
        rows = types.FunctionType(PAGE["least_selective"].__code__, names)(5)
        i = features.groupby("feature").F.max().idxmin()

        def contrasts(half):
            names = ["half", "topic", "formality", "emotion"]
            y = values[i].groupby([design[name] for name in names]).mean()
            y = y[half].unstack(["formality", "emotion"])
            casual, formal = (y[x, "emotional"] - y[x, "neutral"] for x in ("casual", "formal"))
            return formal - casual

        unit = np.sign(contrasts("discovery").mean()) * values[i][design.half == "discovery"].mean()
        assert rows.contrast.to_numpy() == pytest.approx(contrasts("confirmation") / (unit / 2))
        assert rows.topics.tolist() == [1] * 32


def test_numbers_that_are_missing_say_why():
    values = {"F": (2.0, "F"), ("shift", "FL"): ([1.0, 2.0], "logit"), "p": (np.nan, "p")}
    frame = interactions.numbers(values, "undefined", model="clamp", n=3, of="prompts")
    assert frame.value.tolist() == [2.0, [1.0, 2.0], None]
    assert frame.unit.tolist() == ["F", "logit", "undefined"]
    assert frame["part"].tolist() == ["", "FL", ""] and set(frame.n) == {3}
    alone = interactions.numbers({"F": (2.0, "F"), "p": (np.nan, "p")}, model="clamp")
    assert alone.value.tolist() == [2.0, None] and alone.unit.tolist() == ["F", ""]


class TestFigures:
    """Data and labels on the axes."""

    @pytest.fixture(autouse=True)
    def closed(self):
        yield
        plt.close("all")

    def means(self):
        design, values = planted(6)
        return designs.cell_means(design, values[[0, 1, 3]].add_prefix("x "), FACTORS)

    def test_cells(self):
        figure = figures_interactions.cells(self.means())
        titles = [ax.get_title(loc="left") for ax in figure.axes]
        assert titles == ["x 0", "x 1", "x 3", ""] and not figure.axes[3].get_visible()
        assert [t.get_text() for t in figure.legends[0].get_texts()] == ["casual", "formal"]
        rows = self.means().query("feature == 'x 1' and formality == 'formal'")
        line = figure.axes[1].get_legend_handles_labels()[0][1][0]
        assert line.get_ydata().tolist() == rows.value.tolist()

    def test_heat_map_is_relative_to_the_largest_cell(self):
        axes = figures_interactions.heat_map(self.means())
        values = axes.collections[0].get_array()
        assert values.shape == (3, 4) and np.allclose(values.max(axis=1), 1)
        assert [t.get_text() for t in axes.get_yticklabels()] == ["x 0", "x 1", "x 3"]

    def test_volcano_and_words(self):
        table = pd.DataFrame({"d": [0.1, -2.0], "p": [0.5, 1e-6], "q": [0.5, 1e-4]})
        axes = figures_interactions.volcano(table.assign(dictionary="primary")).axes[0]
        legend = [t.get_text() for t in axes.get_legend().get_texts()]
        assert legend == ["does not pass (1)", "passes (1)"]
        assert axes.lines[1].get_xydata().tolist() == [[-2, pytest.approx(6)]]
        panels = figures_interactions.word_scatter(shifts(words(HAND))).axes
        assert panels[1].get_title(loc="left") == "formal, emotional"
        assert panels[1].lines[1].get_ydata().tolist() == [-25, -5, 0, 15]

    def test_doses_and_bounds(self):
        rows = pd.DataFrame({"condition": "c", "multiplier": [4.0, 1.0], "estimate": [1.0, 0.0]})
        rows = rows.assign(lo=[0.5, np.nan], hi=[1.5, np.nan])
        axes = figures_interactions.dose_response(rows, {"c": "random direction"}).axes[0]
        assert axes.get_title(loc="left") == "random direction"
        assert axes.lines[0].get_xydata().tolist() == [[1, 0], [4, 1]]
        table = interactions.summary(
            pd.concat([shifts(words(HAND), "a"), shifts(0 * words(HAND), "b")]),
            {"a": "random direction", "b": "random direction"}, bound=20,
        )  # fmt: skip
        axes = figures_interactions.over_bound(table)
        assert [t.get_text() for t in axes.get_yticklabels()] == ["a"]
        assert axes.lines[0].get_xdata().tolist() == [0.5]
