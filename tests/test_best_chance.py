"""The tuning plan, before anything is trained; then the chapter end to end; interaction weights against their formula."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from companion import profiles, variants
from companion.chapters import best_chance, interaction_path
from featint import activations, runs


def test_every_family_gets_as_many_trials_of_as_many_tokens():
    p = profiles.full()
    plain = best_chance.first_round(p)
    best = plain[1].config
    trials = best_chance.second_round(p, best, **best_chance.grid(p))
    counts = pd.Series([t.family for t in trials]).value_counts()
    assert set(counts.index) == set(best_chance.ROLES) and counts.nunique() == 1
    assert {t.config.train.n_tokens for t in plain + trials} == {p.train.n_tokens // 4}
    assert len({(t.family, t.setting) for t in plain + trials}) == len(plain) + len(trials)
    path = next(t.config for t in trials if t.family == "interactions (NFM)")
    assert (
        path.train.lr_scale["sae.W_dec"] == best.train.lr_scale["W_dec"]
        and path.nfm.dropout == 0
        and not path.nfm.linear
    )


def test_as_many_parameters():
    p = profiles.laptop()
    plain = best_chance.first_round(p)[0].config
    trials = best_chance.second_round(p, plain, (1.0,), (4.0,))
    sizes = {
        t.family: sum(q.numel() for q in runs.build(t.config, p.d_in).parameters())
        for t in trials
        if "learning rate x 1.25" not in t.setting
    }
    assert sizes["plain SAE"] == pytest.approx(sizes["interactions (NFM)"], rel=1e-3)


@pytest.mark.parametrize(
    ("own_lr", "widths"),
    [((), (1.0,)), ((1.0,), (0.0,)), ((float("nan"),), (1.0,)), ((1.0,) * 9, (1.0,))],
)
def test_an_impossible_sweep_is_named_before_any_training(own_lr, widths):
    p = profiles.smoke()
    with pytest.raises(ValueError, match="own_lr|widths"):
        best_chance.second_round(p, variants.get("sae_short", p), own_lr, widths)


def test_a_trial_that_diverges_is_never_chosen(p, monkeypatch):
    trials = best_chance.first_round(p)[:2]
    real = runs.get

    def get(config):
        if config is trials[0].config:
            raise FloatingPointError("the loss is nan")
        return real(config)

    monkeypatch.setattr(runs, "get", get)
    frame = best_chance.validate(trials, p)
    assert frame["fvu"].isna().tolist() == [True, False] and frame["chosen"].tolist() == [
        False,
        True,
    ]
    assert best_chance.winners(trials, frame)["plain SAE"] is trials[1]


def test_the_chapter_end_to_end(p, monkeypatch):
    monkeypatch.setattr(interaction_path, "MIN_TOKENS", 2)  # the tiny validation split is short
    first = best_chance.first_round(p)
    best = best_chance.winners(first, best_chance.validate(first, p))["plain SAE"].config
    trials = first + best_chance.second_round(p, best, (1.0,), (2.0,))
    frame = best_chance.validate(trials, p)
    chosen = best_chance.winners(trials, frame)
    assert set(chosen) == set(best_chance.ROLES) and frame["fvu"].between(0, 1).all()
    assert (
        frame["silent"].isna() == frame["family"].isin(["plain SAE", "polynomial"])
    ).all() and frame["silent"].dropna().between(0, 1).all()
    plain, path = chosen["plain SAE"].config, chosen["interactions (NFM)"].config
    equal = best_chance.of_width(trials, frame, p.sae.d_sae)
    same = frame[[t.family == "plain SAE" and t.config.sae.d_sae == p.sae.d_sae for t in trials]]
    assert (
        equal.config.sae == replace(plain.sae, d_sae=p.sae.d_sae)
        and frame["fvu"][trials.index(equal)] == same["fvu"].min()
    )
    start, frozen = best_chance.warm(plain, path)
    assert start.base is plain and replace(frozen, train=start.train) == start
    before, after = (
        model.nfm.state_dict() for model in (runs.build(frozen, p.d_in), runs.get(frozen).model)
    )
    assert all(torch.equal(before[name], after[name]) for name in before)
    pairs = {
        "warm_start": (start, frozen),
        "whole_budget": (best_chance.longer(path, p), best_chance.longer(plain, p)),
    }
    tested = best_chance.test_once(pairs, p)
    acts = activations.load(p.harvest, "test")
    x = acts.rows(torch.arange(len(acts)))
    a, b = (
        (runs.get(config).model(x).x_hat - x).double().square().sum().item()
        for config in pairs["whole_budget"]
    )
    assert tested.loc["whole_budget/gain", "value"] == pytest.approx(100 * (1 - a / b), abs=1e-3)
    at_mlp = best_chance.at_mlp(path, plain, p)
    assert {c.harvest.hook_point for c in at_mlp} == {
        p.harvest.hook_point.replace("hook_resid_post", "hook_mlp_out")
    }
    elsewhere = best_chance.test_once({"mlp_output": at_mlp}, p)
    assert elsewhere.loc["mlp_output/gain", "n"] < tested.loc["whole_budget/gain", "n"]
    with pytest.raises(ValueError, match="asked for 2"):
        best_chance.test_once(pairs | {"mlp_output": at_mlp}, p)
    found = best_chance.values(
        tested,
        interaction_path.pair_correlations(interaction_path.pair_weights(runs.get(path).model, p)),
    )
    headline = found["interaction/gain_vs_best_baseline/controlled"]
    assert (
        headline == found["whole_budget/gain/controlled"]
        and headline.unit == "%; n articles"
        and headline.ci is not None
    )


def test_a_path_whose_units_are_pushed_below_zero_is_silent(p):
    trained = runs.get(variants.get("sae_interaction", p))
    trained.model.nfm.b_hidden.fill_(-1e6)
    assert interaction_path.silent_units(trained, p) == 1
    trained.model.nfm.b_hidden[0] = 1e6
    assert interaction_path.silent_units(trained, p) == pytest.approx(
        1 - 1 / len(trained.model.nfm.b_hidden)
    )
    table = interaction_path.untuned(p).set_index("model")
    assert (
        list(table.index) == [f"`{name}`" for name in interaction_path.UNTUNED]
        and (table[["silent", "median"]].stack().between(0, 1)).all()
    )


def test_pair_weights_by_their_definition(p, monkeypatch):
    monkeypatch.setattr(interaction_path, "MIN_TOKENS", 2)
    model = runs.get(variants.get("sae_interaction", p)).model
    pairs = interaction_path.pair_weights(model, p)
    acts = activations.load(p.harvest, "validation")
    codes = model.encode(acts.rows(torch.arange(len(acts)))).dense(64).double()
    alive = ((codes > 0).sum(0) >= interaction_path.MIN_TOKENS).nonzero().squeeze(1)
    assert len(alive) > 4
    i, j = (alive[t] for t in torch.triu_indices(len(alive), len(alive), 1))
    assert np.allclose(
        pairs["weight"], (model.nfm.V[i] * model.nfm.V[j]).norm(dim=1).numpy(), atol=1e-6
    )
    assert np.array_equal(pairs["together"], ((codes[:, i] > 0) & (codes[:, j] > 0)).sum(0).numpy())
