"""The toy data whose features differ in how often they occur, and the SAE that is watched on them."""

import pages
import pytest
import torch

from featint.config import SAEConfig, TrainConfig
from featint.sae import TopKSAE


def page(n_steps, batch_tokens, seed=0):
    """What the page defines for a run of this size: `tokens` and `watch`."""
    config = TrainConfig(n_tokens=n_steps * batch_tokens, batch_tokens=batch_tokens, lr=0.003)
    names = {"n_steps": n_steps, "batch_tokens": batch_tokens, "seed": seed, "config": config}
    return pages.run("what_a_norm_can_tell", "norm-tokens", "norm-watch", **names)


def short(k):
    """An SAE whose two features point the right way and are too short."""
    sae = TopKSAE(2, SAEConfig(d_sae=2, k=k))
    sae.W_dec.data, sae.W_enc.data = 0.3 * torch.eye(2), 0.3 * torch.eye(2)
    return sae


def test_frequencies_are_those_asked_for():
    batch = page(1, 64_000)["tokens"](torch.eye(3), torch.tensor([7.0, 2.0, 1.0]))[0]
    assert (batch > 0).double().mean(0).tolist() == pytest.approx([0.7, 0.2, 0.1], abs=0.01)
    assert ((batch > 0).sum(1) == 1).all()
    assert batch[batch > 0].min() == pytest.approx(0.5, abs=0.01)
    assert batch.max() == pytest.approx(1.5, abs=0.01)


def test_the_rare_feature_stays_behind():
    names = page(500, 64)
    tokens = names["tokens"](torch.eye(2), torch.tensor([1.0, 0.0005]))
    curve, updates = names["watch"](short(k=1), tokens)
    assert curve.iloc[0].tolist() == pytest.approx([0.09, 0.09]) and curve.index[-1] == 500
    assert curve.iloc[-1, 0] > 0.5 > 2 * curve.iloc[-1, 1] and updates[0] > 100 * updates[1]


def test_tokens_repeat_exactly_and_may_hold_all_features():
    weights, names = torch.tensor([5.0, 2.0, 1.0]), page(4, 10)
    first, again = (names["tokens"](torch.eye(3), weights, 2) for _ in "ab")
    assert len(first) == 4 and torch.equal(first[1], again[1]) and (first[1] > 0).sum() == 20
    other = page(4, 10, seed=1)["tokens"](torch.eye(3), weights, 2)
    assert not torch.equal(first[1], first[2]) and not torch.equal(first[1], other[1])
    every = names["tokens"](torch.eye(3), weights, 3)[0]
    assert every.shape == (10, 3) and (every >= 0.5).all()


@pytest.mark.parametrize(("steps", "apart"), [(3, 1), (399, 1), (500, 2)])
def test_curves_have_two_hundred_points_or_a_few_more(steps, apart):
    """Both features are in every token, so that both are updated by each."""
    names = page(steps, 2)
    curve, updates = names["watch"](short(k=2), names["tokens"](torch.eye(2), torch.ones(2), 2))
    assert curve.index.tolist() == [*range(0, steps, apart), steps] and curve.index.name == "step"
    assert updates.tolist() == [2 * steps] * 2
