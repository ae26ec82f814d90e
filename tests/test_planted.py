"""The planted truth is what its formula says, and what is measured against it is worked out by hand."""

import numpy as np
import pytest
import torch

from featint import planted, train
from featint.config import NFMConfig, SAEConfig, TrainConfig
from featint.kernels.sparse import Codes
from featint.nfm import NFM
from featint.planted import OnTrueCodes, World, WorldConfig
from featint.sae import TopKSAE

SMALL = WorldConfig(n_features=6, d_in=5, n_active=3, n_products=2, noise=0.0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("order", ["none", "pairs", "triples"])
def test_activations_follow_the_formula(order):
    size = {"n_features": 6, "d_in": 5, "n_active": 4, "n_products": 2}
    world = World(WorldConfig(**size, order=order, strength=0.7, noise=0.0))
    sample = world.draw(50, generator())
    for codes, x in zip(sample.codes, sample.x, strict=True):
        expected = sum(codes[i] * world.directions[i] for i in range(6))
        for term, direction in zip(world.products.tolist(), world.product_directions, strict=True):
            expected = expected + 0.7 * np.prod([codes[i].item() for i in term]) * direction
        assert torch.allclose(x, expected, atol=1e-6)
    assert len(world.products) == (0 if order == "none" else 2)
    for directions in (world.directions, world.product_directions):
        assert directions.norm(dim=1).tolist() == pytest.approx([1] * len(directions))


def test_tokens_have_as_many_features_as_they_should_each_of_its_strength():
    """With the unit vectors as directions the codes can be read off x."""
    config = WorldConfig(n_features=6, d_in=6, n_active=2, order="none", noise=0.0)
    x = World(config, torch.eye(6)).draw(2000, generator()).x
    assert ((x > 0).sum(1) == 2).all()
    strengths = x[x > 0]
    assert 0.5 <= strengths.min() < 0.51 and 1.49 < strengths.max() <= 1.5
    assert (x > 0).double().mean(0) == pytest.approx([2 / 6] * 6, abs=0.05)
    with pytest.raises(ValueError, match=r"directions have shape \(5, 6\), not \(6, 6\)"):
        World(config, torch.eye(6)[:5])


def test_noise_has_its_size_and_the_floor_is_the_noise():
    world = World(WorldConfig(n_features=6, d_in=5, n_active=3, n_products=2, noise=0.3))
    a, b = world.draw(20_000, generator(1)), world.draw(20_000, generator(2))
    linear, floor = world.floors(a, b)
    variance = (b.x - b.x.mean(0)).square().sum(1).mean().item()
    assert floor == pytest.approx(5 * 0.3**2 / variance, rel=0.02)
    assert linear > floor * 1.2


def test_without_products_both_floors_agree_and_without_noise_they_vanish():
    world = World(WorldConfig(n_features=6, d_in=5, n_active=3, order="none", noise=0.0))
    linear, floor = world.floors(world.draw(500, generator(1)), world.draw(500, generator(2)))
    assert linear == floor < 1e-9


def test_batches_repeat_exactly_and_hold_the_codes_first():
    batches = World(SMALL).batches(3, 10, seed=4, with_codes=True)
    assert torch.equal(batches[1], batches[1]) and not torch.equal(batches[1], batches[2])
    sample = World(SMALL).draw(10, planted.step_generator(4, 1))
    assert torch.equal(batches[1], torch.cat([sample.codes, sample.x], 1))
    assert torch.equal(World(SMALL).batches(3, 10, seed=4)[1], sample.x)
    assert len(list(batches)) == 3
    other_seed, other_step = World(SMALL).batches(3, 10, seed=5)[1], batches[2][:, 6:]
    assert not torch.equal(other_seed, sample.x) and not torch.equal(other_step, sample.x)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_active": 7}, "n_active = 7 is more than n_features = 6"),
        ({"n_active": 1}, "order = 'pairs' needs n_active of at least 2"),
        ({"order": "triples", "n_active": 2}, "order = 'triples' needs n_active of at least 3"),
        ({"n_products": 16}, "n_products = 16 is more than the 15 pairs of 6 features"),
        ({"strength": 0}, "strength = 0 plants nothing"),
        ({"noise": -1}, "noise = -1"),
    ],
)
def test_impossible_worlds_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        WorldConfig(**{"n_features": 6, "d_in": 5, "n_active": 3, "n_products": 2} | wrong)


def test_on_true_codes_the_nfm_reads_the_largest_codes_and_is_judged_by_x():
    nfm = NFM(1, 3, NFMConfig(d_factor=1, dropout=0.0, interaction=False))
    with torch.no_grad():
        nfm.W_lin.copy_(torch.tensor([[1.0], [10.0], [100.0]]))
    model = OnTrueCodes(nfm, d_sae=3, k=2)
    rows = torch.tensor([[0.5, 0.0, 2.0, 200.0], [1.0, 1.5, 0.0, 20.0]])  # three codes, then x
    x_hat = model(rows).x_hat
    assert x_hat.squeeze(1).tolist() == pytest.approx([200.5, 16.0])  # 0.5 + 200; 1 + 15
    # errors 0.5 and 4
    assert model.loss(x_hat, rows).item() == pytest.approx((0.25 + 16) / 2)


def test_fvu_by_hand():
    x, x_hat = torch.tensor([[0.0, 0], [2, 0], [4, 0]]), torch.tensor([[0.0, 1], [2, 0], [3, 0]])
    assert planted.fvu(x, x_hat) == pytest.approx(
        2 / 8
    )  # errors 1 + 0 + 1; around the mean 4 + 0 + 4


def test_least_squares_fits_on_one_sample_and_is_judged_on_the_other():
    c, x = torch.tensor([[0.0], [1], [2]]), torch.tensor([[1.0], [3], [5]])  # x = 1 + 2 c
    test_c, test_x = torch.tensor([[0.0], [2]]), torch.tensor([[1.0], [7]])
    # predicted 1 and 5: errors 0 and 4; around the mean of 4 they are 9 and 9
    assert planted.least_squares(c, x, test_c, test_x) == pytest.approx(4 / 18)
    # given parts leave 1 and 2 c to the map; those of the test are right and leave nothing else
    given = torch.tensor([[0.0], [0], [0]]), torch.tensor([[0.0], [2]])
    assert planted.least_squares(c, x, test_c, test_x, given) == pytest.approx(0, abs=1e-12)
    # parts that hold half of what depends on c leave x = 1 + c to the map: 1 and 3, plus 0 and 4
    given = c.clone(), torch.tensor([[0.0], [4]])
    assert planted.least_squares(c, x, test_c, test_x, given) == pytest.approx(0, abs=1e-12)
    dead = torch.cat([c, torch.zeros(3, 1)], 1)  # a dead feature is no matter
    found = planted.least_squares(dead, x, torch.cat([test_c, test_c * 0], 1), test_x)
    assert found == pytest.approx(4 / 18)


def test_matching_is_one_to_one_and_the_nearest_need_not_be():
    true = torch.eye(3)
    learned = torch.tensor([[0.0, 0, 2], [1, 0, 0], [0.8, 0.6, 0], [0, 0, 0]])
    # to feature 1 the third learned one is nearest; to feature 0 the second
    assert planted.nearest(learned, true).tolist() == pytest.approx([1, 0.6, 1])
    cosine, match = planted.matched(learned, true)
    assert match.tolist() == [1, 2, 0] and cosine.tolist() == pytest.approx([1, 0.6, 1])
    # feature 0 is nearest to both of them, feature 1 takes the other
    shared = torch.tensor([[0.8, 0.6], [0.96, 0.28]])
    assert planted.nearest(shared, torch.eye(2)).tolist() == pytest.approx([0.96, 0.6])
    assert planted.matched(torch.tensor([[0.8, 0.6], [0.6, 0.8]]), torch.eye(2))[1].tolist() == [
        0,
        1,
    ]


def test_a_planted_dictionary_is_recovered():
    """40 features in 20 dimensions, 2 at a time: an SAE of the right size finds nine in ten."""
    config = WorldConfig(n_features=40, d_in=20, n_active=2, order="none", noise=0.02)
    world, sae = World(config), TopKSAE(20, SAEConfig(d_sae=60, k=2), generator())
    budget = TrainConfig(n_tokens=500 * 256, batch_tokens=256, lr=1e-2)
    train.fit(sae, world.batches(500, 256, seed=0), budget)
    chance = planted.random_directions(60, 20, generator(1))
    shares = [
        (planted.nearest(learned, world.directions) > 0.95).double().mean().item()
        for learned in (sae.W_dec, chance)
    ]
    assert shares[0] >= 0.9 and shares[1] < 0.05


def test_learned_features_are_matched_before_their_pairs_are_asked():
    """The NFM multiplies its features 3 and 2, which stand for the true features that are planted."""
    world = World(WorldConfig(n_features=4, d_in=6, n_active=3, n_products=1))
    true = world.products[0]
    match = torch.full((4,), -1)
    match[true] = torch.tensor([3, 2])
    match[match < 0] = torch.tensor([0, 1])
    nfm = NFM(6, 4, NFMConfig(d_factor=1, dropout=0.0))
    with torch.no_grad():
        for p in (nfm.V, nfm.b_hidden, nfm.b_out):
            p.zero_()
        nfm.V[[2, 3]] = 1.0
        nfm.W_hidden.fill_(1.0)
        nfm.W_out.copy_(world.product_directions)
    codes = Codes(torch.ones(5, 4), torch.arange(4).expand(5, 4))
    row = planted.pairs_found(nfm, codes, match, world)
    assert (row["recall_difference"], row["recall_factors"], row["false"]) == (1, 1, 0)
    straight = planted.pairs_found(nfm, codes, torch.arange(4), world)
    assert straight["false"] == (0 if set(true.tolist()) == {2, 3} else 1)


def test_a_pair_is_bought_if_one_feature_follows_its_product():
    products = torch.rand(200, 3, generator=torch.Generator().manual_seed(0))
    other = torch.rand(200, generator=torch.Generator().manual_seed(1))
    codes = torch.stack([3 * products[:, 1] + 1, other, torch.zeros(200), 1 - products[:, 2]], 1)
    # the first has no feature, the second one, the third one that does the opposite
    assert planted.bought(codes, products) == pytest.approx(1 / 3)
    diluted = torch.stack([products[:, 0] + 3 * other], 1)  # correlates by about 0.3
    assert planted.bought(diluted, products[:, :1]) == 0
