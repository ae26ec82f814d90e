"""The free split on small models whose answer is known: gradients, conservation, splits, merging."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pages
import pandas as pd
import pytest
import torch

from companion import variants
from companion.chapters import two_decoders
from companion.profiles import altered
from featint import activations, runs, train
from featint.config import NFMConfig, SAEConfig
from featint.joint import JointSAE
from featint.nfm import NFM
from featint.sae import TopKSAE

page = SimpleNamespace(**pages.functions("two_decoders"))


@pytest.fixture
def joint():
    """A joint model, 4 of 64 features of 32 dimensions, that is not trained but says something."""
    generator = torch.Generator().manual_seed(0)
    sae = TopKSAE(32, SAEConfig(d_sae=64, k=4), generator)
    model = JointSAE(sae, NFM(32, 64, NFMConfig(d_factor=3, dropout=0.2), generator))
    for weights in model.nfm.parameters():
        weights.data.normal_(0, 0.3, generator=generator)
    return model.requires_grad_(False).eval()


def test_gradients_are_those_of_the_formula_and_differ_only_with_a_mask(joint):
    """dL / dW = c^T dL / dx_hat, with L the mean over 40 tokens and 32 dimensions."""
    x = torch.randn(40, 32, generator=torch.Generator().manual_seed(0)).double()
    model = two_decoders.separate(joint).train()  # dropout would make every pass another one
    found = two_decoders.gradients(model, x.float())
    with torch.no_grad():
        codes = model.encode(x.float().double())
        error = model.decode(codes) - x.float().double()
        wanted = (codes.dense(64).T @ (2 * error / (40 * 32))).norm().item()
    assert found["decoder"] == pytest.approx(wanted) and found["linear path"] == pytest.approx(
        wanted
    )
    assert found["difference"] < 1e-12 * wanted
    untouched = joint.sae.W_dec  # the copy is another one
    assert untouched.dtype == torch.float32 and not untouched.requires_grad
    assert joint.nfm.config.dropout == 0.2
    masked = two_decoders.gradients(two_decoders.separate(joint, top_n=2), x.float())
    assert masked["difference"] > 0.05 * masked["decoder"]


def test_moved_by_hand(joint):
    """Decoder by one entry of 1, linear path by 1, 2, 2: the difference by 2, 2, the sum by 2, 2, 2."""
    end = copy.deepcopy(joint)
    end.sae.W_dec[0, 0] += 1
    end.nfm.W_lin[[0, 0, 1], [0, 1, 1]] += torch.tensor([1.0, 2.0, 2.0])
    found = two_decoders.moved(joint, end)
    wanted = {"difference": 8**0.5, "sum": 12**0.5, "decoder": 1}
    assert found == pytest.approx(wanted, rel=1e-5)


def test_the_difference_is_conserved_in_float64_and_only_without_a_mask(p):
    free, masked = (
        two_decoders.conservation(variants.get(n, p), p) for n in ("joint", "joint_masked")
    )
    assert free.index.tolist() == list(range(15, 121, 15)) and free.index.name == "step"
    assert free["decoder"].iloc[-1] > 1.3 * free["decoder"].iloc[0] > 0.1
    assert free["difference"].max() < 1e-11 and masked["difference"].iloc[-1] > 1e-3


def test_every_segment_goes_on_with_the_next_batches_at_the_same_rate(p, monkeypatch):
    config, seen = altered(variants.get("joint", p), {"train": {"n_tokens": 1280}}), []
    monkeypatch.setattr(train, "fit", lambda _, part, how, **__: seen.append((part, how)))
    two_decoders.conservation(config, p)
    how = replace(config.train, n_tokens=120 * 256, batch_tokens=256)
    batches = activations.load(p.harvest, "train").batches(how)
    parts = torch.stack([torch.stack(part) for part, _ in seen])
    assert torch.equal(parts.flatten(0, 1), torch.stack(list(batches)).double())
    for part, how in seen:
        assert (len(part), how.n_steps, how.lr_end_factor, how.lr) == (15, 15, 1, config.train.lr)


def test_the_trained_models_difference_stayed_where_the_seed_put_it(p):
    trained = runs.get(variants.get("joint", p))
    found = two_decoders.moved(runs.build(trained.config, 32), trained.model)
    assert found["decoder"] > 1 and found["difference"] < 1e-3 * found["decoder"]


@pytest.mark.parametrize("interaction", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_merging_changes_no_output(joint, interaction, bias):
    two = two_decoders.separate(joint, interaction=interaction).eval()
    if bias:
        two.sae.b_dec = torch.nn.Parameter(torch.arange(32.0).double())
    one = two_decoders.merged(two)
    x = torch.randn(50, 32, generator=torch.Generator().manual_seed(1)).double()
    assert (two(x).x_hat - one(x).x_hat).abs().max() < 1e-12
    assert isinstance(one, JointSAE if interaction else TopKSAE) and not one.training


@pytest.mark.parametrize("change", [{"top_n": 2}, {"linear": False}])
def test_what_does_not_see_all_codes_cannot_be_merged(joint, change):
    with pytest.raises(ValueError, match="only a linear path that sees all codes can be merged"):
        two_decoders.merged(two_decoders.separate(joint, **change))


@pytest.mark.parametrize("split", [0.3, 1.0])
def test_the_error_of_a_split_is_that_of_a_model_split_so(p, joint, split):
    test = activations.load(p.harvest, "test")
    sums = two_decoders.split_sums(joint, test)
    x = test.rows(torch.arange(len(test)))
    other = copy.deepcopy(joint)
    summed = joint.sae.W_dec + joint.nfm.W_lin
    other.sae.W_dec.copy_((1 - split) * summed)
    other.nfm.W_lin.copy_(split * summed)
    own = other.sae.decode(other.encode(x))
    for x_hat, error in (
        (own, page.own_path_sse(sums.sum(), split)),
        (other(x).x_hat, sums["sse"].sum()),
    ):
        assert error == pytest.approx((x.double() - x_hat.double()).square().sum().item(), rel=1e-5)
    assert sums.index.tolist() == test.article.unique().tolist()


def test_the_error_of_a_split_by_hand():
    """10 - 2 * 4 + 5 = 7 with nothing split off, 10 - 4 + 5/4 = 7.25 at a half, 10 with all."""
    total = pd.Series({"xx": 10.0, "xy": 4.0, "yy": 5.0})
    assert [page.own_path_sse(total, s) for s in (0, 0.5, 1)] == [7, 7.25, 10]


def test_the_closed_form_by_hand():
    """At FVU 0.2 half of the decoder adds 0.8 / 4 to an error of 0.2: the gain is a half."""
    assert page.closed_form(0.2, 0.5) == pytest.approx(50)
    assert page.closed_form(0.2, 0) == 0
    assert page.split_for(0.2, 50) == pytest.approx(0.5)
    assert page.split_for(0.2, page.closed_form(0.2, 0.8)) == pytest.approx(0.8)


def test_the_closed_form_is_exact_for_a_least_squares_reconstruction():
    rng = np.random.default_rng(0)
    c, x = rng.standard_normal((2000, 5)), rng.standard_normal((2000, 8))
    x += c @ rng.standard_normal((5, 8))
    x, c = x - x.mean(0), c - c.mean(0)
    x_hat = c @ np.linalg.lstsq(c, x, rcond=None)[0]
    sse, sst = ((x - x_hat) ** 2).sum(), (x**2).sum()
    for split in (-0.5, 0.25, 0.5, 1.0):
        gain = 100 * (1 - sse / ((x - (1 - split) * x_hat) ** 2).sum())
        assert page.closed_form(sse / sst, split) == pytest.approx(gain)
