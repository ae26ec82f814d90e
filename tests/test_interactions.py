"""Selection on one half, measurement on the other; the chapter's numbers on planted data."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats as st

from companion import crossed, stats, stimuli
from companion.chapters import clamp_choice, clamping, interaction_results, interactions
from companion.figures import interactions as figures_interactions
from featint import interventions
from featint.config import NFMConfig, SAEConfig
from featint.interventions import multiplied
from featint.joint import JointSAE
from featint.kernels.sparse import Codes
from featint.lm import Reading
from featint.nfm import NFM
from featint.sae import TopKSAE
from featint.secondary import SecondarySAE

FACTORS = clamping.FACTORS


def planted(seed: int, n_topics: int = 32, n_features: int = 40, interaction: float = 0.0):
    """Sentences of 2 x n_topics topics; feature 0 has an interaction, 1 a main effect of formality, 2 never fires, the others are noise."""
    rng = np.random.default_rng(seed)
    rows = [
        (f"t{i:02d}", stimuli.HALVES[i % 2], f, e, "text")
        for i in range(2 * n_topics)
        for f in FACTORS["formality"]
        for e in FACTORS["emotion"]
    ]
    design = pd.DataFrame(rows, columns=["topic", "half", "formality", "emotion", "text"])
    values = rng.exponential(size=(len(design), n_features))
    formal, emotional = (
        (design.formality == "formal").to_numpy(),
        (design.emotion == "emotional").to_numpy(),
    )
    values[:, 0] += interaction * (formal & emotional)
    values[:, 1] += 3 * formal
    values[:, 2] = 0
    return design, pd.DataFrame(values)


def test_a_planted_interaction_is_found_and_a_main_effect_is_not_taken_for_one():
    design, values = planted(0, interaction=3.0)
    found = interactions.discover(design, values, draws=20)
    assert 2 not in found.live and len(found.live) == 39
    assert found.ranked("formality x emotion").index[0] == 0
    table = interactions.passes({("d", "x"): found}).set_index("effect")
    assert (
        table.loc["formality x emotion", "pass"] == 1
        and table.loc["formality x emotion", "held"] == 1
    )
    assert table.loc["formality", "held"] >= 1 and found.ranked("formality").index[0] in (0, 1)
    assert (table["shuffled, mean"] < 1).all()
    assert found.least_selective(pd.Index([0, 1, 5])) == 5


def test_selected_effects_shrink_on_the_other_half_when_nothing_is_there():
    """Double dipping: the best of forty noise features looks strong where it was chosen, and is noise where it was not."""
    chosen, held = [], []
    for seed in range(60):
        design, values = planted(seed)
        best = (
            interactions.discover(design, values, draws=1, seed=seed)
            .ranked("formality x emotion")
            .iloc[0]
        )
        chosen.append(best.F)
        held.append(best.F_confirmation)
    assert np.median(chosen) > st.f.isf(0.05, 1, 31)
    assert (
        0 <= np.mean(np.array(held) > st.f.isf(0.05, 1, 31)) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 60)
    )


def test_cell_means_have_the_within_topic_interval():
    design, values = planted(1)
    frame = interactions.cell_means(
        design, values + design.topic.map(hash).mod(97).to_numpy()[:, None], [5], "x"
    )
    plain = interactions.cell_means(design, values, [5], "x")
    np.testing.assert_allclose(
        frame.hi - frame.lo, plain.hi - plain.lo, rtol=1e-9
    )  # a topic's level does not widen it
    part = design[design.half == "confirmation"]
    wide = (
        values.loc[part.index, 5].to_numpy().reshape(-1, 2, 2)
    )  # casual, formal x neutral, emotional
    assert plain.set_index(["formality", "emotion"]).value["formal", "neutral"] == pytest.approx(
        wide[:, 1, 0].mean()
    )


def test_the_published_one_way_test_is_scipys():
    design, values = planted(2, interaction=1.0)
    table = interactions.one_way(design, values)
    groups = [
        values.loc[(design.formality == f) & (design.emotion == e), 0]
        for f in FACTORS["formality"]
        for e in FACTORS["emotion"]
    ]
    assert (table.F[0], table.p[0]) == pytest.approx(tuple(st.f_oneway(*groups)))
    assert 2 not in table.index and interactions.strongest_primary(design, values) == 1


def test_a_contrast_over_its_bound_by_hand():
    design, values = planted(3, interaction=0.5)
    found = interactions.contrast_over_bound(design, values, 0)
    cells = values.loc[design.half == "confirmation", 0].to_numpy().reshape(-1, 4)
    scores = cells @ [1, -1, -1, 1] / (0.5 * values.loc[design.half == "discovery", 0].mean())
    assert found.value == pytest.approx(scores.mean()) and found.n == 32
    assert (found.lo, found.hi) == pytest.approx(
        tuple(st.ttest_1samp(scores, 0).confidence_interval())
    )


def test_silent_designs_are_refused():
    design, values = planted(4)
    with pytest.raises(ValueError, match="no feature fires on any sentence of the discovery half"):
        interactions.discover(design, values[[2]])


def test_multiplied_touches_one_feature_only():
    codes = Codes(torch.tensor([[1.0, 2.0], [3.0, 0.5]]), torch.tensor([[4, 7], [7, 1]]))
    assert multiplied(codes, 7, -4.0).acts.tolist() == [[1.0, -8.0], [-12.0, 0.5]]
    assert torch.equal(multiplied(codes, 3, -4.0).acts, codes.acts)


def test_a_secondary_feature_moves_something_only_where_a_relu_opens():
    generator = torch.Generator().manual_seed(0)
    model = JointSAE(
        TopKSAE(6, SAEConfig(d_sae=20, k=4), generator),
        NFM(6, 20, NFMConfig(d_factor=3, dropout=0.0), generator),
    ).eval()
    inside = SecondarySAE(
        TopKSAE(3, SAEConfig(d_sae=12, k=2), generator), torch.zeros(3), torch.full((3,), 0.01)
    )
    tokens = torch.randn(9, 6, generator=generator)
    x = tokens.reshape(3, 3, 6)
    reading = Reading("blocks.0.hook_resid_post", torch.zeros(3, 3, dtype=torch.bool), x, x)
    site = object.__new__(interventions.Site)  # without the language model, which is not asked
    for name, value in {
        "prompts": ["a", "b", "c"],
        "reading": reading,
        "mean": torch.zeros(6),
        "std": torch.ones(6),
    }.items():
        object.__setattr__(site, name, value)
    with torch.no_grad():
        fires = clamp_choice.firing(site, inside.encode(model.nfm.hidden(model.encode(tokens))), 12)
        changes = [
            [
                interventions.secondary(model, inside, i, m)(tokens).abs().sum(1)
                for m in clamping.MULTIPLIERS
            ]
            for i in range(12)
        ]
        slow = torch.stack([torch.stack(c).sum(0) for c in changes]).reshape(12, 3, 3).sum(2).T > 0
        found = clamp_choice.moving(site, model, inside)
        assert torch.equal(clamp_choice.clampable(site, model, inside), found)
        assert torch.equal(found, slow) and found.any() and not (found & ~fires).any()
        model.nfm.b_hidden.fill_(-1e3)
        shut = clamp_choice.moving(site, model, inside)
        fires = clamp_choice.firing(site, inside.encode(model.nfm.hidden(model.encode(tokens))), 12)
        instead = clamp_choice.clampable(site, model, inside)
    assert not shut.any() and fires.any() and torch.equal(instead, fires)


def test_a_clamp_that_moves_nothing_has_no_test():
    assert (
        interaction_results._number(None, 20, "F").value is None
        and interaction_results._number(float("nan"), 20, "p").value is None
    )
    assert interaction_results._number(0.5, 20, "x", (0.1, 0.9)).ci == (0.1, 0.9)


def clamp_frame(
    seed: int, contrast: float = 0.0, n_prompts: int = 28, n_words: int = 16
) -> pd.DataFrame:
    """Shifts that are linear in the dose, with word and prompt noise around a planted contrast per unit of the dose."""
    rng = np.random.default_rng(seed)
    words = pd.DataFrame(
        [
            (f"w{f}{e}{i}", f, e)
            for f in FACTORS["formality"]
            for e in FACTORS["emotion"]
            for i in range(n_words)
        ],
        columns=["word", *FACTORS],
    )
    slope = (
        rng.normal(size=len(words)) * 0.3
        + contrast * ((words.formality == "formal") & (words.emotion == "emotional"))
        + np.zeros(len(words))
    )
    frames = []
    for p in range(n_prompts):
        own = slope + rng.normal(size=len(words)) * 0.3
        frames += [
            words.assign(prompt=f"p{p}", condition="c", multiplier=m, value=(m - 1) * own)
            for m in clamping.MULTIPLIERS
        ]
    return pd.concat(frames, ignore_index=True)


def test_slopes_levels_and_groups_of_a_linear_response():
    frame = clamp_frame(0, contrast=1.0)
    prompts = list(frame.prompt.unique())
    apart = clamp_choice.selection(prompts)
    assert len(apart) == clamp_choice.SELECTION_PROMPTS and set(apart) < set(prompts)
    rest = [p for p in prompts if p not in apart]
    whole = clamping.both_random(clamping.slopes(frame, "c", rest))
    level = clamping.at_level(frame, "c", -4.0, apart)
    # at -4 the dose is -5: the same contrast, its sign turned by the held-apart prompts
    assert level.estimate == pytest.approx(whole.estimate) and (
        level.lo,
        level.hi,
    ) == pytest.approx((whole.lo, whole.hi))
    groups = clamping.group_shifts(frame, "c", rest)
    assert groups.p.idxmin() == "FH" and (groups.p_holm >= groups.p).all()
    means = (
        frame[
            frame.prompt.isin(rest) & (frame.formality == "formal") & (frame.emotion == "emotional")
        ]
        .groupby("multiplier")
        .value.mean()
    )
    assert groups.shifts["FH"] == pytest.approx([means[-4], means[0], means[4]])


def test_prompts_that_move_are_counted():
    frame = clamp_frame(1, n_prompts=6, n_words=2)
    frame.loc[frame.prompt.isin(["p0", "p1", "p4"]), "value"] = 0.0
    frame.loc[frame.index[(frame.prompt == "p1") & (frame.multiplier == 4)][0], "value"] = -1e-9
    assert (
        clamping.moved(frame, "c", [f"p{i}" for i in range(6)]) == 4
        and clamping.moved(frame, "c", ["p0", "p3"]) == 1
    )


def test_the_summary_corrects_and_bounds():
    frame = pd.concat(
        [clamp_frame(i, contrast=2.0 * (i == 0)).assign(condition=f"c{i}") for i in range(3)]
        + [clamp_frame(9).assign(condition="none", value=0.0)]
    )
    kinds = {
        "c0": "secondary feature",
        "c1": "primary feature, all paths",
        "c2": "random direction",
        "none": "inactive secondary feature",
    }
    conditions = {name: clamping.Condition(kind, 0, None) for name, kind in kinds.items()}
    table = clamping.summary(frame, conditions, bound=2.5, apart=[])
    assert table.p_holm["c0"] == pytest.approx(min(1, 2 * table.p["c0"])) and pd.isna(
        table.p_holm["c2"]
    )
    assert table.estimate_over_bound["c0"] == pytest.approx(table.estimate["c0"] / 2.5)
    assert (
        table.linear["c0"] == pytest.approx(1)
        and table["shift"]["none"] == 0
        and pd.isna(table.p["none"])
    )
    row = table.loc["c1"]
    assert stats.power(row.detectable, row.se, float(row.df)) == pytest.approx(0.8)


def test_published_tests_pair_by_list_position():
    frame = clamp_frame(1)
    table = clamping.published_tests(frame)
    rows = frame[frame.multiplier == -4]
    pick = lambda f, e: rows[(rows.formality == f) & (rows.emotion == e)].value.to_numpy()  # noqa: E731
    reference = st.f_oneway(
        pick("formal", "emotional") - pick("formal", "neutral"),
        pick("casual", "emotional") - pick("casual", "neutral"),
    )
    assert (table.F["c", -4.0], table.p["c", -4.0]) == pytest.approx(
        (reference.statistic, reference.pvalue)
    )
    assert ("c", 1.0) not in table.index


def test_false_positive_rates_say_how_far_from_five_percent():
    rates = clamping.false_positive_rates(
        {"c": clamping.slopes(clamp_frame(2), "c", [f"p{i}" for i in range(28)])}, shuffles=200
    ).set_index("test")
    assert rates.lo["both random"] <= 0.05 <= rates.hi["both random"]
    assert (
        rates.rate["by prompt"] > 0.2 and rates["tail"]["by prompt"] < 1e-6
    )  # words taken for fixed


def test_mean_test_is_the_one_sample_t_where_words_add_nothing():
    """With one value per prompt repeated over words, the prompts are all there is."""
    column = np.random.default_rng(0).normal(1, 1, size=(12, 1))
    test, reference = (
        crossed.mean_test(np.repeat(column, 5, axis=1)),
        st.ttest_1samp(column[:, 0], 0),
    )
    assert (test.t, test.p) == pytest.approx((reference.statistic, reference.pvalue))
    with pytest.raises(ValueError, match="12 prompts and 1 words: at least 2"):
        crossed.mean_test(column)


def test_mean_test_keeps_its_level_with_both_random():
    hits = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        values = rng.normal(size=(15, 1)) + rng.normal(size=(1, 12)) + rng.normal(size=(15, 12))
        hits += crossed.mean_test(values).p < 0.05
    assert (
        st.binomtest(hits, 400).proportion_ci(0.95).low
        <= 0.05
        <= st.binomtest(hits, 400).proportion_ci(0.95).high
    )


def test_features_to_clamp_fire_on_the_held_apart_prompts():
    design, values = planted(5, interaction=3.0)
    found = interactions.discover(design, values, draws=1)
    fires = torch.ones(10, 40, dtype=torch.bool)
    fires[:, 0], fires[:, 3] = False, False
    fired = torch.ones(40, dtype=torch.int64)
    fired[3] = 0
    chosen = clamp_choice.choose(found, fires, fired, [True] * 4 + [False] * 6, 5)
    assert 0 not in chosen.selective and len(chosen.selective) == 5 and chosen.inactive == 0
    assert (
        clamp_choice.choose(found, fires, fired, [True] * 4 + [False] * 6, 2, wanted=0).selective[0]
        == 0
    )
    with pytest.raises(ValueError, match="feature = 3 is dead"):
        clamp_choice.choose(found, fires, fired, [True] * 10, 2, wanted=3)
    with pytest.raises(ValueError, match="feature = 40 is out of range"):
        clamp_choice.choose(found, fires, fired, [True] * 10, 2, wanted=40)
    seldom = torch.zeros_like(fires)
    seldom[0], seldom[1, [7, 9]], seldom[2, 7] = True, True, True
    chosen = clamp_choice.choose(found, seldom[1:], fired, [True] * 9, 2)
    assert (
        chosen.selective == [7] and chosen.unselective == 7
    )  # on two of nine, which is less than half, but more than any other
    with pytest.raises(ValueError, match="no live feature fires on any held-apart prompt"):
        clamp_choice.choose(found, torch.zeros_like(fires), fired, [True] * 10, 2)


class TestFigures:
    """Data and labels on the axes."""

    def test_cells(self):
        design, values = planted(6)
        figure = figures_interactions.cells(interactions.cell_means(design, values, [0, 1, 3], "x"))
        assert [ax.get_title(loc="left") for ax in figure.axes[:3]] == [
            "x 0",
            "x 1",
            "x 3",
        ] and not figure.axes[3].get_visible()
        assert [t.get_text() for t in figure.legends[0].get_texts()] == ["casual", "formal"]

    def test_heat_map_is_relative_to_the_largest_cell(self):
        design, values = planted(7)
        image = figures_interactions.heat_map(
            interactions.cell_means(design, values, [0, 1], "x")
        ).images[0]
        assert image.get_array().shape == (2, 4) and np.allclose(image.get_array().max(axis=1), 1)

    def test_volcano_and_words(self):
        table = pd.DataFrame({"d": [0.1, -2.0], "p": [0.5, 1e-6], "q": [0.5, 1e-4]})
        axes = figures_interactions.volcano({"primary": table}).axes[0]
        assert [t.get_text() for t in axes.get_legend().get_texts()] == [
            "does not pass (1)",
            "passes (1)",
        ]
        assert len(figures_interactions.word_scatter(clamp_frame(0)).axes) == 4

    def test_doses_and_bounds(self):
        rows = pd.DataFrame(
            {
                "condition": "c",
                "multiplier": [-4.0, 1.0, 4.0],
                "value": [1.0, 0.0, -1.0],
                "lo": [0.5, None, -1.5],
                "hi": [1.5, None, -0.5],
            }
        )
        figure = figures_interactions.dose_response(rows, {"c": "random direction"})
        assert figure.axes[0].get_title(loc="left") == "random direction"
        table = pd.DataFrame(
            {
                "kind": "random direction",
                "estimate_over_bound": [0.2, None],
                "lo_over_bound": [0.1, None],
                "hi_over_bound": [0.3, None],
            },
            index=["a", "b"],
        )
        assert [t.get_text() for t in figures_interactions.over_bound(table).get_yticklabels()] == [
            "a"
        ]
        assert (
            figures_interactions.activations({"one": np.array([0.0, 1.0, 2.0])})
            .axes[0]
            .get_title(loc="left")
            == "one: 2 of 3 above 0"
        )
