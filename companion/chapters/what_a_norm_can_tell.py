"""Toy data whose features differ in how often they occur, and an SAE watched on them."""

import pandas as pd
import torch
from jaxtyping import Float
from threadpoolctl import threadpool_limits
from torch import Tensor

from featint import train
from featint.activations import Batches
from featint.config import TrainConfig
from featint.planted import step_generator
from featint.sae import TopKSAE

RECORDS = 200  # points of a curve over training


def tokens(
    directions: Float[Tensor, "n_features d_in"],
    weights: Float[Tensor, " n_features"],
    config: TrainConfig,
    n_active: int = 1,
) -> Batches:
    """Fresh toy tokens for `train.fit`, each with `n_active` different features of strength 0.5 to
    1.5, drawn with probabilities proportional to `weights`; seed and step alone decide a batch.

    Raises ValueError for weights that are not positive or fewer than `n_active`.
    """
    if not bool((weights > 0).all()) or len(weights) < n_active:
        raise ValueError(
            f"weights = {weights.tolist()[:5]} ... must be positive and at least "
            f"n_active = {n_active} many"
        )

    def batch(step: int) -> Tensor:
        generator = step_generator(config.seed, step)
        chance = weights.expand(config.batch_tokens, -1)
        present = torch.multinomial(chance, n_active, generator=generator)
        strength = 0.5 + torch.rand(present.shape, generator=generator)
        return torch.zeros_like(chance).scatter(1, present, strength) @ directions

    return Batches(config.n_steps, batch)


def watch(
    model: TopKSAE,
    directions: Float[Tensor, "n_features d_in"],
    weights: Float[Tensor, " n_features"],
    config: TrainConfig,
    n_active: int = 1,
) -> tuple[pd.DataFrame, Tensor]:
    """Train, and return the squared norms over training (index: step, a column per feature) and the
    number of updates of each feature."""
    drawn, norms = tokens(directions, weights, config, n_active), {}

    def norms_now() -> list[float]:
        return model.W_dec.detach().square().sum(1).tolist()

    def noted(step: int) -> Tensor:
        if step % max(1, len(drawn) // RECORDS) == 0:
            norms[step] = norms_now()
        return drawn[step]

    with threadpool_limits(1):  # such small steps are slower on more threads
        fired_tokens = train.fit(model, Batches(len(drawn), noted), config).fired_tokens
    norms[len(drawn)] = norms_now()
    # sorted, because checks of types, where they are on, ask for a batch out of turn
    curves = pd.DataFrame.from_dict(norms, orient="index").sort_index()
    return curves.rename_axis("step"), fired_tokens
