"""The decoder as a set of directions: their norms, their principal components, and whether the
norms have one mode or two."""

from typing import NamedTuple

import diptest
import numpy as np
import torch
from jaxtyping import Float
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from featint.joint import JointSAE
from featint.runs import Trained

BLOCK = 2048  # rows that are worked on at once
# five parameters of a mixture want data; the dip test's table ends at 72,000
MIN_FEATURES, MAX_FEATURES = 20, 72_000


def checked(W: Float[Tensor, "rows columns"], name: str = "W_dec") -> Float[Tensor, "rows columns"]:
    """W on the CPU without its gradient, in float32 or better. Raises ValueError, naming the rows,
    for values that are not finite and for rows of zeros."""
    W = W.detach().cpu()
    if (bad := ~torch.isfinite(W).all(dim=1)).any():
        raise ValueError(
            f"{name} has values that are not finite in {_rows(bad)}: the training has diverged"
        )
    if (zero := (W == 0).all(dim=1)).any():
        raise ValueError(
            f"{name} is zero in {_rows(zero)}: such features have no direction; leave them out and "
            "say how many they are"
        )
    return W if W.dtype == torch.float64 else W.float()


def directions(model: nn.Module) -> Float[Tensor, "d_sae d_in"]:
    """What each feature of an SAE or a joint model writes: its row of the decoder, and of the
    linear path where there is one, since only their sum is learned."""
    if not isinstance(model, JointSAE):
        return model.W_dec
    return model.sae.W_dec + model.nfm.W_lin if model.nfm.config.linear else model.sae.W_dec


def live_directions(trained: Trained) -> Float[Tensor, "n_live d_in"]:
    """`directions` of the features that are not dead."""
    return directions(trained.model)[~trained.dead]


def recurring(a: Float[Tensor, "n d_in"], b: Float[Tensor, "m d_in"], cosine: float = 0.7) -> float:
    """Share of the rows of `a` that have a row of `b` at a cosine of at least `cosine`."""
    a, b = nn.functional.normalize(a, dim=1), nn.functional.normalize(b, dim=1)
    best = torch.cat([(block @ b.T).amax(1) for block in a.split(BLOCK)])
    return (best >= cosine).double().mean().item()


def _rows(mask: Tensor) -> str:
    rows = mask.nonzero().flatten().tolist()
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    return f"row{'s'[: len(rows) > 1]} {', '.join(map(str, rows[:5]))}{more}"


def norms(W: Float[Tensor, "rows columns"], name: str = "W_dec") -> Float[np.ndarray, " rows"]:
    """Length of each row, in float64. Raises as `checked`."""
    return torch.linalg.vector_norm(checked(W, name), dim=1, dtype=torch.float64).numpy()


def pca_shares(W_dec: Float[Tensor, "d_sae d_in"], centred: bool = True) -> np.ndarray:
    """Shares of all principal components in the decoder's variance (sum of squares if not
    `centred`, as in the released code), largest first; they add up to 1.

    Exact: the eigenvalues of the d_in x d_in second-moment matrix, in float64. Raises as `checked`.
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
    """Fewest leading components that hold `share` of the variance; with `first`, of that of the
    first so many only (as published: 1000)."""
    kept = np.cumsum(shares[:first])
    return int(np.searchsorted(kept, share * kept[-1] * (1 - 1e-12)) + 1)


class Bimodality(NamedTuple):
    """Is there one mode or two? Fields are None where they cannot be computed; `reason` says
    why."""

    n: int
    dip: float | None = None
    """Hartigan & Hartigan's (1985) distance to the nearest unimodal distribution ..."""
    dip_p: float | None = None
    """... and its p value for one mode."""
    bic_gain: float | None = None
    """BIC of one Gaussian less that of two; above 0 two fit better, as they do if it is skewed."""
    means: tuple[float, float] | None = None
    """Of the two Gaussians, the lower one first."""
    low_weight: float | None = None
    """Share of the lower one."""
    valley: float | None = None
    """Where the density of the two is least between their means; None if it has a single peak."""
    reason: str = ""


def bimodality(values: np.ndarray, seed: int = 0) -> Bimodality:
    """Dip test, and a mixture of two Gaussians against one by BIC, of squared norms or of their
    logarithms.

    Neither is the same on both scales (a narrow peak near zero is a broad shoulder in logarithms),
    so that the scale belongs to the answer. Two components are two modes only if there is a
    `valley`. Raises ValueError for values that are not finite.
    """
    n, different = len(values), len(np.unique(values))
    if not np.isfinite(values).all():
        at = int((~np.isfinite(values)).argmax())
        raise ValueError(
            f"value {at} of {n} is {values[at]}: only finite values can be tested (the logarithm "
            "of a zero norm is not)"
        )
    if not MIN_FEATURES <= n <= MAX_FEATURES:
        return Bimodality(
            n, reason=f"{n} features: the tests need {MIN_FEATURES} to {MAX_FEATURES}"
        )
    if different < MIN_FEATURES // 2:
        return Bimodality(n, reason=f"only {different} different values: no distribution to test")
    dip, dip_p = map(float, diptest.diptest(values))
    centre, spread = values.mean(), values.std()
    z = ((values - centre) / spread)[:, None]  # the mixture's floor under variances is absolute
    with threadpool_limits(1):  # one column of numbers: more threads only wait for each other
        one, two = (GaussianMixture(k, n_init=5, random_state=seed).fit(z) for k in (1, 2))
    order = two.means_.ravel().argsort()
    grid = np.linspace(*two.means_.ravel()[order], 1001)
    least = int(two.score_samples(grid[:, None]).argmin())
    low, lowest, high = (float(centre + spread * grid[i]) for i in (0, least, -1))
    there = lowest not in (low, high)
    return Bimodality(
        n,
        dip,
        dip_p,
        bic_gain=float(one.bic(z) - two.bic(z)),
        means=(low, high),
        low_weight=float(two.weights_[order[0]]),
        valley=lowest if there else None,
        reason="" if there else "the two components have a single peak",
    )
