"""Least squares by hand and against scikit-learn, the released code's second SAE, and the models of
the chapter that have something frozen or cut."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.linear_model import Ridge

from companion import variants
from companion.chapters import baselines, norms
from featint import activations, runs, store, train
from featint.config import TrainConfig, to_json


@pytest.fixture
def p(p):
    return replace(p, sae=replace(p.sae, k=8))


def column(*numbers):
    return torch.tensor(numbers)[:, None]


@pytest.mark.parametrize(
    ("wanted", "weight", "constant"),
    [
        # the points (0, 1) and (2, 5): slope 4 / 2 through (1, 3), so 9 at 4
        (9.0, 2.0, 1.0),
        # inputs have mean square (0 + 4) / 2 = 2, which penalty 1 adds: slope 4 / (2 + 2), so 6 at 4
        (6.0, 1.0, 2.0),
    ],
)
@pytest.mark.parametrize("penalties", [(0.0, 1.0), (1.0, 0.0)])
def test_ridge_by_hand_takes_the_penalty_that_suits_the_validation_rows(
    wanted, weight, constant, penalties
):
    pieces = [(column(0.0), column(1.0)), (column(2.0), column(5.0))]
    validation = column(4.0), column(wanted)
    weights, constants = baselines.ridge(iter(pieces), validation, penalties)
    assert weights == pytest.approx(np.array([[weight]])) and constants == pytest.approx(constant)


@pytest.mark.parametrize("share_of_zeros", [0.0, 0.8])
def test_ridge_in_pieces_is_scikit_learns(share_of_zeros):
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((90, 6)) + 1) * (rng.random((90, 6)) >= share_of_zeros)
    targets = rng.standard_normal((90, 4))
    pairs = [
        (torch.from_numpy(rows[s]), torch.from_numpy(targets[s]))
        for s in np.split(np.r_[:90], [37])
    ]
    weights, constant = baselines.ridge(pairs, pairs[0], penalties=(3.0,))
    assert sparse.issparse(baselines._with_constant(pairs[0][0])) == (share_of_zeros > 0.5)
    theirs = Ridge(alpha=3.0 * np.square(rows).mean()).fit(rows, targets)
    assert np.allclose(weights, theirs.coef_.T) and np.allclose(constant, theirs.intercept_)


@pytest.mark.parametrize(("name", "first"), [("sae", "drop"), ("sae_published", "keep")])
def test_least_squares_reads_training_text_and_chooses_on_validation_text(
    p, monkeypatch, name, first
):
    sae, splits = runs.get(variants.get(name, p)), ("train", "validation")
    x, held_out = (activations.load(p.harvest, s, first).pieces(9999)[0] for s in splits)

    def inputs(x):
        return sae.model.encode(x).top(2).dense(64)

    rows, targets = inputs(x).double(), 2 * x.double()
    fits = [
        Ridge(alpha=penalty * rows.square().mean().item()).fit(rows, targets)
        for penalty in (1.0, 10.0, 100.0, 1000.0)
    ]
    wrong = [np.square(f.predict(inputs(held_out)) - 2 * held_out.numpy()).sum() for f in fits]
    weights, constant = baselines.least_squares(sae.config, inputs, lambda x: 2 * x)
    assert baselines.RIDGES == (1.0, 10.0, 100.0, 1000.0) and baselines.FIT_TOKENS == 200_000
    best = fits[np.argmin(wrong)]
    assert np.allclose(weights, best.coef_.T, atol=1e-5)
    assert np.allclose(constant, best.intercept_, atol=1e-5)

    seen, chosen_on = [], []

    def ridge(pairs, validation):
        seen.extend(pairs)
        chosen_on.append(validation[1])
        return np.zeros((64, 32)), np.zeros(32)

    monkeypatch.setattr(baselines, "FIT_TOKENS", 50)
    monkeypatch.setattr(baselines, "ridge", ridge)
    baselines.least_squares(sae.config, inputs, lambda x: x)
    chosen = torch.cat([targets for _, targets in seen])
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    assert torch.equal(chosen, x[order[:50].sort().values])
    assert torch.equal(chosen_on[0], held_out[: len(chosen_on[0])])
    assert len(chosen_on[0]) == min(len(held_out), runs.VALIDATION_TOKENS)


def test_an_l1_sae_by_hand():
    """Codes relu(x + (1, 0)) are (1, 0) and (2, 1), directions (3, 4) and (0, 2) have lengths 5 and 2: the
    penalty is the mean of 5, 0, 10 and 2."""
    sae = baselines.L1SAE(2, 2)
    sae.load_state_dict(
        {
            "W_enc": torch.eye(2),
            "b_enc": torch.tensor([1.0, 0.0]),
            "W_dec": torch.tensor([[3.0, 4.0], [0.0, 2.0]]),
        }
    )
    x_hat, codes = sae(torch.tensor([[0.0, -1.0], [1.0, 1.0]]))
    assert x_hat.tolist() == [[3, 4], [6, 10]] and sae.penalty.item() == pytest.approx(17 / 4)
    assert codes.acts.tolist() == [[1, 0], [2, 1]] and codes.indices.tolist() == [[0, 1]] * 2


def test_the_released_codes_second_sae_is_fitted_to_the_error_at_its_settings(p, monkeypatch):
    p, calls = replace(p, train=replace(p.train, lr=0.02)), []
    config = variants.get("sae_published", p)

    def fit(model, batches, settings, loss, label):
        calls.append((model, batches, settings, loss))
        model.W_dec.data.fill_(7)

    first, other = runs.get(config), runs.get(variants.get("sae", p))
    monkeypatch.setattr(train, "fit", fit)
    second = baselines.l1_on_error(config)
    model, batches, settings, loss = calls[0]
    # 64 x 60 training tokens at 0.02: a fifth of them, at a tenth of the rate, which falls to 0
    assert settings == TrainConfig(
        n_tokens=768,
        batch_tokens=64,
        lr=2e-3,
        lr_end_factor=0.0,
        decay_fraction=1.0,
        adam_eps=1e-5,
        clip_norm=1e9,
        dead_after_tokens=p.train.dead_after_tokens,
        first_position="keep",
        holdout_share=0.1,
    )
    acts = runs.training_tokens(config)[0]
    x = acts.batches(768, 64, 0)[3]
    assert torch.equal(batches[3], x - first.model(x).x_hat)
    model.penalty = torch.tensor(0.5)
    assert loss(torch.ones(2, 3), torch.zeros(2, 3)).item() == 1.5  # squared error 1, penalty 0.5
    start = baselines.L1SAE(32, 64, torch.Generator().manual_seed(0))
    assert torch.equal(second.W_enc, start.W_enc) and (second.W_dec == 7).all()
    assert start.W_dec.std().item() == pytest.approx(1e-4, rel=0.1)
    assert start.W_dec.mean().abs() < 1e-5
    assert not any(weights.requires_grad for weights in second.parameters())
    identity = {"l1_on_error": to_json(config), "train": to_json(settings)}
    assert store.load("l1_sae", identity).manifest["provenance"]["seed"] == p.train.seed
    again = baselines.l1_on_error(config)
    assert len(calls) == 1 and torch.equal(again.W_dec, second.W_dec)
    baselines.l1_on_error(other.config)
    assert len(calls) == 2  # kept by base model


def test_an_sae_on_an_error_is_trained_on_that_error(p):
    config = variants.get("residual_sae", p)
    base, second = runs.get(config.base).model, runs.get(config).model
    x = activations.load(p.harvest, "train").pieces()[0]
    error = x - base(x).x_hat
    assert (error - second(error).x_hat).square().mean() < 0.8 * error.square().mean()
    nfm = sum(q.numel() for q in runs.build(variants.get("joint", p), 32).nfm.parameters())
    assert sum(q.numel() for q in second.parameters()) == pytest.approx(nfm, rel=0.02)


def test_frozen_parts_stay_and_the_soft_decoder_turns_less(p):

    def to_start(m):
        return norms.history(m.config, m.model, m.fired_tokens)["cosine"]

    names = ("sae_short", "sae_soft_decoder", "sae_frozen_decoder", "sae_frozen_encoder")
    models = {name: runs.get(variants.get(name, p)) for name in names}
    cosines = {name: to_start(model) for name, model in models.items()}
    assert cosines["sae_frozen_decoder"].tolist() == pytest.approx([1] * 64)
    assert cosines["sae_short"].median() < cosines["sae_soft_decoder"].median() < 0.99999
    assert {m.config.train.n_tokens for m in models.values()} == {p.train.n_tokens // 4}
    start = runs.build(models["sae_frozen_encoder"].config, 32)
    assert torch.equal(models["sae_frozen_encoder"].model.W_enc, start.W_enc)
    models["sae_frozen_decoder"].model.W_dec[3] *= -1
    assert to_start(models["sae_frozen_decoder"])[3] == pytest.approx(-1)
