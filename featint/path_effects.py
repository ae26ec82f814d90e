"""What each path of a model does to the reconstruction: through one feature, and through a group.

Weights of the decoder, the linear path and the factor table live in different spaces, so that their
sizes cannot be compared. Outputs can: all are added up in the space of activations. A feature's
*output* on a token is what its removal takes away from x_hat; it comes in one part per path.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from featint.joint import JointSAE
from featint.kernels import sparse
from featint.kernels.sparse import Codes
from featint.nfm import NFM
from featint.sae import TopKSAE

ROWS = 512  # tokens at once: every (token, active feature) pair takes d_factor floats


def parted(model: TopKSAE | JointSAE) -> tuple[TopKSAE, NFM | None]:
    """The SAE and the NFM of a model. Raises ValueError for an NFM that lacks one of its paths or
    sees fewer features than fire."""
    if isinstance(model, TopKSAE):
        return model, None
    config = model.nfm.config
    if not (config.linear and config.interaction) or config.top_n is not None:
        raise ValueError(
            "effects by path need an NFM with both paths that sees all active features, got "
            f"linear = {config.linear}, interaction = {config.interaction}, top_n = {config.top_n}"
        )
    return model.sae, model.nfm


@torch.no_grad()
def by_feature(
    model: TopKSAE | JointSAE, batches: Sequence[Tensor], codes: Sequence[Codes]
) -> pd.DataFrame:
    r"""One row per feature, from tokens x (batch, d_in) and their codes.

    `fired`: tokens on which the feature is active. `ablation`: by how much its removal raises the
    squared error on such a token, over the mean squared distance of a token from the mean of all.
    `decoder`, `linear`, `interaction`: each path's share of the variance of the feature's output
    (over all tokens, summed over dimensions),

    .. math:: \mathrm{Cov}(\text{part}, \text{output}) / \mathrm{Var}(\text{output}),

    which add up to 1. NaN where a feature never fires. Raises as `parted`.
    """
    sae, nfm = parted(model)
    tables = {"decoder": sae.W_dec} | ({"linear": nfm.W_lin} if nfm else {})
    whole = sum(tables.values())
    # a feature's direction, seen from the MLP's hidden units
    reach = {path: W @ nfm.W_out.T for path, W in tables.items()} if nfm else {}
    names = ("fired", "a", "aa", "error", "ee", *(f"a_{path}" for path in reach))
    sums = {name: torch.zeros(sae.d_sae, dtype=torch.float64) for name in names}
    hidden = torch.zeros(sae.d_sae, nfm.config.d_factor if nfm else 0, dtype=torch.float64)
    n, first, second = 0, 0.0, 0.0

    for x, active in _blocks(batches, codes):
        error, at, a = x - model.decode(active), active.indices, active.acts
        n, first, second = n + len(x), first + x.double().sum(0), second + x.double().square().sum()
        rows = {"fired": a > 0, "a": a, "aa": a.square()}
        rows["error"] = 2 * a * (error @ whole.T).gather(1, at)
        if nfm:
            change = _hidden_changes(nfm, active)
            hidden.index_add_(0, at.flatten(), change.flatten(0, 1).double().cpu())
            rows |= {f"a_{path}": a * (change * W[at]).sum(2) for path, W in reach.items()}
            rows["ee"] = ((change @ (nfm.W_out @ nfm.W_out.T)) * change).sum(2)
            rows["error"] = rows["error"] + 2 * (change * (error @ nfm.W_out.T)[:, None]).sum(2)
        for name, value in rows.items():
            sums[name].index_add_(0, at.flatten().cpu(), value.flatten().double().cpu())

    # sums over tokens of the products of two parts, and products of two sums
    W = {path: table.double().cpu() for path, table in tables.items()}
    dot = {(i, j): (W[i] * W[j]).sum(1) for i in W for j in W}
    products = {pair: sums["aa"] * d for pair, d in dot.items()}
    of_sums = {pair: sums["a"].square() * d for pair, d in dot.items()}
    if nfm:
        written = hidden @ nfm.W_out.double().cpu()
        for path, table in W.items():
            across = sums["a"] * (written * table).sum(1)
            for pair in ((path, "interaction"), ("interaction", path)):
                products[pair], of_sums[pair] = sums[f"a_{path}"], across
        products["interaction", "interaction"] = sums["ee"]
        of_sums["interaction", "interaction"] = written.square().sum(1)
    covariance = {pair: products[pair] / n - of_sums[pair] / n**2 for pair in products}
    variance, spread = sum(covariance.values()), float(second - first.square().sum() / n) / n
    effects = {
        "fired": sums["fired"].long(),
        "ablation": (sums["error"] + sum(products.values())) / sums["fired"] / spread,
    }
    for path in dict.fromkeys(part for part, _ in covariance):
        effects[path] = sum(c for (part, _), c in covariance.items() if part == path) / variance
    columns = {name: values.numpy() for name, values in effects.items()}
    return pd.DataFrame(columns).rename_axis("feature")


def _blocks(batches: Sequence[Tensor], codes: Sequence[Codes]) -> Iterator[tuple[Tensor, Codes]]:
    """Tokens and their codes, at most `ROWS` at a time."""
    for x, (acts, indices) in zip(batches, codes, strict=True):
        cut = zip(x.split(ROWS), acts.split(ROWS), indices.split(ROWS), strict=True)
        yield from ((part, Codes(a, i)) for part, a, i in cut)


def _hidden_changes(nfm: NFM, codes: Codes) -> Float[Tensor, "batch k d_factor"]:
    """What each active feature's removal takes away from the MLP's hidden units after the ReLU."""
    vectors = codes.acts[..., None] * nfm.V[codes.indices]
    total = sparse.decode(codes, nfm.V)[:, None]
    pooled = sparse.bi_interaction(codes, nfm.V)[:, None]
    without = pooled - vectors * (total - vectors)  # the pairs that the feature is part of
    return (pooled @ nfm.W_hidden + nfm.b_hidden).relu() - (
        without @ nfm.W_hidden + nfm.b_hidden
    ).relu()


class GroupMoments(NamedTuple):
    """Sums from which what each (path, group) contributes to x_hat follows, by block of tokens."""

    parts: list[tuple[str, str]]
    n: Int64[Tensor, " blocks"]
    """Tokens."""
    sums: Float[Tensor, "blocks parts_and_x d_in"]
    """Of x, which stands first, and of the parts."""
    products: Float[Tensor, "blocks parts_and_x parts_and_x"]
    """Sums of their products, over tokens and dimensions."""

    def shapley(self, blocks: Bool[np.ndarray, " blocks"] | None = None) -> pd.Series:
        r"""Each part's share of the variance of x, by (path, group), from some blocks or all.

        The variance that a sum of parts explains, constants left out, grows part by part; a part's
        Shapley value is what it adds, averaged over all orders. For a sum it is exactly

        .. math:: \left(2\, \mathrm{Cov}(x, j) - \mathrm{Cov}(\hat x, j)\right) / \mathrm{Var}(x).

        They add up to the share that all parts together explain. Raises ValueError if x does not
        vary.
        """
        some = slice(None) if blocks is None else torch.from_numpy(blocks)
        n, mean = self.n[some].sum(), self.sums[some].sum(0) / self.n[some].sum()
        covariance = self.products[some].sum(0) / n - mean @ mean.T
        if not covariance[0, 0] > 0:
            raise ValueError("x does not vary: no share of its variance can be explained")
        shares = (2 * covariance[0, 1:] - covariance[1:, 1:].sum(0)) / covariance[0, 0]
        index = pd.MultiIndex.from_tuples(self.parts, names=["path", "group"])
        return pd.Series(shares.numpy(), index)


@torch.no_grad()
def by_group(
    model: JointSAE, batches: Sequence[Tensor], codes: Sequence[Codes], low: Bool[Tensor, " d_sae"]
) -> GroupMoments:
    """What each path writes through the `low` and the `high` features, one block per batch.

    Decoder and linear path: the output from the codes of one group alone. The interaction path also
    has pairs across groups; these are halved between them (Shapley value of the two groups). Raises
    as `parted`.
    """
    sae, nfm = parted(model)
    masks = {"low": low, "high": ~low}
    sums, products = [], []
    for x, active in zip(batches, codes, strict=True):
        group = {
            name: Codes(active.acts * mask[active.indices], active.indices)
            for name, mask in masks.items()
        }
        both, own = nfm.interaction_out(active), {g: nfm.interaction_out(group[g]) for g in group}
        parts = {}
        for name, other in (("low", "high"), ("high", "low")):
            parts["decoder", name] = sparse.decode(group[name], sae.W_dec)
            parts["linear", name] = sparse.decode(group[name], nfm.W_lin)
            parts["interaction", name] = (own[name] + both - own[other]) / 2  # and a constant
        stacked = torch.stack([x, *parts.values()]).double().cpu()
        sums.append(stacked.sum(1))
        products.append(stacked.flatten(1) @ stacked.flatten(1).T)
    n = torch.tensor([len(x) for x in batches])
    return GroupMoments(list(parts), n, torch.stack(sums), torch.stack(products))
