"""What a feature and a group of features do to the reconstruction, path by path, measured on data and in one unit: variance of the output.

Weights of the decoder, the linear path and the factor table live in different spaces, so that sizes of weights cannot be compared. Outputs can.
A feature's *output* on a token is what its removal takes away from x_hat; its three parts come through the three paths and add up to it.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from scipy import stats
from torch import Tensor

from featint.contributions import PathMoments, path_contributions
from featint.joint import JointSAE
from featint.kernels import sparse
from featint.kernels.sparse import Codes
from featint.sae import TopKSAE

PATHS = ("decoder", "linear", "interaction")
ROWS = 512  # tokens at once: every (token, active feature) pair takes d_factor floats


def parted(model: TopKSAE | JointSAE) -> tuple:
    """The SAE and the NFM of a model, None if it has none. Raises ValueError for an NFM without one of its paths, or one that sees fewer features than fire."""
    if isinstance(model, TopKSAE):
        return model, None
    config = model.nfm.config
    if not (config.linear and config.interaction) or config.top_n is not None:
        raise ValueError(
            "effects by path need an NFM with both paths that sees all active features, "
            f"got linear = {config.linear}, interaction = {config.interaction}, top_n = {config.top_n}"
        )
    return model.sae, model.nfm


@torch.no_grad()
def by_feature(
    model: TopKSAE | JointSAE, batches: Sequence[Tensor], codes: Sequence[Codes]
) -> pd.DataFrame:
    """One row per feature, from tokens x (batch, d_in) and their codes.

    Columns: `fired`, tokens on which the feature is active; `ablation`, by how much its removal raises the squared error on such a token, as a share
    of the mean squared distance of a token from the mean; and the share of the variance of its output (over all tokens, summed over dimensions)
    that each path explains, Cov(part, output) / Var(output), `decoder`, `linear`, `interaction`: the shares add up to 1, and each is the path's
    Shapley value, as in `contributions.path_contributions`. NaN where a feature never fires. Raises as `parted`.
    """
    sae, nfm = parted(model)
    d_sae, d_factor = sae.d_sae, nfm.config.d_factor if nfm else 0
    tables = {"decoder": sae.W_dec} | ({"linear": nfm.W_lin} if nfm else {})
    whole = sum(tables.values())
    reach = (
        {name: W @ nfm.W_out.T for name, W in tables.items()} if nfm else {}
    )  # a feature's direction, seen from the MLP's hidden units
    sums = {
        name: torch.zeros(d_sae, dtype=torch.float64)
        for name in ("fired", "a", "aa", "error", "ee", *(f"a_{table}" for table in reach))
    }
    hidden = torch.zeros(d_sae, d_factor, dtype=torch.float64)
    n, first, second = 0, 0.0, 0.0

    for x, found in blocks(batches, codes):
        error, at, a = x - model.decode(found), found.indices, found.acts
        n, first, second = n + len(x), first + x.double().sum(0), second + x.double().square().sum()
        rows = {
            "fired": a > 0,
            "a": a,
            "aa": a.square(),
            "error": 2 * a * (error @ whole.T).gather(1, at),
        }
        if nfm:
            change = hidden_changes(nfm, found)
            hidden.index_add_(0, at.flatten(), change.flatten(0, 1).double().cpu())
            rows |= {f"a_{name}": a * (change * table[at]).sum(2) for name, table in reach.items()}
            rows["ee"] = ((change @ (nfm.W_out @ nfm.W_out.T)) * change).sum(2)
            rows["error"] = rows["error"] + 2 * (change * (error @ nfm.W_out.T)[:, None]).sum(2)
        for name, value in rows.items():
            sums[name].index_add_(0, at.flatten().cpu(), value.flatten().double().cpu())
    spread = float(second - first.square().sum() / n) / n
    return _table(tables, nfm, sums, hidden, n, spread)


def blocks(batches: Sequence[Tensor], codes: Sequence[Codes]) -> Iterator[tuple[Tensor, Codes]]:
    """Tokens and their codes, at most `ROWS` at a time."""
    for x, (acts, indices) in zip(batches, codes, strict=True):
        yield from (
            (part, Codes(a, i))
            for part, a, i in zip(x.split(ROWS), acts.split(ROWS), indices.split(ROWS), strict=True)
        )


def hidden_changes(nfm, codes: Codes) -> Float[Tensor, "batch k d_factor"]:
    """What each active feature's removal takes away from the MLP's hidden units after the ReLU."""
    vectors = codes.acts[..., None] * nfm.V[codes.indices]
    total = sparse.decode(codes, nfm.V)[:, None]
    pooled = sparse.bi_interaction(codes, nfm.V)[:, None]
    without = pooled - vectors * (total - vectors)  # the pairs that the feature is part of
    return (pooled @ nfm.W_hidden + nfm.b_hidden).relu() - (
        without @ nfm.W_hidden + nfm.b_hidden
    ).relu()


def _table(tables, nfm, sums, hidden, n, spread) -> pd.DataFrame:
    """From sums over tokens to covariances of each feature's parts, and their shares."""
    W = {name: table.double().cpu() for name, table in tables.items()}
    dot = {(i, j): (W[i] * W[j]).sum(1) for i in W for j in W}
    second = {(i, j): sums["aa"] * dot[i, j] for i in W for j in W}
    first = {(i, j): sums["a"].square() * dot[i, j] for i in W for j in W}
    if nfm:
        out = nfm.W_out.double().cpu()
        mean = hidden @ out
        for name, table in W.items():
            second[name, "interaction"] = second["interaction", name] = sums[f"a_{name}"]
            first[name, "interaction"] = first["interaction", name] = sums["a"] * (
                mean * table
            ).sum(1)
        second["interaction", "interaction"], first["interaction", "interaction"] = (
            sums["ee"],
            mean.square().sum(1),
        )
    parts = [*W, *(["interaction"] if nfm else [])]
    covariance = {pair: second[pair] / n - first[pair] / n**2 for pair in second}
    variance = sum(covariance.values())
    with np.errstate(
        invalid="ignore", divide="ignore"
    ):  # features that never fire: 0 / 0, NaN by definition above
        shares = {
            part: (sum(covariance[part, other] for other in parts) / variance).numpy()
            for part in parts
        }
        ablation = ((sums["error"] + sum(second.values())) / sums["fired"] / spread).numpy()
    return pd.DataFrame(
        {"fired": sums["fired"].long().numpy(), "ablation": ablation} | shares
    ).rename_axis("feature")


@torch.no_grad()
def by_group(
    model: JointSAE, batches: Sequence[Tensor], codes: Sequence[Codes], low: Bool[Tensor, " d_sae"]
) -> pd.DataFrame:
    """The share of the variance of x that each path explains through the low and the high features, with 95 % intervals.

    Parts: each path's output from the codes of one group alone; the interaction path's, which also has pairs across groups, is divided by Shapley
    values, and constants are left out. Index (path, group), columns value, lo, hi, n: Shapley shares of `contributions.path_contributions`, and a
    jackknife that leaves out one batch at a time (batches are consecutive text, so that tokens of an article stay together). Raises as `parted`,
    and ValueError for fewer than two batches.
    """
    sae, nfm = parted(model)
    if nfm is None or len(batches) < 2:
        raise ValueError(
            f"effects by group need an NFM and at least 2 batches, got {type(model).__name__} and {len(batches)}"
        )
    moments = []
    for x, found in zip(batches, codes, strict=True):
        groups = {
            name: Codes(found.acts * mask[found.indices], found.indices)
            for name, mask in (("low", low), ("high", ~low))
        }
        both, none = (
            nfm.interaction_out(found),
            nfm.interaction_out(Codes(torch.zeros_like(found.acts), found.indices)),
        )
        own = {name: nfm.interaction_out(group) for name, group in groups.items()}
        parts = {"x": x}
        for name, group in groups.items():
            parts[f"decoder {name}"] = sparse.decode(group, sae.W_dec)
            parts[f"linear {name}"] = sparse.decode(group, nfm.W_lin)
            parts[f"interaction {name}"] = (
                own[name] - none + both - own["low" if name == "high" else "high"]
            ) / 2
        moments.append(PathMoments())
        moments[-1].update(parts)
    shares = pd.DataFrame(
        [
            path_contributions(merged(moments[:i] + moments[i + 1 :]).covariance()).shapley
            for i in range(len(moments))
        ]
    )
    whole = path_contributions(merged(moments).covariance()).shapley
    table = jackknife(whole, shares, len(moments))
    table.index = pd.MultiIndex.from_tuples(
        [tuple(name.split()) for name in table.index], names=["path", "group"]
    )
    return table


def merged(moments: Sequence[PathMoments]) -> PathMoments:
    """The moments of all their tokens."""
    total = PathMoments()
    total.n, total.names = sum(m.n for m in moments), moments[0].names
    total.sums, total.products = sum(m.sums for m in moments), sum(m.products for m in moments)
    return total


def jackknife(whole: pd.Series, without: pd.DataFrame, n: int) -> pd.DataFrame:
    """95 % intervals of statistics from their values with one of n groups left out (rows of `without`): Student's t with n - 1 degrees of freedom."""
    error = np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum())
    half = stats.t.ppf(0.975, n - 1) * error
    return pd.DataFrame({"value": whole, "lo": whole - half, "hi": whole + half, "n": n})
