"""Which pairs of features a fitted NFM multiplies: mixed second differences of its output, the same
read off its weights, and how well a list of pairs agrees with a known one."""

from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int64
from scipy import sparse
from sklearn.metrics import average_precision_score, precision_recall_curve
from torch import Tensor

from featint.kernels.sparse import Codes
from featint.nfm import NFM

CHUNK = 4096  # pairs, or tokens, at a time


@torch.no_grad()
def alone(
    nfm: NFM, pairs: Int64[Tensor, "n 2"], levels: Float[Tensor, " d_sae"]
) -> Float[Tensor, " n"]:
    """Length of the mixed second difference of the NFM's output for each pair, with nothing else
    active; in the units of x.

    f(i and j) - f(i) - f(j) + f(neither), each feature at its level or at 0. The linear path drops
    out, and the interaction path writes the same constant for one active feature as for none, so
    that f(i and j) - f(neither) of that path is all there is to compute.
    """
    nothing = Codes(levels.new_zeros(1, 2), pairs.new_zeros(1, 2))
    neither = nfm.interaction_out(nothing)
    effects = [nfm.interaction_out(Codes(levels[p], p)) - neither for p in pairs.split(CHUNK)]
    return torch.cat([effect.norm(dim=1) for effect in effects])


@torch.no_grad()
def by_weights(
    nfm: NFM, pairs: Int64[Tensor, "n 2"], levels: Float[Tensor, " d_sae"], codes: Codes
) -> Float[Tensor, " n"]:
    r"""The same read off the weights: the length of

    .. math:: a_i a_j \, (V_i \odot V_j) \, W_{hidden} \, \mathrm{diag}(g) \, W_{out}

    in the units of x. a are the levels; g is the share of the given tokens on which each hidden
    unit of the MLP is above 0, so that the MLP is replaced by its mean slope.
    """
    gate = (nfm.hidden(codes) > 0).float().mean(0)
    slope = nfm.W_hidden * gate @ nfm.W_out
    lengths = []
    for i, j in (p.T for p in pairs.split(CHUNK)):
        pooled = (levels[i] * levels[j])[:, None] * (nfm.V[i] * nfm.V[j])
        lengths.append((pooled @ slope).norm(dim=1))
    return torch.cat(lengths)


@torch.no_grad()
def in_company(
    nfm: NFM, codes: Codes, rows: Int64[Tensor, " n"], pairs: Int64[Tensor, "n 2"]
) -> Float[Tensor, " n"]:
    """Length of the mixed second difference of the interaction path's output for a pair on a token,
    all other features as they are; in the units of x.

    f(as it is) - f(without i) - f(without j) + f(without both); `rows` says on which token of
    `codes` each pair is asked.
    """
    lengths = []
    for row, pair in zip(rows.split(CHUNK), pairs.split(CHUNK), strict=True):
        acts, indices = codes.acts[row], codes.indices[row]
        i, j = (indices != end[:, None] for end in pair.T)
        as_it_is, without_i, without_j, without_both = (
            nfm.interaction_out(Codes(acts * kept, indices)) for kept in (1, i, j, i & j)
        )
        lengths.append((as_it_is - without_i - without_j + without_both).norm(dim=1))
    return torch.cat(lengths)


def meetings(
    codes: Codes, features: Int64[Tensor, " m"], least: int
) -> tuple[sparse.csc_array, Int64[Tensor, "n 2"], Int64[Tensor, " n"]]:
    """Which of these features are active together.

    Returns which token (row) has which of the features (column); the pairs, as columns i < j of it,
    that meet on at least `least` tokens; and on how many each does.
    """
    place = torch.full((int(max(codes.indices.max(), features.max())) + 1,), -1)
    place[features] = torch.arange(len(features))
    token, at = ((codes.acts > 0) & (place[codes.indices] >= 0)).nonzero(as_tuple=True)
    column = place[codes.indices[token, at]].numpy()
    shape = len(codes.acts), len(features)
    active = sparse.csc_array((np.ones(len(token), np.int32), (token.numpy(), column)), shape)
    met = sparse.triu(active.T @ active, k=1).tocsr().tocoo()  # in the order of i, then j
    often = met.data >= least
    pairs, n = np.stack([met.row, met.col], 1)[often], met.data[often]
    return active, torch.from_numpy(pairs.astype(np.int64)), torch.from_numpy(n.astype(np.int64))


def tokens_of(
    active: sparse.csc_array, pairs: Int64[Tensor, "n 2"], most: int
) -> list[Int64[Tensor, " n_tokens"]]:
    """For each pair of columns up to `most` of the tokens on which both are active, evenly spread
    over them; `active` as `meetings` returns it."""
    tokens = [active.indices[a:b] for a, b in pairwise(active.indptr)]
    chosen = []
    for i, j in pairs.tolist():
        both = np.intersect1d(tokens[i], tokens[j], assume_unique=True)
        spread = np.unique(np.linspace(0, len(both) - 1, most).astype(int))
        chosen.append(torch.from_numpy(both[spread].astype(np.int64)))
    return chosen


def partners(
    nfm: NFM,
    codes: Codes,
    features: Int64[Tensor, " m"],
    levels: Float[Tensor, " d_sae"],
    least: int,
    candidates: int,
    tokens: int,
    most: int,
) -> pd.DataFrame:
    """For each of these features the `most` others of them with which it interacts most, strongest
    first: columns feature, partner, effect, the mean of `in_company` over up to `tokens` tokens,
    and n, on how many both are active.

    Asked are pairs that meet on at least `least` tokens and are, `by_weights`, among the
    `candidates` strongest of either feature.
    """
    active, pairs, n = meetings(codes, features, least)
    if not len(pairs):
        return pd.DataFrame(columns=["feature", "partner", "effect", "n"])
    sample = Codes(*(part[:: max(1, len(part) // CHUNK)] for part in codes))
    weights = by_weights(nfm, features[pairs], levels, sample)
    asked = np.unique(np.concatenate(strongest(pairs, weights.numpy(), len(features), candidates)))
    pairs, n = pairs[asked], n[asked]
    rows = tokens_of(active, pairs, tokens)
    each = torch.tensor([len(r) for r in rows])
    lengths = in_company(nfm, codes, torch.cat(rows), features[pairs].repeat_interleave(each, 0))
    effect = np.array([part.double().mean() for part in lengths.split(each.tolist())])
    best = strongest(pairs, effect, len(features), most)
    kept, feature = np.concatenate(best), np.repeat(np.arange(len(features)), [*map(len, best)])
    partner = pairs[kept].sum(1).numpy() - feature  # the other end
    columns = {"feature": features[feature], "partner": features[partner]}
    return pd.DataFrame(columns | {"effect": effect[kept], "n": n[kept]})


def strongest(
    pairs: Int64[Tensor, "n 2"], scores: Float[np.ndarray, " n"], n_features: int, most: int
) -> list[np.ndarray]:
    """For each feature the `most` pairs with the highest scores of which it is one, best first, as
    indices into the pairs."""
    end, pair = pairs.T.reshape(-1).numpy(), np.tile(np.arange(len(pairs)), 2)
    order = np.lexsort((-scores[pair], end))
    starts = np.searchsorted(end[order], np.arange(n_features + 1))
    return [pair[order[a : min(a + most, b)]] for a, b in pairwise(starts)]


def agreement(
    scores: Float[Tensor, " n"], known: Tensor, false_share: float = 0.05
) -> tuple[float, float]:
    """How well the highest scores are the known pairs (True in `known`): area under the
    precision-recall curve, and the share of the known pairs in the longest list, from the top, of
    which at most `false_share` is false."""
    truth, values = np.asarray(known), np.asarray(scores)
    precision, recall, _ = precision_recall_curve(truth, values)
    found = float(recall[precision >= 1 - false_share].max())
    return float(average_precision_score(truth, values)), found
