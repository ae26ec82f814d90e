"""The gauge freedom on small models whose answer is known: gradients, conservation, splits, merging."""

import numpy as np
import pytest
import torch

from companion import variants
from companion.chapters import two_decoders
from featint import activations, heldout, metrics, runs


@pytest.fixture
def joint(p):
    return runs.get(variants.get("joint", p))


def test_gradients_agree_without_a_mask_and_differ_with_one(joint):
    table = two_decoders.gradients(joint.model, torch.randn(40, 32)).set_index(
        "the linear path sees"
    )
    assert table["difference"].iloc[0] < 1e-12 * table["decoder"].iloc[0]
    assert table["difference"].iloc[1] > 0.05 * table["decoder"].iloc[1]


def test_the_difference_is_conserved_in_float64_and_only_without_a_mask(p):
    kept = two_decoders.conservation(variants.get("joint", p), p)
    free, masked = (rows.iloc[-1] for _, rows in kept.groupby("sees", sort=False))
    assert free.decoder > 0.1 and free.difference < 1e-11
    assert masked.difference > 1e-3


def test_the_trained_models_difference_stayed_where_the_seed_put_it(joint):
    moved = two_decoders.drift(joint)
    assert moved["decoder"] > 1 and moved["difference"] < 1e-3 * moved["decoder"]
    assert moved["sum"] == pytest.approx(2 * moved["decoder"], rel=1e-3)


@pytest.mark.parametrize("name", ["joint", "joint_no_interaction"])
def test_merging_changes_no_output(p, name):
    trained = runs.get(variants.get(name, p))
    x = torch.randn(50, 32)
    assert torch.allclose(
        two_decoders.merged(trained.model)(x).x_hat, trained.model(x).x_hat, atol=1e-4
    )
    table = two_decoders.merge_table({name: trained}, x)
    assert table["largest change of an output"].item() < 1e-12
    assert (
        table["parameters"].item() - table["merged"].item() == 64 * 32
    )  # one decoder; b_lin becomes b_dec


def test_a_masked_linear_path_cannot_be_merged(p):
    with pytest.raises(ValueError, match="only a linear path that sees all codes can be merged"):
        two_decoders.merged(runs.build(variants.get("joint_masked", p), 32))


def test_the_error_of_a_split_is_that_of_a_model_split_so(p, joint):
    test = activations.load(p.harvest, "test")
    sums = two_decoders.split_sums({"joint": joint.model}, test)
    x = test.rows(torch.arange(len(test)))
    split = 0.3
    with torch.no_grad():
        codes = joint.model.encode(x)
        kept = (1 - split) * codes.dense(64) @ (joint.model.sae.W_dec + joint.model.nfm.W_lin)
    wanted = (x.double() - kept.double()).square().sum().item()
    assert two_decoders.own_path_sse(sums.sum(), "joint", split) == pytest.approx(wanted, rel=1e-5)


def test_the_closed_form_is_exact_for_a_least_squares_reconstruction():
    rng = np.random.default_rng(0)
    c, x = rng.standard_normal((2000, 5)), rng.standard_normal((2000, 8))
    x += c @ rng.standard_normal((5, 8))
    x -= x.mean(0)
    c -= c.mean(0)
    x_hat = c @ np.linalg.lstsq(c, x, rcond=None)[0]
    e = metrics.fvu(((x - x_hat) ** 2).sum(), (x**2).sum())
    for split in (-0.5, 0.25, 0.5, 1.0):
        gain = 100 * (1 - ((x - x_hat) ** 2).sum() / ((x - (1 - split) * x_hat) ** 2).sum())
        assert two_decoders.closed_form(e, split) == pytest.approx(gain)
    assert two_decoders.closed_form(e, two_decoders.split_for(e, 41.3)) == pytest.approx(41.3)


def test_the_estimates_agree_with_the_curves(p):
    models = {
        name: runs.get(variants.get(name, p)) for name in ("sae", "joint", "joint_no_interaction")
    }
    test = activations.load(p.harvest, "test")
    sums = two_decoders.split_sums({n: m.model for n, m in models.items()}, test)
    own = heldout.sums({"joint": models["joint"].config})
    table = two_decoders.estimates(sums, own, p.bootstrap, 41.3)
    curves = two_decoders.split_curves(sums, ["sae", "joint"]).set_index(["model", "split"])
    assert table.loc["sae/gain_even_split", "value"] == pytest.approx(
        curves.loc[("sae", 0.5), "gain"]
    )
    assert (
        curves.loc[("joint", 0.0), "gain"]
        < curves.loc[("joint", 0.5), "gain"]
        < curves.loc[("joint", 1.0), "gain"]
    )
    assert table.loc["joint/split", "value"] == pytest.approx(
        0.5, abs=0.25
    )  # both matrices start small
    found = two_decoders.values(
        table,
        {},
        two_decoders.conservation(variants.get("joint", p), p),
        two_decoders.merge_table({}, torch.zeros(1, 32)),
    )
    assert found["sae/fvu/controlled"].ci[0] < found["sae/fvu/controlled"].value < 1
