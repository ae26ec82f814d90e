"""The planted truth is what its formula says, and what is measured against it is worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from featint import pair_effects, planted, train
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
    assert not torch.equal(other_seed, other_step)  # the next seed is no later start of this one
    seeds = [planted.step_generator(*at).initial_seed() for at in ((0, 5), (2, 3))]
    assert seeds == [5, 2_000_009]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_active": 7}, "n_active = 7 is more than n_features = 6"),
        ({"n_active": 1}, "order = 'pairs' needs n_active of at least 2"),
        ({"order": "triples", "n_active": 2}, "order = 'triples' needs n_active of at least 3"),
        ({"n_products": 16}, "n_products = 16 is more than the 15 pairs of 6 features"),
        ({"strength": 0}, "strength = 0 plants nothing"),
        ({"noise": -1}, "noise = -1"),
        ({"strength": -1}, "strength = -1"),
        *(({name: 0}, f"{name} = 0") for name in ("n_features", "d_in", "n_active", "n_products")),
    ],
)
def test_impossible_worlds_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        WorldConfig(**{"n_features": 6, "d_in": 5, "n_active": 3, "n_products": 2} | wrong)


def test_worlds_at_the_limits_are_possible():
    """All features at once, every pair planted, once each; and one triple of three features."""
    size = {"d_in": 1, "noise": 0}
    world = World(WorldConfig(**size, n_features=4, n_active=4, n_products=6))
    pairs = sorted(map(tuple, world.products.tolist()))
    assert pairs == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert len(set(map(tuple, world.products[:3].tolist())) - set(pairs[:3])) > 0  # by lot
    codes = world.draw(5, generator()).codes
    assert (codes >= 0.5).all()
    triples = World(WorldConfig(**size, n_features=3, n_active=3, n_products=1, order="triples"))
    assert triples.products.tolist() == [[0, 1, 2]]
    WorldConfig(**size, n_features=4, n_active=2, n_products=1)
    none = WorldConfig(**size, n_features=2, n_active=1, n_products=9, order="none", strength=0)
    assert World(none).products.numel() == 0


def test_another_seed_plants_another_truth():
    world, other = World(SMALL), World(replace(SMALL, seed=1))
    for name in ("directions", "product_directions"):
        assert not torch.allclose(getattr(world, name), getattr(other, name))
    planted_by = {tuple(World(replace(SMALL, seed=s)).products[0].tolist()) for s in range(9)}
    assert len(planted_by) > 2


def test_a_world_moves_to_a_device_whole_and_stays_where_it_was():
    world = planted.World(planted.WorldConfig(n_features=8, d_in=4, n_active=2, n_products=3))
    moved = world.to("meta")
    for name in ("directions", "products", "product_directions"):
        there, here = getattr(moved, name), getattr(world, name)
        assert (there.device.type, there.shape) == ("meta", here.shape)
        assert here.device.type == "cpu"
    assert moved.config == world.config


def test_floors_by_hand():
    """x = 1 + 2 c + 4 p. Without p the fit is 3 + 2 c: on the test's 1 and 9 it says 3 and 7, errors
    4 + 4 around the mean's 16 + 16."""

    def sample(c, p):
        c, p = torch.tensor([c, p], dtype=torch.float32)[..., None]
        return planted.Sample(c, p, 1 + 2 * c + 4 * p)

    world = World(WorldConfig(n_features=1, d_in=1, n_active=1, order="none"))
    linear, floor = world.floors(sample([0, 2, 0, 2], [0, 0, 1, 1]), sample([0, 2], [0, 1]))
    assert linear == pytest.approx(0.25) and floor == pytest.approx(0, abs=1e-12)


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
    # the opposite direction is no match: a row of zeros, at 0, comes before it
    opposite = torch.tensor([[-1.0, 0], [0.6, 0.8], [0, 0]])
    cosine, match = planted.matched(opposite, torch.eye(2))
    assert match.tolist() == [2, 1] and cosine.tolist() == pytest.approx([0, 0.8])
    assert planted.nearest(opposite[[0, 2]], torch.eye(2)).tolist() == [0, 0]
    assert planted.nearest(opposite[:1], torch.eye(2)).tolist() == [-1, 0]


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


def test_bought_counts_correlations_of_more_than_half_of_products_with_features():
    """Of two products that do not correlate, 3 a + 4 b has 0.6 and 0.8, b - 2 a -0.89 and 0.45."""
    a, b = torch.tensor([[1.0, 1, -1, -1], [1, -1, 1, -1]])

    def bought(*codes, products=(a, b)):
        return planted.bought(torch.stack(codes, 1), torch.stack(products, 1))

    assert bought(3 * a + 4 * b) == 1 and bought(b - 2 * a) == 0
    assert bought(a + 2 * b) == 0.5  # 0.45 and 0.89
    assert bought(a * b, products=(a, a)) == 0  # products that follow each other buy nothing
    assert bought(a, a, a * b) == 0.5


def test_pairs_found_by_hand():
    """V_i V_j a_i a_j, with the levels 2, the mean of 1 and 3 where it fires, 1, its only time, and 2: 2, 1 and 0.5
    for V = 1, 1, 1/4. Half of a planted 2 is reported, by equality."""
    config = WorldConfig(n_features=3, d_in=1, n_active=2, n_products=1, strength=2)
    world, nfm = World(config), NFM(1, 3, NFMConfig(d_factor=1, dropout=0.0))
    with torch.no_grad():
        for p in nfm.parameters():
            p.zero_()
        nfm.V.copy_(torch.tensor([[1.0], [1.0], [0.25]]))
        nfm.W_hidden.fill_(1.0)
        nfm.W_out.fill_(-1.0)
    codes = Codes(torch.tensor([[1.0, 1], [3, 2], [0, 2]]), torch.tensor([[0, 1], [0, 2], [1, 2]]))

    def found(i, j, match=(0, 1, 2)):
        world.products = torch.tensor([[i, j]])
        return planted.pairs_found(nfm, codes, torch.tensor(match), world)

    row = found(0, 1)
    assert row["top"] == [(2, True), (1, False), (0.5, False)]
    assert (row["reported"], row["false"]) == (2, 1)
    for name in ("difference", "factors"):
        assert (row[f"auprc_{name}"], row[f"recall_{name}"]) == (1, 1)
    last = found(1, 2)
    assert last["top"] == [(2, False), (1, False), (0.5, True)] and last["false"] == 2
    for name in ("difference", "factors"):
        assert last[f"auprc_{name}"] == pytest.approx(1 / 3) and last[f"recall_{name}"] == 0
    # true feature 0 is the NFM's 2: its pairs with 1 and 2 are the NFM's (2, 1) and (2, 0)
    turned = found(0, 2, match=(2, 1, 0))
    assert turned["top"] == [(2, False), (1, True), (0.5, False)] and turned["false"] == 1


def test_difference_and_factors_are_each_their_own_score(monkeypatch):
    world = World(WorldConfig(n_features=10, d_in=1, n_active=2, n_products=1))
    world.products = torch.tensor([[0, 1]])
    nfm, codes = NFM(1, 10, NFMConfig(d_factor=1)), Codes(torch.ones(1, 2), torch.tensor([[0, 1]]))
    rising = torch.arange(45.0)  # the planted pair is the first of 45
    monkeypatch.setattr(pair_effects, "alone", lambda *_: rising)
    monkeypatch.setattr(pair_effects, "by_weights", lambda *_: -rising)
    row = planted.pairs_found(nfm, codes, torch.arange(10), world)
    assert (row["recall_difference"], row["recall_factors"]) == (0, 1)
    assert row["auprc_difference"] == pytest.approx(1 / 45) and row["auprc_factors"] == 1
    assert row["top"] == [(float(d), False) for d in range(44, 4, -1)]  # the 40 largest
    assert (row["reported"], row["false"]) == (44, 44)
