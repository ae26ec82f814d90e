"""Toy data is what it says, and a dictionary trained on it finds what was planted."""

import pytest
import torch

from companion.toys import features as toy
from featint import train
from featint.config import SAEConfig, TrainConfig
from featint.sae import TopKSAE


def test_tokens_have_the_features_they_should():
    generator = torch.Generator().manual_seed(0)
    directions = torch.eye(6)  # orthogonal, so that the codes can be read off
    x = toy.activations(directions, 2000, 2, 0.0, generator)
    assert ((x > 0).sum(1) == 2).all()
    strengths = x[x > 0]
    assert strengths.min() >= 0.5 and strengths.max() <= 1.5
    assert (x > 0).double().mean(0) == pytest.approx([2 / 6] * 6, abs=0.05)


def test_batches_repeat_exactly_and_end():
    batches = toy.Batches(toy.circle(5), n_steps=3, batch_tokens=10, seed=4)
    assert torch.equal(batches[2], batches[2]) and not torch.equal(batches[1], batches[2])
    assert len(list(batches)) == 3


def test_recovery_is_one_for_the_truth_and_ignores_length():
    true = toy.random_directions(7, 4, torch.Generator().manual_seed(0))
    assert toy.recovery(torch.cat([torch.zeros(1, 4), 3 * true]), true) == pytest.approx(
        [1.0] * 7, abs=1e-6
    )
    assert toy.recovery(torch.zeros(2, 4), true) == pytest.approx([0.0] * 7)


def test_a_planted_dictionary_is_recovered():
    """40 features in 20 dimensions, 2 at a time: an SAE of the right size finds at least nine in ten of them."""
    generator = torch.Generator().manual_seed(0)
    true = toy.random_directions(40, 20, generator)
    sae = TopKSAE(20, SAEConfig(d_sae=60, k=2), generator)
    config = TrainConfig(n_tokens=500 * 256, batch_tokens=256, lr=1e-2)
    train.fit(sae, toy.Batches(true, 500, 256, n_active=2, noise=0.02), config)
    found = toy.recovery(sae.W_dec, true)
    assert (found > 0.95).double().mean() >= 0.9
    assert (
        toy.recovery(toy.random_directions(60, 20, generator), true) > 0.95
    ).double().mean() < 0.05  # chance


def test_ratings_hold_levels_and_one_product():
    """Subtracting row and column means leaves the taste alone: one product of two signs, of a point each."""
    table = toy.ratings(12, 8, torch.Generator().manual_seed(0))
    rest = table - table.mean(0) - table.mean(1, keepdim=True) + table.mean()
    assert rest.abs() == pytest.approx(torch.ones(12, 8), abs=1e-5)
    assert torch.linalg.matrix_rank(rest, atol=1e-4) == 1


def test_one_hot_rows_name_their_entry():
    table = torch.tensor([[1.0, 2, 3], [4, 5, 6]])
    rows = toy.one_hot_pairs(table)
    assert rows[4].tolist() == [0, 1, 0, 1, 0, 5] and len(rows) == 6
