"""The planted truth is what it says, pair scores agree with slow formulas, and sweeps are checked before anything trains."""

import numpy as np
import pytest
import torch

from companion.chapters import recovery
from companion.chapters.recovery import Trial
from companion.toys import features as toy
from companion.toys import planted
from companion.toys.planted import Batches, World, WorldConfig
from featint import pairs
from featint.config import NFMConfig
from featint.kernels.sparse import Codes
from featint.nfm import NFM

SMALL = WorldConfig(n_features=6, d_in=5, n_active=3, n_products=2, noise=0.0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("order", ["none", "pairs", "triples"])
def test_activations_follow_the_formula(order):
    world = World(
        WorldConfig(
            n_features=6, d_in=5, n_active=4, order=order, n_products=2, strength=0.7, noise=0.0
        )
    )
    sample = world.draw(50, generator())
    for codes, x in zip(sample.codes, sample.x, strict=True):
        expected = sum(codes[i] * world.directions[i] for i in range(6))
        for term, direction in zip(world.products.tolist(), world.product_directions, strict=True):
            expected = expected + 0.7 * np.prod([codes[i].item() for i in term]) * direction
        assert torch.allclose(x, expected, atol=1e-6)
    assert ((sample.codes > 0).sum(1) == 4).all()
    assert len(world.products) == (0 if order == "none" else 2)


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
    batches = Batches(World(SMALL), 3, 10, seed=4, with_codes=True)
    assert torch.equal(batches[1], batches[1]) and not torch.equal(batches[1], batches[2])
    sample = World(SMALL).draw(10, toy.step_generator(4, 1))
    assert torch.equal(batches[1], torch.cat([sample.codes, sample.x], 1))
    assert len(list(batches)) == 3


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


def an_nfm():
    nfm = NFM(5, 6, NFMConfig(d_factor=4, dropout=0.0), generator())
    with torch.no_grad():
        for p in nfm.parameters():
            p.normal_(generator=generator(3))
    return nfm


def test_second_differences_are_those_of_the_whole_nfm():
    """Against f(i and j) - f(i) - f(j) + f(neither), with f the sum of both paths on dense codes."""
    nfm, levels = an_nfm(), torch.rand(6, generator=generator(1)) + 0.5
    every = torch.combinations(torch.arange(6))

    def f(*on):
        acts = torch.zeros(1, 6)
        acts[0, list(on)] = levels[list(on)]
        return sum(nfm.parts(Codes(acts, torch.arange(6)[None])).values())[0]

    expected = [(f(i, j) - f(i) - f(j) + f()).norm().item() for i, j in every.tolist()]
    assert pairs.second_differences(nfm, every, levels).tolist() == pytest.approx(
        expected, rel=1e-4
    )


def test_factor_effects_are_the_products_of_the_weights():
    nfm, levels = an_nfm(), torch.rand(6, generator=generator(1)) + 0.5
    codes = Codes(
        torch.rand(40, 3, generator=generator(2)),
        torch.rand(40, 6, generator=generator(4)).topk(3).indices,
    )
    gate = (nfm.hidden(codes) > 0).double().mean(0)
    every = torch.combinations(torch.arange(6))
    expected = []
    for i, j in every.tolist():
        pooled = levels[i] * levels[j] * nfm.V[i] * nfm.V[j]
        expected.append(((pooled @ nfm.W_hidden) * gate.float() @ nfm.W_out).norm().item())
    assert pairs.factor_effects(nfm, every, levels, codes).tolist() == pytest.approx(
        expected, rel=1e-4
    )


def test_agreement_by_hand():
    planted_pairs = torch.tensor([True, True, True, False, False])
    assert pairs.agreement(torch.tensor([5.0, 4, 3, 2, 1]), planted_pairs) == (1.0, 1.0)
    area, recall = pairs.agreement(
        torch.tensor([5.0, 4, 2, 3, 1]), planted_pairs
    )  # the third of the list is false
    assert area == pytest.approx((1 + 1 + 3 / 4) / 3) and recall == pytest.approx(2 / 3)
    assert pairs.agreement(torch.ones(5), planted_pairs)[1] == 0  # no order at all finds nothing
    assert pairs.agreement(torch.tensor([5.0, 4, 2, 3, 1]), planted_pairs, false_share=0.25)[1] == 1


def test_matching_is_one_to_one_and_bought_counts_products():
    true = torch.eye(3)
    cosine, match = recovery.matched(
        torch.tensor([[0.0, 0, 2], [1, 0, 0], [0.9, 0.1, 0], [0, 3, 0]]), true
    )
    assert match.tolist() == [1, 3, 0] and cosine == pytest.approx(1)
    products = torch.rand(100, 2, generator=generator())
    codes = torch.stack(
        [3 * products[:, 1] + 1, torch.rand(100, generator=generator(1)), torch.zeros(100)], 1
    )
    assert recovery.bought(codes, products) == 0.5


def test_sweeps_are_refused_before_anything_trains(monkeypatch):
    monkeypatch.setattr(recovery, "run", lambda trial: pytest.fail("a trial ran"))
    base = Trial(world=SMALL)
    assert (
        len(
            recovery.trials(
                base, strength=[0.5, 1.0], setting=["joint", "sequential"], seed=[0, 1, 2]
            )
        )
        == 12
    )
    with pytest.raises(ValueError, match="the sweep over strength is empty"):
        recovery.trials(base, setting=["joint"], strength=[])
    with pytest.raises(
        ValueError,
        match="the sweep cannot run order = 'triples', n_active = 2: order = 'triples' needs n_active",
    ):
        recovery.trials(base, order=["triples"], n_active=[2])
    with pytest.raises(
        ValueError, match="sweep parameter = 'strengths' is not known; allowed: 'batch_tokens'"
    ):
        recovery.trials(base, strengths=[1.0])
    with pytest.raises(
        ValueError, match="the sweep cannot run n_tokens = 10: n_tokens = 10 must be"
    ):
        recovery.trials(base, n_tokens=[10])


def test_a_planted_pair_is_found_on_true_codes_and_none_where_none_is():
    base = Trial(
        world=WorldConfig(n_features=10, d_in=12, n_active=3, n_products=3, noise=0.02),
        n_tokens=120_000,
        d_factor=8,
    )
    row = recovery.run(base)
    assert row["recall_difference"] == 1 and row["false"] == 0 and row["reported"] == 3
    assert row["fvu_floor"] * 0.95 < row["fvu"] < (row["fvu_floor"] + row["fvu_linear_floor"]) / 2
    (nothing,) = recovery.trials(base, order=["none"])
    row = recovery.run(nothing)
    assert (
        row["reported"] == row["false"] == 0
        and "auprc_difference" not in row
        and "bought" not in row
    )


def test_the_matched_sae_has_the_joint_models_parameters():
    counts = {}
    for setting in ("joint", "SAE, matched", "SAE"):
        model = recovery.untrained(Trial(world=SMALL, setting=setting, d_factor=4), World(SMALL))
        counts[setting] = sum(p.numel() for p in model.parameters())
    assert abs(counts["SAE, matched"] - counts["joint"]) <= 11  # within one feature: 2 d_in + 1
    assert counts["SAE"] < counts["joint"]


def test_splitting_the_sum_moves_the_gain_but_not_the_whole():
    trial = Trial(world=SMALL, setting="joint, no interaction", n_tokens=20_000)
    world = World(SMALL)
    model = recovery.fitted(trial, world)
    x = world.draw(500, generator(9)).x
    table = recovery.gain_by_split(model, x, [0.0, 0.5, 1.0]).set_index("split").gain
    errors = recovery.path_fvu(model, x)
    with torch.no_grad():  # put all of it into the decoder, by hand
        model.sae.W_dec += model.nfm.W_lin
        model.nfm.W_lin.zero_()
    moved = recovery.path_fvu(model, x)
    assert moved["whole model"] == pytest.approx(errors["whole model"], rel=1e-5)
    assert table[0.0] == pytest.approx(
        100 * (1 - moved["whole model"] / moved["own path"]), abs=1e-3
    )
    assert table[0.0] < table[0.5] < table[1.0]


def test_share_unexplained_is_sklearns():
    from sklearn.metrics import r2_score

    x, x_hat = (torch.randn(30, 4, generator=generator(s)) for s in (0, 1))
    assert planted.share_unexplained(x, x_hat) == pytest.approx(
        1 - r2_score(x.numpy(), x_hat.numpy(), multioutput="variance_weighted")
    )
