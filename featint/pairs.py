"""Which pairs of features a fitted NFM multiplies, and how well a list of pairs agrees with a known one."""

import numpy as np
import torch
from jaxtyping import Float, Int64
from sklearn.metrics import average_precision_score, precision_recall_curve
from torch import Tensor

from featint.kernels.sparse import Codes
from featint.nfm import NFM

CHUNK = 4096  # pairs at a time


@torch.no_grad()
def second_differences(
    nfm: NFM, pairs: Int64[Tensor, "n 2"], levels: Float[Tensor, " d_sae"]
) -> Float[Tensor, " n"]:
    """Mixed second difference of the NFM's output for each pair, with nothing else active: its length, in the units of x.

    f(i and j) - f(i) - f(j) + f(neither), each feature at its level or at 0. The linear path drops out, and the interaction path writes
    the same constant for one active feature as for none, so that f(i and j) - f(neither) of that path is all there is to compute.
    """
    neither = nfm.interaction_out(
        Codes(levels.new_zeros(1, 2), torch.zeros(1, 2, dtype=torch.int64))
    )
    return torch.cat(
        [
            (nfm.interaction_out(Codes(levels[p], p)) - neither).norm(dim=1)
            for p in pairs.split(CHUNK)
        ]
    )


@torch.no_grad()
def factor_effects(
    nfm: NFM, pairs: Int64[Tensor, "n 2"], levels: Float[Tensor, " d_sae"], codes: Codes
) -> Float[Tensor, " n"]:
    r"""The same read off the weights: the length of :math:`a_i a_j \, (V_i \odot V_j) W_{hidden} \, \mathrm{diag}(g) \, W_{out}`, in the units of x.

    g is the share of the given tokens on which each hidden unit of the MLP is above 0, so that the MLP is replaced by its mean slope.
    """
    gate = (nfm.hidden(codes) > 0).float().mean(0)
    slope = nfm.W_hidden * gate @ nfm.W_out
    i, j = pairs.T
    return torch.cat(
        [
            ((levels[a] * levels[b])[:, None] * (nfm.V[a] * nfm.V[b]) @ slope).norm(dim=1)
            for a, b in zip(i.split(CHUNK), j.split(CHUNK), strict=True)
        ]
    )


def agreement(
    scores: Float[Tensor, " n"], planted: Tensor, false_share: float = 0.05
) -> tuple[float, float]:
    """How well the highest scores are the planted pairs: area under the precision-recall curve, and the share of the planted pairs
    in the longest list, from the top, of which at most `false_share` is false."""
    truth, values = np.asarray(planted), np.asarray(scores, dtype=np.float64)
    precision, recall, _ = precision_recall_curve(truth, values)
    return float(average_precision_score(truth, values)), float(
        recall[precision >= 1 - false_share].max()
    )
