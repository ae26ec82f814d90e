"""The tuning plan, before anything is trained; what is measured of a trial, by hand; interaction
weights against their formula."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pages
import pandas as pd
import pytest
import torch

from companion import profiles, variants
from companion.chapters import best_chance
from companion.figures import comparisons
from companion.plots import COLOURS
from featint import activations, runs

FORMS = ["nfm", "polynomial", "mlp"]
FURTHER = [1.25, 0.8, 1.5, 0.65, 2.0]


def test_every_family_gets_as_many_trials_of_as_many_tokens():
    p = profiles.full()
    best = profiles.altered(variants.get("sae_short", p), {"train": {"lr_scale": {"W_dec": 2.0}}})
    grid = {"own_lr": [0.2, 0.5, 1.0], "widths": [4.0], "normalise": [False, True]}
    trials = best_chance.second_round(best, p, FORMS, **grid, further=FURTHER)
    assert trials["family"].value_counts().to_dict() == dict.fromkeys(["sae", *FORMS], 6)
    assert not trials.duplicated(["family", "setting"]).any()
    assert {config.train.n_tokens for config in trials["config"]} == {p.train.n_tokens // 4}
    paths = trials.loc[trials["family"] == "polynomial", "config"].tolist()
    assert [(c.train.lr_scale, c.nfm.normalise) for c in paths] == [
        ({"nfm": lr, "sae.W_dec": 2.0}, normalise)
        for lr in (0.2, 0.5, 1.0)
        for normalise in (False, True)
    ]
    for config in paths:  # 54 factors in the profile
        nfm = config.nfm
        assert (nfm.form, nfm.d_factor, nfm.dropout, nfm.linear) == ("polynomial", 216, 0, False)
        assert (config.target, config.sae, config.train.lr) == ("x", best.sae, best.train.lr)
    plain = trials.loc[trials["family"] == "sae", "config"].tolist()
    assert all(config.train.lr_scale == {"W_dec": 2.0} for config in plain)
    assert [c.train.lr / best.train.lr for c in plain] == pytest.approx(
        [1, 1.25, 0.8, 1.5, 0.65, 2]
    )
    assert [c.sae.d_sae > 4096 for c in plain] == [True, *[False] * 5]
    assert "216 factors, raw codes" in trials["setting"].iloc[0]


def test_the_wider_sae_has_as_many_parameters():
    p = profiles.laptop()
    grid = {"own_lr": [1.0], "widths": [1.0, 4.0], "normalise": [True], "further": FURTHER}
    trials = best_chance.second_round(variants.get("sae_short", p), p, FORMS, **grid)
    sizes = [
        sum(weights.numel() for weights in runs.build(config, p.d_in).parameters())
        for config in trials["config"]
    ]
    assert trials["family"].value_counts().to_dict() == dict.fromkeys(["sae", *FORMS], 2)
    narrow = best_chance.second_round(
        variants.get("sae_short", p), p, FORMS, **grid | {"widths": [0.001]}
    )
    assert narrow["config"][0].nfm.d_factor == 1
    # rounded to whole features of 2 x 576 + 1 parameters; the second trial has the widest path
    assert trials["family"][6] == "sae" and abs(sizes[6] - sizes[1]) <= 1153 / 2


@pytest.mark.parametrize(
    ("own_lr", "widths", "message"),
    [
        ([], [1.0], r"own_lr = \[\] must hold"),
        ([1.0], [0.0], r"widths = \[0.0\] must hold"),
        ([float("nan")], [1.0], "own_lr"),
        ([1.0] * 7, [1.0], "7 trials per family; the plain SAE has 6"),
    ],
)
def test_an_impossible_sweep_is_named_before_any_training(own_lr, widths, message):
    p = profiles.smoke()
    base = variants.get("sae_short", p)
    with pytest.raises(ValueError, match=message):
        best_chance.second_round(base, p, FORMS, own_lr, widths, [True], FURTHER)


def test_a_trial_is_measured_on_validation_text_and_never_chosen_if_it_diverged(p, monkeypatch):
    base, real = variants.get("sae_short", p), runs.get
    broken, slow = (
        profiles.altered(base, {"train": {"lr": base.train.lr * factor}}) for factor in (3.0, 0.1)
    )
    path = replace(variants.get("sae_interaction", p), train=base.train)
    trials = pd.DataFrame(
        [("sae", broken), ("sae", slow), ("sae", base), ("nfm", path)],
        columns=["family", "config"],
        index=[4, 5, 6, 7],
    )

    def get(config):
        if config == broken:
            raise FloatingPointError("the loss is nan")
        return real(config)

    monkeypatch.setattr(runs, "get", get)
    tried = best_chance.validate(trials, p)
    x = activations.load(p.harvest, "validation").pieces(9999)[0].double()
    fvu = [
        (
            ((x - real(config).model(x.float()).x_hat) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
        ).item()
        for config in trials["config"][1:]
    ]
    assert np.isnan(tried["fvu"].iloc[0]) and tried["fvu"].tolist()[1:] == pytest.approx(fvu)
    assert fvu[1] < fvu[0] - 0.01  # a tenth of the rate learns less
    assert tried["chosen"].tolist() == [False, False, True, True]
    lost = best_chance.validate(trials.iloc[:1], p)  # nothing that could be measured
    assert lost[["fvu", "parameters", "silent"]].isna().all(axis=None) and not lost.chosen.any()
    # 64 features of 32 dimensions: encoder, its bias, decoder and its bias; 3 factors, two layers
    assert tried["parameters"].tolist()[2:] == [4192, 4192 + 64 * 3 + 3 * 3 + 3 + 3 * 32 + 32]
    assert tried["silent"].isna().tolist() == [True, True, True, False]


@pytest.mark.parametrize("n", [1, 2])
def test_a_hidden_unit_that_is_pushed_below_zero_passes_nothing(p, n):
    trained = runs.get(variants.get("sae_interaction", p))
    trained.model.nfm.b_hidden.fill_(1e6)[:n] = -1e6
    x = activations.load(p.harvest, "validation").pieces()[0]
    assert best_chance.passing(trained, x).tolist() == [0] * n + [1] * (3 - n)
    silent = best_chance.validate(pd.DataFrame({"family": ["nfm"], "config": [trained.config]}), p)
    assert (
        silent["silent"].iloc[0]
        == (best_chance.passing(runs.get(trained.config), x) == 0).double().mean()
    )


def test_a_hidden_unit_passes_what_is_above_zero(p):
    trained = runs.get(variants.get("sae_interaction", p))
    trained.model.nfm.W_hidden.zero_()
    trained.model.nfm.b_hidden.copy_(torch.tensor([0.5, 0.0, -0.5]))
    x = activations.load(p.harvest, "validation").pieces()[0]
    assert best_chance.passing(trained, x).tolist() == [1, 0, 0]


@pytest.mark.parametrize("name", ["sae", "joint_no_interaction"])
def test_a_model_without_hidden_units_has_no_share(p, name):
    trained = runs.get(variants.get(name, p))
    x = activations.load(p.harvest, "validation").pieces()[0]
    assert len(best_chance.passing(trained, x)) == 0


def test_a_polynomial_has_no_hidden_units(p):
    config = profiles.altered(variants.get("sae_interaction", p), {"nfm": {"form": "polynomial"}})
    x = activations.load(p.harvest, "validation").pieces()[0]
    assert len(best_chance.passing(runs.get(config), x)) == 0


def test_a_warm_start_takes_over_the_sae_and_its_twin_keeps_the_path_as_it_began(p):
    plain, path = variants.get("sae_short", p), variants.get("sae_interaction", p)
    changes = {"sae": plain.sae, "base": plain, "train": {"n_tokens": 640}}
    start = profiles.altered(path, changes)
    frozen = profiles.altered(start, {"train": {"lr_scale": {"nfm": 0.0}}})
    before, after = runs.build(frozen, 32), runs.get(frozen).model
    assert torch.equal(before.sae.W_enc, runs.get(plain).model.W_enc)
    assert torch.equal(before.nfm.W_hidden, after.nfm.W_hidden)
    assert not torch.equal(before.sae.W_enc, after.sae.W_enc)


def test_pair_weights_by_their_definition(p):
    model = runs.get(variants.get("sae_interaction", p)).model
    acts = activations.load(p.harvest, "validation")
    codes = model.encode(acts.pieces(9999)[0]).dense(64).double()[:, :12]
    V = model.nfm.V.double()[:12]
    pairs = pages.functions("best_chance")["about_pairs"](codes, V)
    expected = [
        (
            np.linalg.norm(V[i] * V[j]),
            sum(1 for a, b in codes[:, [i, j]].tolist() if a > 0 and b > 0),
            abs(np.cov(codes[:, i], codes[:, j])[0, 1]),
            np.mean(codes[:, i].numpy() > 0) * np.mean(codes[:, j].numpy() > 0),
        )
        for i in range(12)
        for j in range(i + 1, 12)
    ]
    assert list(pairs) == ["weight", "together", "covariance", "by_chance"]
    np.testing.assert_allclose(pairs, expected, atol=1e-12)
    assert pairs["together"].max() > 0


@pytest.fixture
def trials():
    rows = [("sae", 0.20, True), ("sae", 0.21, False), ("nfm", 0.22, True), ("sae", 0.9, False)]
    yield pd.DataFrame(rows, columns=["family", "fvu", "chosen"])
    plt.close("all")


def test_the_chosen_trial_is_filled_and_an_arrow_stands_for_one_far_off(trials):
    """The median is 0.215, the best 0.2: the axis ends at 0.215 + 5 x 0.015."""
    ax = comparisons.tuning(trials, {"sae": "plain SAE", "nfm": "interactions"})
    assert [line.get_markerfacecolor() != "none" for line in ax.lines] == [True, False, True, False]
    assert [line.get_marker() for line in ax.lines] == ["o", "o", "o", ">"]
    assert [line.get_ydata()[0] for line in ax.lines] == [0, 0, 1, 0]
    at = [line.get_xdata()[0] for line in ax.lines]
    assert at == pytest.approx([0.2, 0.21, 0.22, 0.29])
    assert [line.get_color() for line in ax.lines[1:3]] == [COLOURS["sae"], COLOURS["interaction"]]
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["plain SAE", "interactions"] and ax.yaxis_inverted()


def test_a_single_trial_is_no_arrow(trials):
    ax = comparisons.tuning(trials.iloc[:1], {"sae": "plain SAE"})
    assert ax.lines[0].get_marker() == "o" and ax.lines[0].get_xdata()[0] == 0.2
