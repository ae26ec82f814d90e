"""Toy data whose features differ in how often they occur, for the walkthrough on norms."""

from collections.abc import Sequence

import pandas as pd
import torch
from jaxtyping import Float
from threadpoolctl import threadpool_limits
from torch import Tensor

from featint import train
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


class Batches(Sequence):
    """Fresh toy tokens for `train.fit`, each with `n_active` different features of strength 0.5 to
    1.5, drawn with probabilities proportional to `weights`; seed and step alone decide a batch.

    On its way it notes the squared norms of `model`, at about 200 steps. Raises ValueError for
    weights that are not positive or fewer than `n_active`.
    """

    def __init__(self, model, directions, weights, config: TrainConfig, n_active: int = 1):
        if not bool((weights > 0).all()) or len(weights) < n_active:
            raise ValueError(
                f"weights = {weights.tolist()[:5]} ... must be positive and at least "
                f"n_active = {n_active} many"
            )
        self.model, self.directions, self.weights = model, directions, weights
        self.config, self.n_active = config, n_active
        self.norms: dict[int, list[float]] = {}

    def __len__(self) -> int:
        return self.config.n_steps

    def __getitem__(self, step: int) -> Tensor:
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} is not one of the {len(self)} steps")
        if step % max(1, len(self) // RECORDS) == 0:
            self.note(step)
        generator = step_generator(self.config.seed, step)
        chance = self.weights.expand(self.config.batch_tokens, -1)
        present = torch.multinomial(chance, self.n_active, generator=generator)
        strength = 0.5 + torch.rand(present.shape, generator=generator)
        return torch.zeros_like(chance).scatter(1, present, strength) @ self.directions

    def note(self, step: int) -> None:
        """Keep the squared norms of all directions at this step."""
        self.norms[step] = self.model.W_dec.detach().square().sum(1).tolist()


def watch(
    model: TopKSAE,
    directions: Float[Tensor, "n_features d_in"],
    weights: Float[Tensor, " n_features"],
    config: TrainConfig,
    n_active: int = 1,
) -> tuple[pd.DataFrame, Tensor]:
    """Train, and return the squared norms over training (index: step, a column per feature) and the
    number of updates of each feature."""
    batches = Batches(model, directions, weights, config, n_active)
    with threadpool_limits(1):  # such small steps are slower on more threads
        fired_tokens = train.fit(model, batches, config).fired_tokens
    batches.note(len(batches))
    norms = pd.DataFrame.from_dict(batches.norms, orient="index").sort_index()
    return norms.rename_axis("step"), fired_tokens
