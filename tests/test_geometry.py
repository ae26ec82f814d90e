"""Norms, principal components and modes: by hand, and against numpy and scikit-learn."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.decomposition import PCA

from companion import variants
from featint import geometry
from featint.config import NFMConfig, SAEConfig
from featint.joint import JointSAE
from featint.nfm import NFM
from featint.runs import Trained
from featint.sae import TopKSAE


def decoder(d_sae=300, d_in=24):
    """Rows of unequal length in a space with unequal variances and a mean."""
    g = torch.Generator().manual_seed(0)
    W = torch.randn(d_sae, d_in, generator=g, dtype=torch.float64) * torch.linspace(0.2, 2, d_in)
    return (W + 0.3) * torch.rand(d_sae, 1, generator=g, dtype=torch.float64).add(0.1)


def test_norms_by_hand():
    W = torch.tensor([[3.0, 4.0], [0.0, -2.0], [1e-4, 0.0]], requires_grad=True)
    assert geometry.norms(W).tolist() == pytest.approx([5, 2, 1e-4], rel=1e-6)
    assert geometry.norms(W).dtype == np.float64
    assert geometry.checked(W.half()).dtype == torch.float32
    assert geometry.checked(W.double()).dtype == torch.float64
    with pytest.raises(ValueError, match="V is zero in row 1:"):
        geometry.norms(torch.tensor([[1.0], [0.0]]), "V")


@pytest.mark.parametrize("measure", [geometry.norms, geometry.pca_shares])
@pytest.mark.parametrize(
    ("rows", "value", "message"),
    [
        ([4], float("nan"), "W_dec has values that are not finite in row 4:"),
        ([2, 9], float("inf"), "not finite in rows 2, 9:"),
        (range(7), 0.0, "W_dec is zero in rows 0, 1, 2, 3, 4 and 2 more:"),
        (range(6), 0.0, "W_dec is zero in rows 0, 1, 2, 3, 4 and 1 more:"),
        (range(5), 0.0, "W_dec is zero in rows 0, 1, 2, 3, 4:"),
    ],
)
def test_bad_rows_are_named(measure, rows, value, message):
    W = decoder(d_sae=10)
    W[list(rows)] = value
    with pytest.raises(ValueError, match=message):
        measure(W)


def test_pca_by_hand():
    """Rows (1, 0), (3, 0), (2, 2), (2, -2): around their mean (2, 0) squares are 2 and 8; around 0,
    where nothing is mixed either, 1 + 9 + 4 + 4 = 18 and 8."""
    W = torch.tensor([[1.0, 0.0], [3.0, 0.0], [2.0, 2.0], [2.0, -2.0]])
    assert geometry.pca_shares(W).tolist() == pytest.approx([0.8, 0.2])
    assert geometry.pca_shares(W, centred=False).tolist() == pytest.approx([18 / 26, 8 / 26])
    with pytest.raises(ValueError, match="the same"):
        geometry.pca_shares(torch.ones(5, 3))


def test_pca_is_scikit_learns(monkeypatch):
    monkeypatch.setattr(geometry, "BLOCK", 7)
    reference = PCA(svd_solver="full").fit(decoder().numpy()).explained_variance_ratio_
    assert geometry.pca_shares(decoder()) == pytest.approx(reference, abs=1e-12)
    assert geometry.pca_shares(decoder().float()) == pytest.approx(reference, abs=1e-6)
    far = (decoder() + 1000).float()  # the mean is one of float64
    assert geometry.pca_shares(far) == pytest.approx(geometry.pca_shares(far.double()), abs=1e-13)


def test_components_for_by_hand():
    shares = np.array([0.5, 0.3, 0.1, 0.06, 0.04])
    assert geometry.components_for(shares) == 3  # 0.5 + 0.3 + 0.1 is 90 % just so
    assert geometry.components_for(shares, 0.91) == 4
    assert geometry.components_for(shares, 0.9, first=2) == 2  # 0.5 of 0.8 is 62 %
    assert geometry.components_for(shares, 0.6, first=2) == 1
    # a flat spectrum cut at 1,000 gives 900, whatever the true number is
    assert geometry.components_for(np.full(3200, 1 / 3200), first=1000) == 900
    assert geometry.components_for(np.full(3200, 1 / 3200)) == 2880


def test_two_modes_are_found():
    """Two lognormal groups around the paper's 0.05 and 0.37, 37 % of the features in the lower one;
    with equal widths the valley is where the two weighted densities add up to least."""
    rng = np.random.default_rng(0)
    low, high, width = math.log(0.05), math.log(0.37), 0.3
    found = geometry.bimodality(
        np.concatenate([rng.normal(low, width, 740), rng.normal(high, width, 1260)])
    )
    assert found.dip_p < 0.01 and found.bic_gain > 100 and found.reason == ""
    assert np.exp(found.means) == pytest.approx([0.05, 0.37], rel=0.08)
    assert found.low_weight == pytest.approx(0.37, abs=0.02) and found.n == 2000
    grid = np.linspace(low, high, 2001)
    density = 0.37 * stats.norm.pdf(grid, low, width) + 0.63 * stats.norm.pdf(grid, high, width)
    assert found.valley == pytest.approx(grid[density.argmin()], abs=0.08)


def test_one_mode_is_not_two():
    """Gaussian: one component is enough. Exponential: skewness makes two fit better, yet dip and
    valley stay with one mode."""
    rng = np.random.default_rng(1)
    gauss = geometry.bimodality(rng.normal(5, 2, 2000))
    assert gauss.bic_gain < 0 and gauss.dip_p > 0.05
    skewed = geometry.bimodality(rng.exponential(1, 2000))
    assert skewed.bic_gain > 100 and skewed.dip_p > 0.05 and skewed.valley is None
    assert skewed.reason == "the two components have a single peak"


def test_dip_and_bic_by_hand():
    """Half the values at 0 and half at 1, jittered: no unimodal distribution comes closer than 1/4
    (Hartigan & Hartigan 1985). BIC does not depend on the unit."""
    values = np.concatenate([np.linspace(0, 1e-6, 50), np.linspace(1, 1 + 1e-6, 50)])
    assert geometry.bimodality(values).dip == pytest.approx(0.25, abs=0.01)
    skewed = np.random.default_rng(2).gamma(2, 1, 500)
    small = geometry.bimodality(1e-4 * skewed)
    assert small.bic_gain == pytest.approx(geometry.bimodality(skewed).bic_gain, rel=1e-3)


def test_two_even_clusters_by_hand():
    """Around 0.05 and 1.05, half of the values in either; the valley is half way."""
    cluster = np.linspace(0, 0.1, 50)
    found = geometry.bimodality(np.concatenate([cluster, 1 + cluster]))
    assert found.means == pytest.approx((0.05, 1.05), abs=1e-6)
    assert found.valley == pytest.approx(0.55, abs=1e-6)
    assert found.low_weight == pytest.approx(0.5, abs=1e-6)


def test_the_best_of_five_starts_is_kept_and_drawn_by_the_seed_alone():
    """Three clusters of which two share a component: a single start with seed 3 puts the middle one
    on the wrong side. Evenly spread, both sides fit alike, and the seed alone decides."""
    cluster = np.linspace(-0.5, 0.5, 21)
    uneven, even = (
        np.concatenate([at + np.resize(cluster, n) for at, n in clusters])
        for clusters in (((0, 40), (5, 20), (10.5, 40)), ((0, 42), (5, 42), (10, 42)))
    )
    found = [geometry.bimodality(uneven, seed).bic_gain for seed in (0, 3)]
    assert found[1] == pytest.approx(found[0], abs=0.1)
    assert len({geometry.bimodality(even).means for _ in range(12)}) == 1


def test_bimodality_gives_a_reason(monkeypatch):
    nothing = (None,) * 6
    few = geometry.bimodality(np.arange(5.0))
    assert few == (5, *nothing, "5 features: the tests need 20 to 72000")
    same = geometry.bimodality(np.ones(100))
    assert same == (100, *nothing, "only 1 different values: no distribution to test")
    with pytest.raises(ValueError, match="value 1 of 2 is -inf"):
        geometry.bimodality(np.array([0.0, -np.inf]))
    assert geometry.Bimodality(3).reason == ""
    monkeypatch.setattr(geometry, "MAX_FEATURES", 20)
    assert geometry.bimodality(np.arange(20.0)).dip is not None, "both limits are allowed"
    assert geometry.bimodality(np.arange(10.0).repeat(2)).dip is not None
    reason = "only 9 different values: no distribution to test"
    assert geometry.bimodality(np.r_[np.arange(9.0), np.zeros(11)]).reason == reason


def test_recurring_by_hand():
    """Rows 2 and 3 of four are among the last four axes; a diagonal is at 0.707 to two axes."""
    axes = 3 * torch.eye(6)  # lengths do not matter
    assert geometry.recurring(axes[:4], axes[2:]) == 0.5
    assert geometry.recurring(axes[:4], axes[2:], cosine=1.0) == 0.5
    diagonal = axes[:1] + axes[1:2]
    assert geometry.recurring(axes[:4], diagonal) == 0.5
    assert geometry.recurring(axes[:4], diagonal, cosine=0.71) == 0
    assert geometry.recurring(diagonal, axes[:1]) == 1  # of the first argument's rows
    assert geometry.recurring(axes[:4], -axes) == 0


@pytest.mark.parametrize(("linear", "scale"), [(True, 2.0), (False, 1.0)])
def test_directions_are_those_of_the_features_that_live(p, linear, scale):
    """Of features silent for 0, 999, 1000 and 5000 tokens, at a threshold of 1000, two are dead."""
    sae, nfm = TopKSAE(3, SAEConfig(d_sae=4, k=2)), NFM(3, 4, NFMConfig(d_factor=2, linear=linear))
    with torch.no_grad():
        sae.W_dec.copy_(torch.arange(12.0).view(4, 3))
        if linear:
            nfm.W_lin.copy_(sae.W_dec)
    config = variants.get("joint", p)
    silent = torch.tensor([0, 999, 1000, 5000])
    trained = Trained(config, JointSAE(sae, nfm), pd.DataFrame(), silent, silent, 0.0, {}, "")
    live = geometry.live_directions(trained)
    assert live.tolist() == (scale * torch.arange(6.0).view(2, 3)).tolist()
    assert torch.equal(geometry.directions(sae), sae.W_dec)
