"""Metrics by hand and on noise whose answer is known."""

import pytest
import torch

from featint import metrics
from featint.config import SAEConfig
from featint.kernels.sparse import Codes
from featint.sae import TopKSAE


def test_errors_by_hand():
    """3 and 4 make 5; in float64, since 1e8 + 1 is 1e8 in float32."""
    x, x_hat = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[4.0, 6.0], [1e4, 1.0]])
    assert metrics.squared_error(x, x_hat).tolist() == [25, 1e8 + 1]
    assert metrics.fvu(2.0, 8.0) == 0.25


def fires(rows):
    """Codes in which column i says on which tokens feature i is active."""
    acts = torch.tensor(rows, dtype=torch.float32)
    return Codes(acts, torch.arange(acts.shape[1]).expand(len(acts), -1))


def test_density_by_hand():
    """Over two batches feature 0 is active on 3 of 3 tokens, 1 on one, 2 on none; a code may be 0."""
    codes = iter([fires([[1, 0], [2, 0]]), fires([[1, 1]])])
    assert metrics.density(codes, 3).tolist() == pytest.approx([1, 1 / 3, 0])


def test_density_agrees_with_dense_codes():
    x = torch.randn(500, 7, generator=torch.Generator().manual_seed(1))
    codes = TopKSAE(7, SAEConfig(d_sae=30, k=4), torch.Generator().manual_seed(0)).encode(x)
    expected = (codes.dense(30) > 0).double().mean(0)
    assert torch.allclose(metrics.density(iter([codes]), 30), expected)


def test_selectivity_by_hand():
    """Topics 1 and 2 on two tokens of either half, 2 on four of half 1, and 0 in one half only.
    Feature 0 fires on topic 1 alone. Feature 1: in half 0 on 2 of 2 and 1 of 2 tokens, in half 1 on
    1 of 2 and 4 of 4: the topic chosen in one half has 1/3 of the rates in the other, both ways.
    Feature 2: 1 of 2 and 0 of 2, then 1 of 2 and 1 of 4: 2/3 and 1. Feature 3 fires on topic 1 in
    either half, and where there is no topic. 4 fires in half 0 only, 5 never."""
    half = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1])
    topic = torch.tensor([1, 1, 2, 2, 0, 1, 1, 2, 2, 2, 2, -1])
    active = [
        [1, 1, 1, 1, 1, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 0, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
    ]
    pieces = [fires(active[:3]), fires(active[3:])]
    found = metrics.selectivity(pieces, topic, half, 6)
    assert found[:4].tolist() == pytest.approx([1, 1 / 3, 5 / 6, 1]) and found[4:].isnan().all()


def test_selectivity_where_a_topic_has_one_token():
    """In either half topic 0 has one token and 1 has four; 2 is in half 0 only. Feature 0 fires on
    topic 0 alone; feature 1 on its token and on two of the four: 1 / (1 + 1/2)."""
    topic = torch.tensor([0, 1, 1, 1, 1, 2, 0, 1, 1, 1, 1])
    active = [
        [1, 1],
        [0, 1],
        [0, 1],
        [0, 0],
        [0, 0],
        [1, 0],
        [1, 1],
        [0, 0],
        [0, 1],
        [0, 1],
        [0, 0],
    ]
    half = torch.tensor([0] * 6 + [1] * 5)
    found = metrics.selectivity([fires(active)], topic, half, 2)
    assert found.tolist() == pytest.approx([1, 2 / 3])


def test_selectivity_of_noise_is_chance_even_if_rare():
    """Forty tokens per feature: the best topic on the same text would have far more than 1/8."""
    g = torch.Generator().manual_seed(0)
    article = torch.arange(20_000) // 20
    topic = torch.randint(8, (1000,), generator=g)[article]
    rare = (torch.rand(20_000, 60, generator=g) < 0.002).tolist()
    found = metrics.selectivity([fires(rare)], topic, article % 2, 60)
    assert found.nanmean().item() == pytest.approx(1 / 8, abs=0.03)
