"""The chapter on behaviour: its conditions, which windows see which, and its estimates against plain arithmetic."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from companion import ledger, profiles, variants
from companion.chapters import behaviour, behaviour_results
from companion.figures import behaviour as figures_behaviour
from featint import activations, downstream, harvest, lm
from featint.config import NFMConfig, SAEConfig, TrainConfig
from featint.joint import JointSAE
from featint.nfm import NFM
from featint.runs import Trained
from featint.sae import TopKSAE


@pytest.fixture
def tiny(tiny_harvest):
    """A profile of the tiny model's size."""
    harvest.harvest(tiny_harvest)
    return replace(
        profiles.smoke(),
        d_in=32,
        harvest=tiny_harvest,
        sae=SAEConfig(d_sae=64, k=4),
        nfm=NFMConfig(d_factor=3),
        train=TrainConfig(n_tokens=1024),
        splice_windows=6,
        bootstrap=40,
    )


def untrained(config, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sae = TopKSAE(32, config.sae, generator)
    model = (
        sae
        if config.nfm is None
        else JointSAE(sae, NFM(32, config.sae.d_sae, config.nfm, generator))
    )
    return Trained(
        config,
        model.requires_grad_(False).eval(),
        pd.DataFrame(),
        torch.zeros(1),
        torch.zeros(1),
        0.0,
        {},
        "",
    )


@pytest.fixture
def models(tiny):
    return {name: untrained(variants.get(name, tiny)) for name in variants.CHAPTERS["behaviour"]}


MEASURED = []


@pytest.fixture
def measured(request):
    """The forward passes of all tests that only read them, made once."""
    if not MEASURED:
        MEASURED.append(
            behaviour.measure(
                request.getfixturevalue("models"), request.getfixturevalue("tiny"), draws=2
            )
        )
    return MEASURED[0]


def rows(kl, condition="sae", draw=-1, article=0, **more):
    """Rows of `downstream.evaluate` with these KLs."""
    n = len(kl)
    frame = {
        "condition": condition,
        "draw": draw,
        "window": 0,
        "position": range(1, n + 1),
        "article": article,
        "kl": kl,
    }
    return pd.DataFrame(
        frame | {"ce_clean": 1.0, "ce_spliced": 1.5, "top1_same": True, "error_norm": 2.0} | more
    )


def test_conditions_are_those_that_readers_see(models, tiny):
    acts = activations.load(tiny.harvest, "test")
    found = behaviour.controlled_conditions(models, acts)
    assert set(found) == set(behaviour.LABELS)
    x = acts.raw(torch.arange(12)).float()
    z = acts.normalise(x)
    want = acts.denormalise(models["joint"].model(z).x_hat)
    torch.testing.assert_close(found["joint"](x), want, rtol=1e-4, atol=1e-5)
    own = acts.denormalise(models["joint"].model.sae(z).x_hat)
    torch.testing.assert_close(found["joint_own_path"](x), own, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        found["sae_error_50"](x) - x, 0.5 * (found["sae"](x) - x), rtol=1e-4, atol=1e-5
    )


def test_published_conditions_are_raw_and_the_interaction_alone_is_not_pooled(models):
    found = behaviour.published_conditions(models)
    x = 3 * torch.randn(9, 32, generator=torch.Generator().manual_seed(1))
    sae, nfm = models["sae_published"].model, models["sequential_published"].model.nfm
    codes = sae.encode(x)
    dense = torch.zeros(9, 64).scatter_(1, codes.indices.long(), codes.acts)
    out = dense @ sae.W_dec
    torch.testing.assert_close(found["sae"](x), out)
    plain = ((dense @ nfm.V) @ nfm.W_hidden + nfm.b_hidden).relu() @ nfm.W_out + nfm.b_out
    torch.testing.assert_close(found["sequential_interaction"](x), out + plain)
    torch.testing.assert_close(found["sequential_linear"](x), out + dense @ nfm.W_lin + nfm.b_lin)
    pooled = 0.5 * ((dense @ nfm.V).square() - dense.square() @ nfm.V.square())
    both = (
        out
        + dense @ nfm.W_lin
        + nfm.b_lin
        + (pooled @ nfm.W_hidden + nfm.b_hidden).relu() @ nfm.W_out
        + nfm.b_out
    )
    torch.testing.assert_close(found["sequential"](x), both)


def test_the_published_splice_is_one_block_later():
    assert behaviour.next_block("blocks.15.hook_resid_post") == "blocks.16.hook_resid_post"


def test_which_windows_see_what(measured, models, tiny):
    main, detail = behaviour.parts_of(measured)
    assert (
        measured.detail == 2
        and sorted(main.window.unique()) == list(range(6))
        and sorted(detail.window.unique()) == [0, 1]
    )
    assert set(main.condition) == set(behaviour.MAIN) and (main.draw == -1).all()
    assert set(detail.condition) == set(behaviour.LABELS) and sorted(detail.draw.unique()) == [
        -1,
        0,
        1,
    ]
    acts, language_model = activations.load(tiny.harvest, "test"), behaviour.load_lm(tiny)
    windows = harvest.windows(tiny.harvest).windows["test"].first(6)
    joint = behaviour.controlled_conditions(models, acts)["joint"]
    whole = downstream.evaluate(language_model, windows, tiny.harvest, {"joint": joint})
    key = ["window", "position"]
    ours = main[main.condition == "joint"].sort_values(key)
    np.testing.assert_array_equal(
        ours[[*key, "article"]], whole.sort_values(key)[[*key, "article"]]
    )
    np.testing.assert_allclose(ours.kl, whole.sort_values(key).kl, rtol=1e-3, atol=1e-5)
    assert (measured.published.position == 0).any() and not (detail.position == 0).any()


def test_further_seeds_are_paired_with_the_first(models, tiny):
    more = {f"{name}@1": untrained(variants.get(name, tiny, 1), seed=1) for name in behaviour.MAIN}
    found = behaviour.measure(models | more, tiny, draws=1)
    counts = found.controlled[found.controlled.draw < 0].groupby("condition").size()
    first = (
        found.controlled[(found.controlled.draw < 0) & (found.controlled.window < 2)]
        .groupby("condition")
        .size()
    )
    assert all(counts[f"{name}@1"] == first[name] < counts[name] for name in behaviour.MAIN)
    table = behaviour_results.over_seeds(found.controlled)
    each = []
    for end in ("", "@1"):
        kl = (
            found.controlled[(found.controlled.draw < 0) & (found.controlled.window < 2)]
            .groupby("condition")
            .kl.sum()
        )
        each.append(100 * (1 - kl[f"joint{end}"] / kl[f"sae{end}"]))
    assert (
        table.loc["joint/kl_reduction_vs_sae", "value"] == pytest.approx(np.mean(each), rel=1e-4)
        and table.n.eq(2).all()
    )


def test_sums_average_the_draws_of_a_twin():
    frame = pd.concat(
        [
            rows([1.0, 2.0]),
            rows([4.0], article=1),
            rows([0.5, 0.5], draw=0),
            rows([1.0], draw=0, article=1),
            rows([1.5, 0.5], draw=1),
            rows([3.0], draw=1, article=1),
        ],
        ignore_index=True,
    )
    found = behaviour.sums(frame)
    assert found["kl/sae"].tolist() == [3.0, 4.0] and found["kl/sae~"].tolist() == [1.5, 2.0]
    assert (
        found.tokens.tolist() == [2, 1]
        and found.ce_clean.tolist() == [2.0, 1.0]
        and found["top1/sae"].tolist() == [2, 1]
    )
    with pytest.raises(ValueError, match="misses some of the articles"):
        behaviour.sums(pd.concat([frame, rows([1.0], "joint")]))


def test_estimates_are_quotients_of_means_over_tokens(measured):
    found = behaviour_results.estimate(measured, 40)
    main, detail = behaviour.parts_of(measured)
    kl, ce = (
        main.groupby("condition")[column].agg(lambda x: x.astype("float64").mean())
        for column in ("kl", "ce_spliced")
    )
    clean = main[main.condition == "sae"].ce_clean.astype("float64").mean()
    assert found.main.loc["joint/kl_reduction_vs_sae", "value"] == pytest.approx(
        100 * (1 - kl["joint"] / kl["sae"]), rel=1e-4
    )
    assert found.main.loc["joint/ce_reduction_vs_sae", "value"] == pytest.approx(
        100 * (1 - (ce["joint"] - clean) / (ce["sae"] - clean)), rel=1e-4
    )
    sae = detail[detail.condition == "sae"]
    want = sae[sae.draw < 0].kl.mean() / sae[sae.draw >= 0].kl.mean()
    assert found.detail.loc["sae/kl_ratio", "value"] == pytest.approx(want)
    by = measured.published[measured.published.draw < 0].groupby("condition").kl.mean()
    assert found.published.loc["sequential/kl_reduction", "value"] == pytest.approx(
        100 * (1 - by["sequential"] / by["sae"])
    )
    path = {
        kind: found.detail.loc[f"joint/contribution_interaction_{kind}", "value"]
        for kind in ("alone", "last", "shapley")
    }
    level = found.detail["value"]
    assert path["alone"] == pytest.approx(
        100 * (1 - level["joint_interaction/kl"] / level["joint_own_path/kl"])
    )
    assert path["shapley"] == pytest.approx((path["alone"] + path["last"]) / 2)


def test_results_hold_every_value_that_the_ledger_asks_for(measured):
    found = behaviour_results.values(measured, behaviour_results.estimate(measured, 40))
    for entry in ledger.entries():
        for field, protocol in (("as_published", "as published"), ("controlled", None)):
            if entry[field] and entry[field].startswith("behaviour:"):
                value = found[entry[field].removeprefix("behaviour:")]
                assert protocol is None or value.protocol == protocol
                wanted = ledger.expected_unit(entry, field)
                assert wanted is None or value.unit.split(";")[0] == wanted


def test_token_tests_are_the_ones_quoted(measured):
    found = behaviour_results.token_tests(measured.published)
    own = measured.published[measured.published.draw < 0]
    a, b = (own[own.condition == c].kl for c in ("joint_own_path", "joint"))
    t = (a.mean() - b.mean()) / np.sqrt((a.var() + b.var()) / 2 * (1 / len(a) + 1 / len(b)))
    assert 0 <= found["joint/kl_smallest_t"][0] <= abs(t) * (1 + 1e-9)
    assert 0 <= found["joint/largest_p"][0] <= 1


def test_frames_for_the_figures(measured):
    estimates = behaviour_results.estimate(measured, 40)
    table = behaviour_results.condition_table(estimates)
    assert list(table.index) == list(behaviour.LABELS.values()) and table.notna().all().all()
    by = behaviour_results.position_rows(measured)
    main = behaviour.parts_of(measured)[0]
    joint = by[(by.condition == "joint") & (by.protocol == "controlled")].set_index("position")
    assert joint.n.sum() == (main.condition == "joint").sum() and joint.index.tolist() == [
        1,
        2,
        4,
        8,
    ]
    want = main[(main.condition == "joint") & main.position.between(4, 7)].kl.mean()
    assert joint.loc[4, "kl"] == pytest.approx(want)
    naive = behaviour_results.naive_table(measured)
    assert len(naive) == 6 and naive.n.iloc[-1] == main.article.nunique()
    shown = {c: label for c, label in behaviour.LABELS.items() if c in figures_behaviour.ROLES}
    levels = behaviour_results.levels(estimates).drop(index=["zero", "mean"])
    whole, near = figures_behaviour.norm_curve(levels, shown).axes
    points = {tuple(line.get_xydata()[0]) for line in whole.lines if len(line.get_xydata()) == 1}
    assert points == {tuple(levels.loc[c, ["error_norm", "kl"]]) for c in shown}
    assert any(
        tuple(line.get_xydata()[0]) == tuple(levels.loc["sae", ["error_norm", "kl"]])
        for line in near.lines
    )
    assert (
        lm.BATCH_WINDOWS > measured.detail
    )  # both parts of the windows fit into batches of their own
