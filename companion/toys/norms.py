"""Toy data whose features differ in how often they occur, for the walkthrough on norms."""

import pandas as pd
import torch
from jaxtyping import Float
from threadpoolctl import threadpool_limits
from torch import Tensor

from featint import train
from featint.activations import Batches
from featint.config import SAEConfig, TrainConfig
from featint.planted import step_generator
from featint.sae import TopKSAE

RECORDS = 200  # points of a curve over training


def short_sae(directions: Float[Tensor, "n_features d_in"], length: float) -> TopKSAE:
    """An SAE, k = 1, whose directions are the true ones at this length."""
    n_features, d_in = directions.shape
    sae = TopKSAE(d_in, SAEConfig(d_sae=n_features, k=1))
    with torch.no_grad():
        sae.W_dec.copy_(length * directions)
        sae.W_enc.copy_(length * directions.T)
    return sae


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

    def note(step: int) -> None:
        norms[step] = model.W_dec.detach().square().sum(1).tolist()

    def noted(step: int) -> Tensor:
        if step % max(1, len(drawn) // RECORDS) == 0:
            note(step)
        return drawn[step]

    with threadpool_limits(1):  # such small steps are slower on more threads
        fired_tokens = train.fit(model, Batches(len(drawn), noted), config).fired_tokens
    note(len(drawn))
    # sorted, because checks of types, where they are on, ask for a batch out of turn
    curves = pd.DataFrame.from_dict(norms, orient="index").sort_index()
    return curves.rename_axis("step"), fired_tokens
