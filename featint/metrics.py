"""Reconstruction metrics.

One definition each, as sums over tokens in float64 that add up over batches and articles.
"""

from collections.abc import Iterable, Sequence

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor


def squared_error(
    x: Float[Tensor, "batch d_in"], x_hat: Float[Tensor, "batch d_in"]
) -> Float[Tensor, " batch"]:
    """The squared distance between each row and its reconstruction, summed in float64."""
    return (x.double() - x_hat.double()).square().sum(1)


def fvu(sse: float | pd.Series, sst: float | pd.Series) -> float | pd.Series:
    """Fraction of variance unexplained: the sum of squared errors over that of squared distances
    from the mean of the whole set; numbers, or columns of draws."""
    return sse / sst


def density(codes: Iterable, d_sae: int) -> Float[Tensor, " d_sae"]:
    """Firing rate of each feature: the share of the tokens on which it is active."""
    fired, n_tokens = torch.zeros(d_sae, dtype=torch.int64), 0
    for part in codes:
        fired += torch.bincount(part.indices[part.acts > 0].cpu(), minlength=d_sae)
        n_tokens += len(part.acts)
    return fired.double() / n_tokens


def selectivity(
    codes: Sequence, topic: Int[Tensor, " n"], half: Int[Tensor, " n"], d_sae: int
) -> Float[Tensor, " d_sae"]:
    """How much each feature keeps to one topic: from 0 to 1, chance 1 / number of topics, NaN where
    it fires in one half of the text only.

    `topic` and `half` (0 or 1) of each token of the codes; the halves must not share a text. Tokens
    whose topic is negative take no part, nor do topics that one half lacks. The topic in which a
    feature fires most often is chosen on one half; on the other it is its rate there, over the sum
    of its rates in all topics; mean of both directions. Choosing and measuring on the same text
    would make every rare feature look selective.
    """
    n_topics, labelled = int(topic.max()) + 1, topic >= 0
    cell = half * n_topics + topic
    tokens = torch.bincount(cell[labelled], minlength=2 * n_topics).view(2, n_topics)
    counts = torch.zeros(2 * n_topics * d_sae, dtype=torch.int64)
    sizes = [len(part.acts) for part in codes]
    for part, at, known in zip(codes, cell.split(sizes), labelled.split(sizes), strict=True):
        fires = (part.acts > 0).cpu() & known[:, None]
        places = (at[:, None] * d_sae + part.indices.cpu())[fires]
        counts += torch.bincount(places, minlength=len(counts))
    rates = counts.view(2, n_topics, d_sae) / tokens[..., None].clamp(min=1)
    rates = rates[:, (tokens > 0).all(0)].double()
    ways = [
        other.gather(0, chosen.argmax(0, keepdim=True))[0] / other.sum(0)  # 0 / 0 is NaN
        for chosen, other in (rates, rates.flip(0))
    ]
    return (ways[0] + ways[1]) / 2
