"""What the chapter measures, on models whose weights are set by hand; sweeps, means and readings."""

from dataclasses import replace

import numpy as np
import pages
import pandas as pd
import pytest
import torch
from sklearn.metrics import r2_score

from companion import estimates
from companion.chapters import planted_truth
from companion.chapters.planted_truth import Attempt
from featint import planted
from featint.config import NFMConfig, SAEConfig
from featint.joint import JointSAE
from featint.nfm import NFM
from featint.planted import OnTrueCodes, World
from featint.sae import TopKSAE

TINY = {"n_features": 4, "d_in": 6, "n_active": 3, "n_products": 1, "noise": 0.0, "d_factor": 1}


def by_hand(world, pair, size=1.0):
    """An NFM on true codes whose linear path writes every feature's direction and whose interaction
    path writes `size` times the product of a pair along the planted one's direction."""
    nfm = NFM(6, 4, NFMConfig(d_factor=1, dropout=0.0))
    with torch.no_grad():
        for p in nfm.parameters():
            p.zero_()
        nfm.W_lin.copy_(world.directions)
        nfm.V[list(pair)] = 1.0
        nfm.W_hidden.fill_(1.0)
        nfm.W_out.copy_(size * world.product_directions)
    return OnTrueCodes(nfm, 4, 3)


def pair_of(world, planted):
    """The planted pair, or the one that shares nothing with it."""
    pair = world.products[0].tolist()
    return pair if planted else sorted({0, 1, 2, 3} - set(pair))


def measured(monkeypatch, planted=True, size=1.0, **more):
    attempt = Attempt(**TINY | more)
    make = lambda a, world: by_hand(world, pair_of(World(attempt), planted), size)  # noqa: E731
    monkeypatch.setattr(planted_truth, "fitted", make)
    return planted_truth.measured(attempt)


def test_a_model_that_has_the_product_leaves_nothing_and_finds_it(monkeypatch):
    row = measured(monkeypatch)
    assert row["fvu"] < 1e-10 and row["fvu_refit_pairs"] < 1e-10 and row["fvu_floor"] < 1e-10
    assert row["fvu_refit"] == pytest.approx(row["fvu_linear_floor"]) and row["fvu_refit"] > 0.01
    found = [row[m] for m in ("recall_difference", "recall_factors", "reported", "false")]
    assert found == [1, 1, 1, 0] and row["auprc_difference"] == row["auprc_factors"] == 1
    score, planted = row["top"][0]
    # its features, each at its mean level of 1 where it fires, write a product of length 1
    assert planted and score == pytest.approx(1, abs=0.03)
    assert len(row["top"]) == 6 and not any(p or s > 1e-6 for s, p in row["top"][1:])
    # 4 x 6 + 6 of the linear path, 4 of V, 1 + 1 and 6 + 6 of the MLP
    assert row["parameters"] == 48 and "cosine" not in row and "bought" not in row


def test_a_wrong_pair_is_a_false_one(monkeypatch):
    row = measured(monkeypatch, planted=False)
    assert [row[m] for m in ("recall_difference", "reported", "false")] == [0, 1, 1]
    assert row["auprc_difference"] == pytest.approx(1 / 6)  # the planted one ties with the last
    assert row["fvu_refit_pairs"] > row["fvu_refit"] * 1.5  # it writes what is not there


@pytest.mark.parametrize(
    ("size", "strength", "reported"), [(0.55, 1, 1), (0.45, 1, 0), (0.55, 2, 0)]
)
def test_reported_is_what_has_half_of_what_is_planted(monkeypatch, size, strength, reported):
    row = measured(monkeypatch, size=size, strength=strength)
    assert (row["reported"], row["false"]) == (reported, 0)


def test_where_triples_are_planted_every_reported_pair_is_false(monkeypatch):
    attempt = Attempt(**TINY | {"order": "triples"})
    monkeypatch.setattr(planted_truth, "fitted", lambda a, world: by_hand(world, (0, 1)))
    row = planted_truth.measured(attempt)
    assert (row["reported"], row["false"]) == (1, 1) and "recall_difference" not in row


def test_affine_maps_are_fitted_on_one_sample_and_judged_on_the_other(monkeypatch):
    row, world = measured(monkeypatch, noise=0.3), World(Attempt(**TINY | {"noise": 0.3}))
    fit, test = (
        world.draw(10_000, planted.step_generator(0, step))
        for step in (planted_truth.FLOOR, planted_truth.TEST)
    )
    with_one = [np.c_[s.codes.double().numpy(), np.ones(10_000)] for s in (fit, test)]
    weights = np.linalg.lstsq(with_one[0], fit.x.double().numpy(), rcond=None)[0]
    judged = r2_score(test.x, with_one[1] @ weights, multioutput="variance_weighted")
    assert row["fvu_refit"] == pytest.approx(1 - judged, rel=1e-6)
    assert row["fvu"] == pytest.approx(0.3**2 * 6 / test.x.double().var(0).sum().item(), rel=0.02)


def test_a_joint_model_by_hand(monkeypatch):
    """Five features read the four true codes and the product off x exactly; decoder and linear path
    together write them back, where `lost` says so not."""
    attempt = Attempt(**TINY, model="joint")
    world = World(attempt)
    written = torch.cat([world.directions, world.product_directions])

    def by_hand(lost):
        nfm = NFM(6, 5, NFMConfig(d_factor=1, dropout=0.0))
        model = JointSAE(TopKSAE(6, SAEConfig(d_sae=5, k=4)), nfm)
        with torch.no_grad():
            for p in model.parameters():
                p.zero_()
            model.sae.W_enc.copy_(torch.linalg.pinv(written))
            model.sae.W_dec.copy_(-written)
            model.nfm.W_lin.copy_(2 * written)
            for rows in (model.sae.W_dec, model.nfm.W_lin):
                rows[:lost] = 0
        monkeypatch.setattr(planted_truth, "fitted", lambda a, world: model)
        return planted_truth.measured(attempt)

    row = by_hand(0)
    assert row["fvu"] < 1e-9 and row["bought"] == 1 and row["recall_difference"] == 0
    assert row["cosine"] == pytest.approx(1)  # of W_dec alone it would be below 0
    # with three of the true ones gone, the fourth, or the product's row, cannot be the median
    assert by_hand(3)["cosine"] < 0.9


def test_every_model_is_what_it_is_called():
    models = {m: planted_truth.untrained(Attempt(**TINY, model=m)) for m in planted_truth.MODELS}
    parts = {
        m: set() if m == "true_codes" else set(models[m].parts(models[m].encode(torch.ones(1, 6))))
        for m in models
    }
    assert parts["joint"] == parts["sequential"] == {"sae_out", "linear_out", "interaction_out"}
    assert parts["joint_no_interaction"] == {"sae_out", "linear_out"} and parts["sae"] == {
        "sae_out"
    }
    n = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
    # encoder 6 x 4 + 4 and decoder 4 x 6; the joint model 30 + 4 + 2 + 12 more: 4 features at 13
    assert (n["sae"], n["joint"], n["sae_matched"]) == (52, 100, 104)
    first, second = (planted_truth.untrained(Attempt(**TINY, model="sae")).W_dec for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(
        first, planted_truth.untrained(Attempt(**TINY, model="sae", seed=1)).W_dec
    )
    first, again, other = (
        planted_truth.untrained(Attempt(**TINY, model="joint", seed=s)).nfm.V for s in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    small = [
        sum(p.numel() for p in planted_truth.untrained(Attempt(**TINY | changed)).parameters())
        for changed in ({"model": "sae_matched", "d_in": 2}, {"model": "joint", "d_in": 2})
    ]
    # features of two dimensions have 5 parameters; 4 of the SAE, and 10 + 4 + 2 + 4 = 20 are 4 more
    assert small == [40, 40]
    assert planted_truth.WITH_PAIRS == ("true_codes", "sequential", "joint")


def test_the_sequential_models_sae_is_the_sae_and_the_bias_moves_only_if_asked():
    few, trained = TINY | {"n_tokens": 256 * 4}, {}
    for model in ("sae", "sequential", "joint"):
        attempt = Attempt(**few, model=model)
        trained[model] = planted_truth.fitted(attempt, World(attempt))
    assert torch.equal(trained["sequential"].sae.W_dec, trained["sae"].W_dec)
    start = planted_truth.untrained(attempt)
    for part in (
        trained["joint"].sae.W_dec - start.sae.W_dec,
        trained["sequential"].nfm.V - start.nfm.V,
    ):
        assert part.norm() > 0.01
    for model in ("sequential", "joint"):
        assert not trained[model].nfm.b_hidden.any()
    moved = planted_truth.fitted(replace(attempt, hidden_bias=True), World(attempt))
    assert moved.nfm.b_hidden.any()


def test_planted_pairs_are_found_on_true_codes_and_none_where_none_are():
    size = {"n_features": 10, "d_in": 12, "n_active": 3, "n_products": 3, "noise": 0.02}
    base = Attempt(**size, n_tokens=120_000, d_factor=8)
    pairs, none = (
        planted_truth.measured(a) for a in planted_truth.attempts(base, order=["pairs", "none"])
    )
    assert pairs["recall_difference"] == 1 and (pairs["reported"], pairs["false"]) == (3, 0)
    between = (pairs["fvu_floor"] + pairs["fvu_linear_floor"]) / 2
    assert pairs["fvu_floor"] * 0.95 < pairs["fvu"] < between
    assert (none["reported"], none["false"]) == (0, 0) and "auprc_difference" not in none


def test_tokens_of_tests_are_no_training_tokens():
    """A seed has a million and three steps before the next one's begin; training takes the first."""
    steps = {planted_truth.TEST, planted_truth.FLOOR}
    assert len(steps) == 2 and min(steps) > 10**6 - 2 and max(steps) < 1_000_003
    assert Attempt(**TINY, seed=3).training.seed == 3


def test_sweeps_are_checked_before_anything_trains():
    base = Attempt(**TINY)
    made = planted_truth.attempts(
        base, strength=[0.5, 1.0], model=["joint", "sequential"], seed=[0, 1, 2]
    )
    assert len(set(made)) == 12 and made[1] == Attempt(**TINY, strength=0.5, model="joint", seed=1)
    for message, values in {
        "the sweep over strength is empty": {"model": ["joint"], "strength": []},
        "order = 'triples' needs n_active of at least 3, not 2": {
            "order": ["triples"],
            "n_active": [2],
        },
        "sweep parameter = 'strengths' is not known; allowed: 'batch_tokens', 'd_factor'": {
            "strengths": [1.0]
        },
        "n_tokens = 10 must be": {"n_tokens": [10]},
        "model = 'SAE' is not known; allowed: 'true_codes'": {"model": ["SAE"]},
        "d_factor = 0 must be": {"d_factor": [0]},
    }.items():
        with pytest.raises(ValueError, match=message):
            planted_truth.attempts(base, **values)


def test_a_shared_attempt_is_trained_once_and_lands_in_every_sweep(monkeypatch):
    ran = []
    monkeypatch.setattr(
        planted_truth, "Parallel", lambda n_jobs: lambda tasks: [f(*a) for f, a, _ in tasks]
    )
    monkeypatch.setattr(
        planted_truth, "measured", lambda a: ran.append(a) or {"seed": a.seed, "order": a.order}
    )
    base = Attempt(**TINY)
    sweeps = {
        "a": planted_truth.attempts(base, seed=[0, 1]),
        "b": planted_truth.attempts(base, order=["none", "pairs"], seed=[1]),
    }
    found = planted_truth.run(sweeps)
    assert len(ran) == len(set(ran)) == 3
    assert found["a"].to_dict("list") == {"seed": [0, 1], "order": ["pairs", "pairs"]}
    assert found["b"].to_dict("list") == {"seed": [1, 1], "order": ["none", "pairs"]}


SEEDS = pd.DataFrame({
    "model": ["b", "b", "b", "a", "a", "a"], "seed": [0, 1, 2, 2, 1, 0], "fvu": [0.5, 0.75, 1.0, 1, 1, 4],
    "bought": [0.5, 0.75, 1.0, None, None, None], "gain": [0.5, 0.75, 1.0, -0.01, 0.0, 0.01],
})  # fmt: skip
HALF = 4.302653 * 0.25 / 3**0.5  # Student's t of 2 degrees of freedom, standard deviation 0.25


def test_means_over_seeds():
    found = planted_truth.means(SEEDS, {"fvu": "FVU", "bought": "%", "gain": "%", "other": "area"})
    assert found[["quantity", "model"]].to_numpy().tolist() == [
        ["fvu", "b"], ["fvu", "a"], ["bought", "b"], ["gain", "b"], ["gain", "a"]
    ]  # fmt: skip
    row = found.set_index(["quantity", "model"]).loc
    fvu, bought, gain = row["fvu", "b"], row["bought", "b"], row["gain", "b"]
    assert (fvu.value, fvu.lo, fvu.hi) == pytest.approx((0.75, 0.75 - HALF, 0.75 + HALF))
    assert (fvu.n, fvu.of, fvu.unit, fvu.protocol) == (3, "seeds", "FVU", "controlled")
    assert (gain.value, gain.lo, gain.hi) == pytest.approx((75, 75 - 100 * HALF, 75 + 100 * HALF))
    assert (bought.value, bought.lo) == pytest.approx((75, 75 - 100 * HALF))
    assert bought.hi == 100  # a share has no more than all; 137 % of a gain may be
    assert row["fvu", "a"].value == pytest.approx(2) and row["gain", "a"].value == pytest.approx(0)
    low = planted_truth.means(SEEDS.assign(bought=1 - SEEDS["bought"]), {"bought": ""})
    assert (low.value[0], low.lo[0], low.hi[0]) == pytest.approx((0.25, 0, 0.25 + HALF))
    shares = dict.fromkeys(planted_truth.SHARES, "%")
    found = planted_truth.means(SEEDS.assign(**dict.fromkeys(shares, SEEDS["gain"])), shares)
    assert found.loc[found["model"] == "b", "hi"].tolist() == [100] * 5
    assert found.loc[found["model"] == "a", "lo"].tolist() == [0] * 5
    assert set(shares) == {
        *(f"{score}_{of}" for score in ("recall", "auprc") for of in ("difference", "factors")),
        "bought",
    }
    with pytest.raises(ValueError, match="finite"):  # a seed is not dropped in silence
        planted_truth.means(SEEDS.assign(fvu=[0.5, None, 1, 1, 1, 4]), {"fvu": "FVU"})
    one = planted_truth.means(SEEDS[SEEDS["seed"] == 1], {"bought": "%"})
    assert (one.value[0], one.lo[0], one.n[0]) == (75, None, 1)
    assert estimates.identifier(next(one.itertuples())) == "b/bought/controlled"
    parts = planted_truth.means(SEEDS.assign(part="none"), {"fvu": "FVU"})
    assert [estimates.identifier(r) for r in parts.itertuples()] == [
        "b/fvu/none/controlled",
        "a/fvu/none/controlled",
    ]


def test_a_table_for_readers():
    columns = {"gain": ("won", ".1f"), "bought": ("pairs bought", ".2f")}
    in_columns = pages.functions("planted_truth")["in_columns"]
    table = in_columns(SEEDS, columns)
    assert table.index.tolist() == ["b", "a"] and table.columns.tolist() == ["won", "pairs bought"]
    assert table.loc["b"].tolist() == ["0.8 [0.1, 1.4]", "0.75 [0.13, 1.00]"]
    without = in_columns(SEEDS, {"bought": ("pairs bought", ".2f")})
    assert without.index.tolist() == ["b", "a"] and without.index.name == "model"
    assert table.loc["a", "won"] == "0.0 [0.0, 0.0]" and pd.isna(table.loc["a", "pairs bought"])


@pytest.mark.parametrize(
    ("estimate", "bound", "says"),
    [
        ((0.95, 0.92, 0.98), 0.9, "yes"),
        ((0.9, 0.9, 0.9), 0.9, "yes"),
        ((0.5, 0.4, 0.6), 0.9, "no"),
        ((0.95, 0.8, 1.0), 0.9, "yes on average; the interval includes 0.9"),
        ((0.85, 0.8, 0.95), 0.9, "no on average; the interval includes 0.9"),
        ((0.95, None, None), 0.9, "yes, with the one seed that was run"),
        ((-5, None, None), 0, "no, with the one seed that was run"),
        ((0, 0, 0), None, "no"),
        ((0.3, -1, 1.6), None, "yes, in some seeds"),
    ],
)
def test_readings(estimate, bound, says):
    row = pd.Series(dict(zip(("value", "lo", "hi"), estimate, strict=True)), dtype=object)
    assert pages.functions("planted_truth")["reading"](row, bound) == says
