"""Norms, Gram matrix, PCA and modes against numpy, scipy and scikit-learn in float64, and against known distributions."""

import resource
import time

import numpy as np
import pytest
import torch
from scipy import stats as st
from sklearn.decomposition import PCA

from featint import geometry


def decoder(d_sae=300, d_in=24, seed=0, dtype=torch.float64):
    """Rows of unequal length in a space with unequal variances and a mean."""
    g = torch.Generator().manual_seed(seed)
    W = (
        torch.randn(d_sae, d_in, generator=g, dtype=torch.float64) * torch.linspace(0.2, 2, d_in)
        + 0.3
    )
    return (W * torch.rand(d_sae, 1, generator=g, dtype=torch.float64).add(0.1)).to(dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("block", [7, 100, 2048])
def test_gram_statistics(monkeypatch, dtype, tolerance, block):
    """Whatever the blocks, the numbers of the whole matrix formed in float64."""
    monkeypatch.setattr(geometry, "BLOCK", block)
    W = decoder(dtype=dtype)
    full = W.double().numpy()
    pairs = np.triu_indices(len(full), 1)
    dot = (full @ full.T)[pairs]
    unit = full / np.linalg.norm(full, axis=1, keepdims=True)
    cos = (unit @ unit.T)[pairs]
    ours = geometry.gram_statistics(W)
    assert ours.n_pairs == len(dot) == ours.cos_counts.sum()
    assert ours.mean_abs_dot == pytest.approx(np.abs(dot).mean(), rel=tolerance)
    assert ours.mean_abs_cos == pytest.approx(np.abs(cos).mean(), rel=tolerance)
    assert ours.max_abs_cos == pytest.approx(np.abs(cos).max(), rel=tolerance)
    for q in (0.1, 0.5, 0.99):
        assert (np.abs(cos) <= ours.abs_cos_quantile(q)).mean() == pytest.approx(q, abs=5e-4)
    edges = np.histogram(cos, bins=40, range=(-1, 1))[0]
    assert (
        np.abs(ours.cos_counts.reshape(40, -1).sum(axis=1) - edges).max() <= 2
    )  # float32 may move a pair across an edge


def test_squared_norms():
    W = decoder(dtype=torch.float32)
    assert geometry.squared_norms(W).numpy() == pytest.approx(
        (W.double().numpy() ** 2).sum(axis=1), rel=1e-13
    )
    assert geometry.squared_norms(W).dtype == torch.float64


def test_random_directions():
    """2 / pi in the plane and 1/2 in space, by integration; 0.0141 in 3,200 dimensions; and as measured on random rows."""
    assert geometry.random_abs_cos(2) == pytest.approx(2 / np.pi)
    assert geometry.random_abs_cos(3) == pytest.approx(0.5)
    assert geometry.random_abs_cos(3200) == pytest.approx(0.0141, abs=5e-5)
    rows = torch.randn(2000, 64, generator=torch.Generator().manual_seed(0))
    assert geometry.gram_statistics(rows).mean_abs_cos == pytest.approx(
        geometry.random_abs_cos(64), rel=0.005
    )


def test_pca_is_scikit_learns():
    W = decoder()
    assert geometry.pca_shares(W) == pytest.approx(
        PCA(svd_solver="full").fit(W.numpy()).explained_variance_ratio_, abs=1e-12
    )
    squares = np.linalg.svd(W.numpy(), compute_uv=False) ** 2
    assert geometry.pca_shares(W, centred=False) == pytest.approx(
        squares / squares.sum(), abs=1e-12
    )
    assert geometry.pca_shares(W.float()) == pytest.approx(geometry.pca_shares(W), abs=1e-6)


def test_components_for_by_hand():
    shares = np.array([0.5, 0.3, 0.1, 0.06, 0.04])
    assert geometry.components_for(shares, 0.9) == 3
    assert geometry.components_for(shares, 0.91) == 4
    assert geometry.components_for(shares, 0.9, first=2) == 2  # 0.5 of 0.8 is 62 %
    assert geometry.components_for(shares, 0.6, first=2) == 1
    # a flat spectrum cut at 1,000 components gives 900 whatever the true number is: the published measure is bounded by its cut
    assert geometry.components_for(np.full(3200, 1 / 3200), first=1000) == 900
    assert geometry.components_for(np.full(3200, 1 / 3200)) == 2880


@pytest.mark.parametrize(
    "measure", [geometry.squared_norms, geometry.gram_statistics, geometry.pca_shares]
)
@pytest.mark.parametrize(
    ("rows", "value", "message"),
    [
        ([4], float("nan"), "not finite in row 4:"),
        ([2, 9], float("inf"), "not finite in rows 2, 9:"),
        ([1, 3], 0.0, "zero in rows 1, 3:"),
        (range(7), 0.0, "zero in rows 0, 1, 2, 3, 4 and 2 more"),
    ],
)
def test_bad_rows_are_named(measure, rows, value, message):
    W = decoder(d_sae=10)
    W[list(rows)] = value
    with pytest.raises(ValueError, match=message):
        measure(W)


def test_too_little_to_measure():
    with pytest.raises(ValueError, match="no pairs"):
        geometry.gram_statistics(decoder(d_sae=1))
    with pytest.raises(ValueError, match="the same"):
        geometry.pca_shares(torch.ones(5, 3))


def test_two_modes_are_found():
    """Two lognormal groups around the paper's 0.05 and 0.37, 37 % of the features in the lower one."""
    rng = np.random.default_rng(0)
    s = np.exp(
        np.concatenate([rng.normal(np.log(0.05), 0.3, 740), rng.normal(np.log(0.37), 0.3, 1260)])
    )
    found = geometry.bimodality(np.log(s))
    assert found.dip_p < 0.01 and found.bic_gain > 100 and found.reason == ""
    assert np.exp(found.means) == pytest.approx([0.05, 0.37], rel=0.08)
    assert found.low_weight == pytest.approx(0.37, abs=0.02)
    # equal widths: the valley lies where a N(m1, s) weighted 0.37 and N(m2, s) weighted 0.63 add up to least
    grid = np.linspace(np.log(0.05), np.log(0.37), 2001)
    density = 0.37 * st.norm.pdf(grid, np.log(0.05), 0.3) + 0.63 * st.norm.pdf(
        grid, np.log(0.37), 0.3
    )
    assert found.valley == pytest.approx(grid[density.argmin()], abs=0.08)
    assert found.n == 2000


def test_one_mode_is_not_two():
    """Gaussian: one component is enough. Exponential: skewness makes two fit better, yet dip and valley stay with one mode."""
    rng = np.random.default_rng(1)
    gauss = geometry.bimodality(rng.normal(5, 2, 2000))
    assert gauss.bic_gain < 0 and gauss.dip_p > 0.05
    skewed = geometry.bimodality(rng.exponential(1, 2000))
    assert skewed.bic_gain > 100 and skewed.dip_p > 0.05 and skewed.valley is None
    assert skewed.reason == "the two components have a single peak"


def test_dip_by_hand():
    """Half the values at 0 and half at 1, jittered: no unimodal distribution comes closer than 1/4 (Hartigan & Hartigan 1985)."""
    values = np.concatenate([np.linspace(0, 1e-6, 50), np.linspace(1, 1 + 1e-6, 50)])
    assert geometry.bimodality(values).dip == pytest.approx(0.25, abs=0.01)


def test_bic_gain_does_not_depend_on_the_unit():
    values = np.random.default_rng(2).gamma(2, 1, 500)
    assert geometry.bimodality(1e-4 * values).bic_gain == pytest.approx(
        geometry.bimodality(values).bic_gain, rel=1e-3
    )


def test_bimodality_gives_a_reason():
    assert geometry.bimodality(np.arange(5.0)) == geometry.Bimodality(
        5, reason="5 features: the tests need 20 to 72000"
    )
    assert (
        geometry.bimodality(np.ones(100)).reason
        == "only 1 different values: no distribution to test"
    )
    with pytest.raises(ValueError, match="value 1 of 2 is -inf"):
        geometry.bimodality(np.array([0.0, -np.inf]))


@pytest.mark.slow
def test_paper_scale_fits_in_memory():
    """Gram and PCA of 50,000 random features in 3,200 dimensions, the paper's size, within 8 GiB; random rows have random angles."""
    W = torch.randn(50_000, 3200, generator=torch.Generator().manual_seed(0))
    for measure in (geometry.gram_statistics, geometry.pca_shares):
        start = time.perf_counter()
        result = measure(W)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{measure.__name__}: {time.perf_counter() - start:.0f} s, peak {peak:.1f} GiB")
        assert peak < 8
        if measure is geometry.gram_statistics:
            assert result.mean_abs_cos == pytest.approx(geometry.random_abs_cos(3200), rel=1e-3)
            assert result.n_pairs == result.cos_counts.sum()
        else:
            # the Marchenko-Pastur law: eigenvalues of random rows lie within (1 +- sqrt(d_in / d_sae))^2 of their mean
            assert 3200 * result[[0, -1]] == pytest.approx(
                [(1 + 0.064**0.5) ** 2, (1 - 0.064**0.5) ** 2], rel=0.02
            )
