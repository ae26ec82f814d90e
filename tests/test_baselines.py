"""Least squares on codes and on x against scikit-learn, SAEs on an error, warm starts, and the chapter's numbers end to end."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.linear_model import Ridge

from companion import variants
from companion.chapters import baselines, leftovers
from featint import activations, metrics, runs


@pytest.fixture
def p(p):
    return replace(p, sae=replace(p.sae, k=8), splice_windows=8)


@pytest.mark.parametrize("as_input", [np.asarray, sparse.csr_matrix])
def test_ridge_in_pieces_is_scikit_learns(as_input):
    rng = np.random.default_rng(0)
    rows, targets = rng.standard_normal((90, 6)) + 1, rng.standard_normal((90, 4))
    ridge = leftovers.Ridge(6, 4)
    for part in (slice(0, 37), slice(37, 90)):
        ridge.add(as_input(rows[part]), targets[part])
    weights, constant = ridge.solve(penalty=3.0)
    reference = Ridge(alpha=3.0 * np.square(rows).mean()).fit(rows, targets)
    assert np.allclose(weights, reference.coef_.T) and np.allclose(constant, reference.intercept_)


def test_a_decoder_fitted_anew_beats_the_cut_one_and_nothing_linear_beats_it_in_sample(p):
    sae = runs.get(variants.get("sae", p))
    refit = leftovers.refitted(sae.config, 2)
    x = activations.load(p.harvest, "train").pieces()[0]
    cut = (x - sae.model.encode(x).top(2).dense(64) @ sae.model.W_dec).square().mean()
    codes = refit.encode(x).dense(64)
    design = torch.cat([codes, torch.ones(len(x), 1)], 1)
    best = (x - design @ torch.linalg.lstsq(design, x, driver="gelsd").solution).square().mean()
    error = (x - refit(x).x_hat).square().mean()
    assert best <= error * (1 + 1e-5) and error < 1.2 * best and error < 0.95 * cut


def test_an_sae_on_an_error_is_trained_on_that_error(p):
    config = variants.get("residual_sae", p)
    base, second = runs.get(config.base).model, runs.get(config).model
    x = activations.load(p.harvest, "train").pieces()[0]
    error = x - base(x).x_hat
    assert (error - second(error).x_hat).square().mean() < 0.8 * error.square().mean()
    nfm = sum(q.numel() for q in runs.build(variants.get("joint", p), 32).nfm.parameters())
    assert sum(q.numel() for q in second.parameters()) == pytest.approx(nfm, rel=0.02)


def test_a_warm_joint_model_starts_from_its_base(p):
    config = replace(variants.get("sae_interaction", p), base=variants.get("sae_bias", p))
    base = runs.get(config.base).model
    assert torch.equal(runs.build(config, 32).sae.W_enc, base.W_enc)
    assert torch.equal(runs.build(config, 32).sae.b_dec, base.b_dec)


def test_frozen_parts_stay_and_the_soft_decoder_turns_less(p):
    models = {name: runs.get(variants.get(name, p)) for name in baselines.FLOORS}
    table = baselines.closeness(models).set_index("model")["median"]
    assert table["`sae_frozen_decoder`"] == pytest.approx(1, abs=1e-6)
    assert table["`sae_short`"] < table["`sae_soft_decoder`"] < 1
    config = variants.get("sae_frozen_encoder", p)
    assert torch.equal(models["sae_frozen_encoder"].model.W_enc, runs.build(config, 32).W_enc)
    assert {m.config.train.n_tokens for m in models.values()} == {p.train.n_tokens // 4}


def test_the_published_control_hardly_moves(p):
    """At its learning rate and from its initial values the second SAE still writes next to nothing."""
    second = leftovers.l1_on_error(variants.get("sae_published", p))
    again = leftovers.l1_on_error(variants.get("sae_published", p))
    x = torch.randn(20, 32)
    assert torch.equal(second(x).x_hat, again(x).x_hat)
    gain = baselines.published_control(p).loc["residual_sae/gain", "value"]
    assert abs(gain) < 5


def test_the_chapters_numbers_end_to_end(p):
    models = {name: runs.get(variants.get(name, p)) for name in variants.CHAPTERS["baselines"]}
    test = activations.load(p.harvest, "test")
    functions = baselines.reconstructions(models)
    sums = baselines.measured(functions, models, test)
    table = baselines.controlled(sums, p.bootstrap)
    x = test.rows(torch.arange(len(test)))
    sae = models["sae"].model
    at_cut = sae.encode(x).top(models["sae_cut"].config.sae.k).dense(64) @ sae.W_dec
    sst = metrics.squared_error(x, x.mean(0).expand_as(x)).sum().item()
    assert table.loc["sae_at_cut/fvu", "value"] == pytest.approx(
        metrics.squared_error(x, at_cut).sum().item() / sst, rel=1e-4
    )
    assert table.loc["sae_at_cut/fvu", "value"] > table.loc["sae/fvu", "value"]
    spliced = baselines.spliced(functions, models, test, p)
    assert (spliced.filter(like="/kl", axis=0)["n"] > 1).all()
    found = baselines.values(table, spliced, baselines.published_control(p))
    over, gain = (
        found["residual_sae/gain_over_bound/controlled"],
        found["residual_sae/gain_vs_sae/controlled"],
    )
    assert (
        over.value == pytest.approx(gain.value / baselines.BOUND) and over.unit == "x; n articles"
    )
    assert found["residual_sae/gain/as_published"].unit == "%; n articles"
    assert len(baselines.gain_rows(table, list(baselines.GAINS))) == len(baselines.GAINS)
