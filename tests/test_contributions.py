"""Contribution ratios and their null, and contributions by effect, against direct computations in float64."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats as st

from featint import contributions as c
from featint.config import NFMConfig
from featint.nfm import NFM


def weights(d_sae=400, d_in=64, d_factor=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    scale = torch.rand(d_sae, 1, generator=g) * 0.1 + 0.02
    return torch.randn(d_sae, d_in, generator=g) * scale, NFM(
        d_in, d_sae, NFMConfig(d_factor=d_factor), generator=g
    )


def test_ratios_by_hand():
    ratios = c.contribution_ratios(
        torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 4.0, 0.0]])
    )
    assert ratios.iloc[0].to_dict() == pytest.approx(
        {"s": 25, "nfm": 0.5, "linear": 0.1, "interaction": 0.4, "decoder": 0.5}
    )


def test_ratios_agree_with_float64():
    W_dec, nfm = weights()
    ratios = c.contribution_ratios(W_dec, nfm.W_lin, nfm.V)
    r, l_, e = (
        np.linalg.norm(W.detach().double().numpy(), axis=1) for W in (W_dec, nfm.W_lin, nfm.V)
    )
    assert ratios.linear.to_numpy() == pytest.approx(l_ / (r + l_ + e), rel=1e-12)
    assert ratios.nfm.to_numpy() == pytest.approx((l_ + e) / (r + l_ + e), rel=1e-12)
    assert (ratios.linear + ratios.interaction + ratios.decoder).to_numpy() == pytest.approx(
        np.ones(400), rel=1e-12
    )
    table = c.group_means(ratios, split=0.2)
    for part in c.SHARES:
        below, above = ratios[part][ratios.s < 0.2], ratios[part][ratios.s >= 0.2]
        assert table.loc[part, "spearman"] == pytest.approx(
            st.spearmanr(r**2, ratios[part]).statistic, abs=1e-12
        )
        assert (table.loc[part, "below"], table.loc[part, "above"]) == pytest.approx(
            (below.mean(), above.mean())
        )
        assert table.loc[part, "p"] == pytest.approx(st.ttest_ind(below, above).pvalue)
        assert (table.loc[part, "n_below"], table.loc[part, "n_above"]) == (len(below), len(above))


def test_null_is_a_fresh_nfm():
    """Norms drawn from chi distributions against those of the weights that our NFM really starts with."""
    W_dec, nfm = weights(d_sae=3000)
    drawn = c.initial_ratios(W_dec, d_factor=6, seed=1)
    fresh = c.contribution_ratios(W_dec, nfm.W_lin, nfm.V)
    for part in c.SHARES:
        assert st.ks_2samp(drawn[part], fresh[part]).pvalue > 0.01
    same = c.initial_ratios(W_dec, d_factor=6, seed=1)
    assert drawn.equals(same) and not drawn.equals(c.initial_ratios(W_dec, d_factor=6, seed=2))


def test_null_in_closed_form_reproduces_the_published_shares():
    """Initial norms 0.566 and 0.866 of the paper's sizes; at its modes s = 0.05 and 0.4 the decoder's share is 0.135 and 0.306."""
    predicted = c.predicted_ratios(np.array([0.025, 0.05, 0.2, 0.4]), d_in=3200, d_factor=300)
    assert predicted.decoder.tolist() == pytest.approx([0.099, 0.135, 0.238, 0.306], abs=1e-3)
    norm = np.sqrt(0.05) / predicted.decoder[1] * predicted[["linear", "interaction"]].iloc[1]
    assert norm.tolist() == pytest.approx([0.01 * 3200**0.5, 0.05 * 300**0.5], rel=1e-3)
    W_dec, _ = weights(d_sae=5000, d_in=64)
    drawn = c.initial_ratios(W_dec, d_factor=40, seed=0)
    assert drawn.mean().to_numpy() == pytest.approx(
        c.predicted_ratios(drawn.s.to_numpy(), 64, 40).mean().to_numpy(), abs=2e-3
    )


def test_correlation_is_forced():
    """With integration weights that have learned nothing, s and its decoder share are almost perfectly rank-correlated."""
    W_dec, _ = weights(d_sae=2000)
    table = c.group_means(c.predicted_ratios((W_dec**2).sum(1).numpy(), 64, 40), split=0.2)
    assert table.spearman.tolist() == pytest.approx([-1, -1, -1, 1])


def test_group_means_give_a_reason():
    table = c.group_means(c.predicted_ratios(np.array([0.3, 0.4, 0.5]), 64, 40), split=0.2)
    assert (
        table.below.tolist() == [None] * 4
        and table.t.tolist() == [None] * 4
        and table.n_below.tolist() == [0] * 4
    )
    assert table.above.notna().all() and table.spearman["nfm"] == -1
    assert table.reason["nfm"] == "0 features below 0.2 and 3 above: at least 2 are needed"
    constant = c.group_means(c.predicted_ratios(np.full(4, 0.3), 64, 40), split=0.2)
    assert constant.spearman.tolist() == [None] * 4 and constant.reason["linear"].endswith(
        "no variation"
    )


def test_bad_weights_are_named():
    W_dec, nfm = weights(d_sae=10)
    V = nfm.V.detach().clone()
    V[3, 0] = float("nan")
    with pytest.raises(ValueError, match="V has values that are not finite in row 3"):
        c.contribution_ratios(W_dec, nfm.W_lin, V)


def parts_of_x_hat(n=500, d=8, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g, dtype=torch.float64) * 2 + 1
    noise = torch.randn(3, n, d, generator=g, dtype=torch.float64)
    return {
        "x": x,
        "sae": 0.6 * x + 0.3 * noise[0],
        "linear": 0.2 * x + 0.2 * noise[1] - 3,
        "interaction": 0.1 * noise[2] + 0.02 * x,
    }


def explained(x, x_hat):
    """Variance explained with both centred: 1 - FVU of a reconstruction that may add a constant."""
    error = (x - x.mean(0)) - (x_hat - x_hat.mean(0))
    return float(1 - (error**2).sum() / ((x - x.mean(0)) ** 2).sum())


def test_path_contributions_by_their_definitions():
    parts = parts_of_x_hat()
    moments = c.PathMoments()
    for start in range(0, 500, 130):  # uneven batches
        moments.update({name: part[start : start + 130] for name, part in parts.items()})
    table = c.path_contributions(moments.covariance())
    x, names = parts["x"], ["sae", "linear", "interaction"]

    def value(subset):
        return explained(x, sum(parts[p] for p in subset)) if subset else 0.0

    for name in names:
        others = [p for p in names if p != name]
        assert table.alone[name] == pytest.approx(value([name]), abs=1e-12)
        assert table["last"][name] == pytest.approx(value(names) - value(others), abs=1e-12)
        orders = list(permutations(names))
        gains = [
            value(order[: order.index(name) + 1]) - value(order[: order.index(name)])
            for order in orders
        ]
        assert table.shapley[name] == pytest.approx(np.mean(gains), abs=1e-12)
        assert table.variance[name] == pytest.approx(
            float(parts[name].var(0).sum() / x.var(0).sum()), abs=1e-12
        )
    assert table.shapley.sum() == pytest.approx(value(names), abs=1e-12)


def test_covariance_is_numpys():
    parts = parts_of_x_hat(n=50, d=3)
    moments = c.PathMoments()
    moments.update({name: part.float() for name, part in parts.items()})
    reference = sum(
        np.cov(np.stack([p[:, i].float().double().numpy() for p in parts.values()]), bias=True)
        for i in range(3)
    )
    assert moments.covariance().to_numpy() == pytest.approx(reference, rel=1e-10)


def test_path_moments_refuse():
    moments = c.PathMoments()
    parts = parts_of_x_hat(n=10)
    with pytest.raises(ValueError, match="0 tokens"):
        moments.covariance()
    moments.update(parts)
    with pytest.raises(ValueError, match="differ from those of the first batch"):
        moments.update({"x": parts["x"]})
    parts["linear"][2, 1] = float("inf")
    with pytest.raises(
        ValueError, match="part 'linear' has values that are not finite within tokens 10 to 19"
    ):
        moments.update(parts)
    with pytest.raises(ValueError, match="x does not vary"):
        c.path_contributions(pd.DataFrame(np.zeros((2, 2)), index=["x", "a"], columns=["x", "a"]))
