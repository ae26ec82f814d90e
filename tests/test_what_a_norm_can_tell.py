"""The toy data whose features differ in how often they occur, and the SAE that is watched on them."""

from dataclasses import replace

import pytest
import torch

from companion.chapters import what_a_norm_can_tell
from featint.config import SAEConfig, TrainConfig
from featint.sae import TopKSAE

CONFIG = TrainConfig(n_tokens=64_000, batch_tokens=64_000)


def test_frequencies_are_those_asked_for():
    batch = what_a_norm_can_tell.tokens(torch.eye(3), torch.tensor([7.0, 2.0, 1.0]), CONFIG)[0]
    assert (batch > 0).double().mean(0).tolist() == pytest.approx([0.7, 0.2, 0.1], abs=0.01)
    assert ((batch > 0).sum(1) == 1).all()
    assert batch[batch > 0].min() == pytest.approx(0.5, abs=0.01)
    assert batch.max() == pytest.approx(1.5, abs=0.01)


def test_the_rare_feature_stays_behind():
    config = TrainConfig(n_tokens=32_000, batch_tokens=64, lr=0.003)
    sae, weights = TopKSAE(2, SAEConfig(d_sae=2, k=1)), torch.tensor([1.0, 0.0005])
    sae.W_dec.data, sae.W_enc.data = 0.3 * torch.eye(2), 0.3 * torch.eye(2)
    curve, updates = what_a_norm_can_tell.watch(sae, torch.eye(2), weights, config)
    assert curve.iloc[0].tolist() == pytest.approx([0.09, 0.09]) and curve.index[-1] == 500
    assert curve.iloc[-1, 0] > 0.5 > 2 * curve.iloc[-1, 1] and updates[0] > 100 * updates[1]


def test_impossible_weights_are_refused():
    for weights, n_active in ((torch.tensor([1.0, 0.0]), 1), (torch.ones(2), 3)):
        with pytest.raises(ValueError, match="must be positive and at least n_active"):
            what_a_norm_can_tell.tokens(torch.eye(2), weights, CONFIG, n_active)
    with pytest.raises(IndexError, match="step 5"):
        what_a_norm_can_tell.tokens(torch.eye(2), torch.ones(2), CONFIG)[5]


def test_tokens_repeat_exactly_and_may_hold_all_features():
    config = TrainConfig(n_tokens=40, batch_tokens=10)
    weights = torch.tensor([5.0, 2.0, 1.0])
    first, again = (what_a_norm_can_tell.tokens(torch.eye(3), weights, config, 2) for _ in "ab")
    assert len(first) == 4 and torch.equal(first[1], again[1]) and (first[1] > 0).sum() == 20
    other = what_a_norm_can_tell.tokens(torch.eye(3), weights, replace(config, seed=1), 2)
    assert not torch.equal(first[1], first[2]) and not torch.equal(first[1], other[1])
    every = what_a_norm_can_tell.tokens(torch.eye(3), weights, config, 3)[0]
    assert every.shape == (10, 3) and (every >= 0.5).all()


@pytest.mark.parametrize(("steps", "apart"), [(3, 1), (399, 1), (500, 2)])
def test_curves_have_two_hundred_points_or_a_few_more(steps, apart):
    """Both features are in every token, so that both are updated by each."""
    config, sae = (
        TrainConfig(n_tokens=2 * steps, batch_tokens=2),
        TopKSAE(2, SAEConfig(d_sae=2, k=2)),
    )
    sae.W_dec.data, sae.W_enc.data = 0.3 * torch.eye(2), 0.3 * torch.eye(2)
    curve, updates = what_a_norm_can_tell.watch(sae, torch.eye(2), torch.ones(2), config, 2)
    assert curve.index.tolist() == [*range(0, steps, apart), steps] and curve.index.name == "step"
    assert updates.tolist() == [2 * steps] * 2
