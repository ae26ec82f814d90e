"""Metrics against scikit-learn and plain sums; properties that a sloppy definition breaks."""

import pytest
import torch
from sklearn.metrics import r2_score

from featint import metrics
from featint.config import NFMConfig, SAEConfig
from featint.joint import JointSAE
from featint.kernels.sparse import Codes
from featint.nfm import NFM
from featint.sae import TopKSAE

G = torch.Generator().manual_seed(0)
X = 3 * torch.randn(500, 7, generator=G) + 5
NOISE = torch.randn(500, 7, generator=G)
ARTICLE = torch.arange(500) // 13


def frame(x=X, x_hat=None, cut=100):
    x_hat = x + NOISE if x_hat is None else x_hat
    batches, hats = list(x.split(cut)), iter(list(x_hat.split(cut)))
    return metrics.by_article(lambda _: {"model": next(hats)}, batches, ARTICLE)


def total_fvu(f):
    return metrics.fvu(f["sse/model"].sum(), f["sst"].sum())


def test_one_minus_fvu_is_sklearns_variance_weighted_r2():
    expected = r2_score(X.numpy(), (X + NOISE).numpy(), multioutput="variance_weighted")
    assert 1 - total_fvu(frame()) == pytest.approx(expected, rel=1e-6)


def test_predicting_the_mean_scores_zero_explained_variance():
    assert total_fvu(frame(x_hat=X.mean(0).expand_as(X))) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("scale, shift", [(1, 0), (3, 0), (6, -20)])
def test_fvu_ignores_a_common_scale_and_shift(scale, shift):
    assert total_fvu(frame(X * scale + shift, (X + NOISE) * scale + shift)) == pytest.approx(
        total_fvu(frame()), rel=1e-5
    )


def test_sums_do_not_depend_on_how_batches_are_cut():
    assert ((frame(cut=500) - frame(cut=7)).abs() < 1e-8).all(axis=None)


def test_one_row_per_article_with_its_own_sums():
    f = frame()
    assert f["tokens"].sum() == 500 and len(f) == 39
    assert f.loc[3, "sse/model"] == pytest.approx(
        NOISE[ARTICLE == 3].double().square().sum().item(), rel=1e-5
    )


def test_paths_add_up_parts_by_name():
    generator = torch.Generator().manual_seed(0)
    sae = TopKSAE(7, SAEConfig(d_sae=30, k=4), generator)
    model = JointSAE(sae, NFM(7, 30, NFMConfig(d_factor=3), generator)).eval()
    found = metrics.paths({"joint": model, "sae": sae})(X)
    parts = model.parts(model.encode(X))
    assert torch.equal(found["joint/own_path"], parts["sae_out"])
    assert torch.allclose(found["joint/all"], model(X).x_hat, atol=1e-5)
    assert torch.allclose(
        found["joint/plus_interaction"], parts["sae_out"] + parts["interaction_out"]
    )
    assert torch.allclose(found["joint/abs/linear_out"], parts["linear_out"].abs().mean(1))
    assert (found["joint/l0"] <= 4).all()
    assert (
        torch.equal(found["sae/own_path"], found["sae/all"]) and "sae/abs/linear_out" not in found
    )


def test_density_counts_active_codes_only():
    codes = TopKSAE(7, SAEConfig(d_sae=30, k=4), torch.Generator().manual_seed(0)).encode(X)
    expected = (codes.dense(30) > 0).double().mean(0)
    assert torch.allclose(metrics.density(iter([codes]), 30), expected)


def test_a_broken_reconstruction_and_a_wrong_length_are_named():
    with pytest.raises(ValueError, match="'model' holds NaN or infinity"):
        frame(x_hat=X / 0)
    with pytest.raises(ValueError, match="the batches have 500 rows, but article has 3"):
        metrics.by_article(lambda x: {"model": x}, [X], ARTICLE[:3])


def fires(rows):
    """Codes in which column i says on which tokens feature i is active."""
    acts = torch.tensor(rows, dtype=torch.float32)
    return Codes(acts, torch.arange(acts.shape[1]).expand(len(acts), -1))


def test_selectivity_by_hand():
    """Topics 0 and 1 on four tokens of each half, 2 in one half only. Feature 0 fires on topic 0
    alone. Feature 1: in half 0 on 2 of 2 and 1 of 2 tokens, in half 1 on 1 of 2 and 2 of 2: topic 0
    chosen in half 0 has 1/3 of the rates in half 1, topic 1 chosen there 1/3 in half 0. Feature 2:
    1 of 2 and 0 of 2, then 1 of 2 and 1 of 2 (the first topic is chosen): 1/2 and 1. Feature 3
    fires in half 0 only, 4 only where there is no topic, 5 never."""
    half = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
    topic = torch.tensor([0, 0, 1, 1, 2, 0, 0, 1, 1, -1])
    active = [
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 0, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 1, 0],
    ]
    pieces = [fires(active[:3]), fires(active[3:])]
    found = metrics.selectivity(pieces, topic, half, 6)
    assert found[:3].tolist() == pytest.approx([1, 1 / 3, 0.75]) and found[3:].isnan().all()


def test_selectivity_of_noise_is_chance_even_if_rare():
    """Forty tokens per feature: the best topic on the same text would have far more than 1/8."""
    g = torch.Generator().manual_seed(0)
    article = torch.arange(20_000) // 20
    topic = torch.randint(8, (1000,), generator=g)[article]
    rare = (torch.rand(20_000, 60, generator=g) < 0.002).tolist()
    found = metrics.selectivity([fires(rare)], topic, article % 2, 60)
    assert found.nanmean().item() == pytest.approx(1 / 8, abs=0.03)
