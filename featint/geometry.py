"""The decoder as a set of directions: their norms, angles and principal components, and whether the norms have one mode or two."""

from typing import NamedTuple

import diptest
import numpy as np
import torch
from jaxtyping import Float
from scipy.special import gammaln
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits
from torch import Tensor

BLOCK = 2048  # rows of the decoder held against each other at once
BINS = 20_000  # of the cosine's histogram: quantiles are good to 1e-4
MIN_FEATURES, MAX_FEATURES = (
    20,
    72_000,
)  # five parameters of a mixture want data; the dip test's table ends at 72,000


def checked(W: Float[Tensor, "rows columns"], name: str = "W_dec") -> Float[Tensor, "rows columns"]:
    """W on the CPU without its gradient, in float32 or better. Raises ValueError, naming the rows, for values that are not finite and for rows of zeros."""
    W = W.detach().cpu()
    finite = torch.isfinite(W).all(dim=1)
    if not finite.all():
        raise ValueError(
            f"{name} has values that are not finite in {_rows(~finite)}: the training has diverged"
        )
    zero = (W == 0).all(dim=1)
    if zero.any():
        raise ValueError(
            f"{name} is zero in {_rows(zero)}: such features have no direction; leave them out and say how many they are"
        )
    return W if W.dtype == torch.float64 else W.float()


def _rows(mask: Tensor) -> str:
    rows = mask.nonzero().flatten().tolist()
    return f"row{'s'[: len(rows) > 1]} {', '.join(map(str, rows[:5]))}" + (
        f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    )


def squared_norms(W_dec: Float[Tensor, "d_sae d_in"]) -> Float[Tensor, " d_sae"]:
    """Squared length of each feature's direction, the diagonal of the Gram matrix, in float64. Raises as `checked`."""
    return torch.linalg.vector_norm(checked(W_dec), dim=1, dtype=torch.float64) ** 2


class GramStatistics(NamedTuple):
    """The Gram matrix off its diagonal: every pair of features counted once."""

    n_pairs: int
    mean_abs_dot: float
    mean_abs_cos: float
    max_abs_cos: float
    cos_counts: np.ndarray
    """Histogram of the cosine, equal bins from -1 to 1."""

    def abs_cos_quantile(self, q: float) -> float:
        """The q-quantile of |cos|, to the histogram's bin width of 1e-4."""
        half = len(self.cos_counts) // 2
        folded = np.cumsum(self.cos_counts[half:] + self.cos_counts[:half][::-1])
        return float(
            np.interp(q, np.concatenate([[0], folded]) / folded[-1], np.arange(half + 1) / half)
        )


def gram_statistics(W_dec: Float[Tensor, "d_sae d_in"]) -> GramStatistics:
    """Off-diagonal statistics of W_dec W_dec^T, block by block: memory does not grow with d_sae^2.

    Computed in W_dec's precision (at least float32), summed in float64. Raises ValueError for fewer than two features and as `checked`.
    """
    W_dec = checked(W_dec)
    if (d_sae := len(W_dec)) < 2:
        raise ValueError(f"{d_sae} feature has no pairs")
    norms = torch.linalg.vector_norm(W_dec, dim=1)
    blocks = [
        (w / n[:, None], n.double())
        for w, n in zip(W_dec.split(BLOCK), norms.split(BLOCK), strict=True)
    ]
    dot_sum = cos_sum = largest = 0.0
    counts = torch.zeros(BINS, dtype=torch.float64)
    for i, (rows, row_norms) in enumerate(blocks):
        for j, (columns, column_norms) in enumerate(blocks[i:]):
            cos = (rows @ columns.T).clamp_(-1, 1)
            own = torch.ones_like(cos, dtype=torch.bool).triu_(1) if j == 0 else None
            counts += torch.histc((cos if own is None else cos[own]), BINS, -1, 1).double()
            size = cos.abs_() if own is None else cos.abs_().mul_(own)
            cos_sum += size.sum(dtype=torch.float64).item()
            dot_sum += (row_norms @ (size @ column_norms.to(size.dtype)).double()).item()
            largest = max(largest, size.max().item())
    n_pairs = d_sae * (d_sae - 1) // 2
    return GramStatistics(
        n_pairs, dot_sum / n_pairs, cos_sum / n_pairs, largest, counts.long().numpy()
    )


def random_abs_cos(d_in: int) -> float:
    """Mean |cos| of two random directions: Gamma(d/2) / (sqrt(pi) Gamma((d+1)/2)), about sqrt(2 / (pi d))."""
    return float(np.exp(gammaln(d_in / 2) - gammaln((d_in + 1) / 2)) / np.sqrt(np.pi))


def pca_shares(W_dec: Float[Tensor, "d_sae d_in"], centred: bool = True) -> np.ndarray:
    """Shares of all principal components in the decoder's variance (sum of squares if not `centred`), largest first; they add up to 1.

    Exact: the eigenvalues of the d_in x d_in second-moment matrix, in float64. The released code does not centre.
    """
    W_dec = checked(W_dec)
    mean = W_dec.mean(dim=0, dtype=torch.float64) if centred else 0.0
    moment = torch.zeros(W_dec.shape[1], W_dec.shape[1], dtype=torch.float64)
    for block in W_dec.split(BLOCK):
        block = block.double() - mean
        moment.addmm_(block.T, block)
    with threadpool_limits(1):  # more threads only wait for each other beside other work
        shares = torch.linalg.eigvalsh(moment).flip(0).clamp_(min=0).numpy()
    if shares.sum() == 0:
        raise ValueError("all rows of W_dec are the same: nothing varies around their mean")
    return shares / shares.sum()


def components_for(shares: np.ndarray, share: float = 0.9, first: int | None = None) -> int:
    """Fewest leading components that hold `share` of the variance; with `first`, of that of the first so many only (as published: 1000)."""
    kept = np.cumsum(shares[:first])
    return int(np.searchsorted(kept, share * kept[-1] * (1 - 1e-12)) + 1)


class Bimodality(NamedTuple):
    """Is there one mode or two? Fields are None where they cannot be computed; `reason` says why."""

    n: int
    dip: float | None = None
    """Hartigan & Hartigan's (1985) distance to the nearest unimodal distribution ..."""
    dip_p: float | None = None
    """... and its p value for one mode."""
    bic_gain: float | None = None
    """BIC of one Gaussian less that of two; above 0 two fit better, which skewness alone can bring about."""
    means: tuple[float, float] | None = None
    """Of the two Gaussians, the lower one first."""
    low_weight: float | None = None
    """Share of the lower one."""
    valley: float | None = None
    """Where the density of the two is least between their means; None if it has a single peak."""
    reason: str = ""


def bimodality(values: np.ndarray, seed: int = 0) -> Bimodality:
    """Dip test, and a two-component Gaussian mixture against one by BIC, of squared norms or of their logarithms.

    Neither is the same on both scales (a narrow peak near zero is a broad shoulder in logarithms), so the scale belongs to the answer and the
    chapter shows both. Two components are two modes only if there is a `valley`. Raises ValueError for values that are not finite.
    """
    values = np.asarray(values, dtype=float)
    n = len(values)
    if not np.isfinite(values).all():
        at = int((~np.isfinite(values)).argmax())
        raise ValueError(
            f"value {at} of {n} is {values[at]}: only finite values can be tested (the logarithm of a zero norm is not)"
        )
    if not MIN_FEATURES <= n <= MAX_FEATURES:
        return Bimodality(
            n, reason=f"{n} features: the tests need {MIN_FEATURES} to {MAX_FEATURES}"
        )
    if len(np.unique(values)) < MIN_FEATURES // 2:
        return Bimodality(
            n, reason=f"only {len(np.unique(values))} different values: no distribution to test"
        )
    dip, dip_p = diptest.diptest(values)
    centre, spread = values.mean(), values.std()
    z = ((values - centre) / spread)[
        :, None
    ]  # the mixture's floor under variances (1e-6) is absolute
    with threadpool_limits(
        1
    ):  # one column of numbers: more threads only wait for each other, most of all beside other work
        one, two = (GaussianMixture(k, n_init=5, random_state=seed).fit(z) for k in (1, 2))
    order = two.means_.ravel().argsort()
    low, high = two.means_.ravel()[order]
    grid = np.linspace(low, high, 1001)
    density = two.score_samples(grid[:, None])
    least = int(density.argmin())
    valley = float(centre + spread * grid[least]) if 0 < least < len(grid) - 1 else None
    means = (float(centre + spread * low), float(centre + spread * high))
    reason = "" if valley is not None else "the two components have a single peak"
    return Bimodality(
        n,
        float(dip),
        float(dip_p),
        float(one.bic(z) - two.bic(z)),
        means,
        float(two.weights_[order[0]]),
        valley,
        reason,
    )
