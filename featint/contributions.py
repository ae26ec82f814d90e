"""What the paths of a reconstruction contribute: by weight, as published, with its null; and by effect, in one unit for all.

The published ratios compare norms of weights that live in different spaces (paper, Results: bimodal feature norms). `initial_ratios` says what
they are before the integration weights have learned anything; `PathMoments` measures the paths by what they do to x_hat on data.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy import stats
from scipy.special import gammaln
from torch import Tensor

from featint.geometry import checked, squared_norms

LINEAR_STD, FACTOR_STD = (
    0.01,
    0.05,
)  # of the released code's initial W_lin and V, as in `featint.nfm`
SHARES = ("nfm", "linear", "interaction", "decoder")


def _ratios(
    r: np.ndarray, linear: np.ndarray | float, interaction: np.ndarray | float
) -> pd.DataFrame:
    total = r + linear + interaction
    return pd.DataFrame(
        {
            "s": r**2,
            "nfm": 1 - r / total,
            "linear": linear / total,
            "interaction": interaction / total,
            "decoder": r / total,
        }
    )


def contribution_ratios(
    W_dec: Float[Tensor, "d_sae d_in"],
    W_lin: Float[Tensor, "d_sae d_in"],
    V: Float[Tensor, "d_sae d_factor"],
) -> pd.DataFrame:
    r"""The published shares of each feature: norms r = |W_dec_i|, l = |W_lin_i|, e = |V_i| over their sum (released code; float64).

    Columns: s = r^2, and the shares nfm = (l + e) / T, linear = l / T, interaction = e / T, decoder = r / T (the paper's "residual"), T = r + l + e.
    """
    linear, interaction = (
        torch.linalg.vector_norm(checked(W, name), dim=1, dtype=torch.float64).numpy()
        for W, name in ((W_lin, "W_lin"), (V, "V"))
    )
    return _ratios(squared_norms(W_dec).sqrt().numpy(), linear, interaction)


def initial_ratios(W_dec: Float[Tensor, "d_sae d_in"], d_factor: int, seed: int) -> pd.DataFrame:
    """The null: the same shares with this decoder and freshly drawn integration weights, which have learned nothing.

    The norm of a row of d Gaussian weights is std times chi with d degrees of freedom, so the norms are drawn and not the weights.
    """
    rng, (d_sae, d_in) = np.random.default_rng(seed), W_dec.shape
    linear, interaction = (
        std * np.sqrt(rng.chisquare(d, size=d_sae))
        for std, d in ((LINEAR_STD, d_in), (FACTOR_STD, d_factor))
    )
    return _ratios(squared_norms(W_dec).sqrt().numpy(), linear, interaction)


def predicted_ratios(s: np.ndarray, d_in: int, d_factor: int) -> pd.DataFrame:
    """The null in closed form: every l and e at its expected initial norm, about 0.01 sqrt(d_in) and 0.05 sqrt(d_factor)."""
    linear, interaction = (
        std * np.sqrt(2) * np.exp(gammaln((d + 1) / 2) - gammaln(d / 2))
        for std, d in ((LINEAR_STD, d_in), (FACTOR_STD, d_factor))
    )
    return _ratios(np.sqrt(s), linear, interaction)


def group_means(ratios: pd.DataFrame, split: float) -> pd.DataFrame:
    """The published comparison: mean share of the features with s below and above `split`, Student's t, and Spearman's rho with s.

    One row per share, columns below, above, n_below, n_above, t, p, spearman, reason. What cannot be computed is None, and `reason` says why.
    """
    low, high = ratios[ratios.s < split], ratios[ratios.s >= split]
    empty = min(len(low), len(high)) < 2
    reason = (
        f"{len(low)} features below {split:g} and {len(high)} above: at least 2 are needed"
        if empty
        else ""
    )
    rows = []
    for part in SHARES:
        test = (None, None) if empty else tuple(map(float, stats.ttest_ind(low[part], high[part])))
        varies = ratios.s.nunique() > 1 and ratios[part].nunique() > 1
        rho = float(stats.spearmanr(ratios.s, ratios[part]).statistic) if varies else None
        means = (float(group[part].mean()) if len(group) else None for group in (low, high))
        rows.append(
            (
                part,
                *means,
                len(low),
                len(high),
                *test,
                rho,
                reason if varies else "; ".join(filter(None, [reason, "no variation"])),
            )
        )
    columns = ["part", "below", "above", "n_below", "n_above", "t", "p", "spearman", "reason"]
    return pd.DataFrame(rows, columns=columns, dtype=object).set_index("part")


class PathMoments:
    """Second moments of x and of the parts of x_hat over tokens, batch by batch, in float64: memory does not grow with tokens."""

    def __init__(self):
        self.n, self.names, self.sums, self.products = 0, None, 0.0, 0.0

    def update(self, parts: Mapping[str, Float[Tensor, "batch d_in"]]) -> None:
        """Add a batch; `parts` holds "x" and the summands, e.g. sae_out of low-norm features. Raises ValueError for other names or NaN."""
        names = list(parts)
        if self.names not in (None, names):
            raise ValueError(f"parts = {names} differ from those of the first batch, {self.names}")
        for name, part in parts.items():
            if not torch.isfinite(part).all():
                raise ValueError(
                    f"part {name!r} has values that are not finite within tokens {self.n} to {self.n + len(part) - 1}"
                )
        stacked = torch.stack([part.detach().double() for part in parts.values()])
        self.names, self.n = names, self.n + stacked.shape[1]
        self.sums = self.sums + stacked.sum(dim=1)
        self.products = self.products + stacked.flatten(1) @ stacked.flatten(1).T

    def covariance(self) -> pd.DataFrame:
        """Covariances of all pairs, summed over the d_in dimensions: `loc["x", "x"]` is the variance whose share is explained."""
        if self.n < 2:
            raise ValueError(f"{self.n} tokens have no variance: at least 2 are needed")
        covariance = self.products / self.n - (self.sums / self.n) @ (self.sums / self.n).T
        return pd.DataFrame(covariance.cpu().numpy(), index=self.names, columns=self.names)


def path_contributions(covariance: pd.DataFrame, target: str = "x") -> pd.DataFrame:
    """What each part contributes to x_hat, in shares of the target's variance, so that paths and feature groups can be compared.

    From `PathMoments.covariance`, whose other names must be all parts of x_hat. With EV(S) the variance of the target explained by the sum of
    the parts in S (constants left out): `variance` of the part itself; `alone` = EV(j); `last` = EV(all) - EV(all but j); `shapley`, their mean
    over all orders, which adds up to `EV(all)`: for a sum of parts it is (2 Cov(x, j) - Cov(x_hat, j)) / Var(x) exactly.
    """
    parts = [name for name in covariance.columns if name != target]
    C, total = covariance.loc[parts, parts].to_numpy(), covariance.loc[target, target]
    if total <= 0:
        raise ValueError(f"{target} does not vary: no share of its variance can be explained")
    with_x, own, with_x_hat = covariance.loc[target, parts].to_numpy(), np.diag(C), C.sum(axis=1)
    columns = {
        "variance": own,
        "alone": 2 * with_x - own,
        "last": 2 * with_x - 2 * with_x_hat + own,
        "shapley": 2 * with_x - with_x_hat,
    }
    return pd.DataFrame(columns, index=pd.Index(parts, name="part")) / total
