"""Toy activations whose features are known: what the walkthroughs train on before a real model is touched."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def circle(n_features: int) -> Float[Tensor, "n_features 2"]:
    """Unit directions spread evenly over the plane: more features than dimensions as soon as there are three."""
    angle = 2 * math.pi * torch.arange(n_features) / n_features + math.pi / 2
    return torch.stack([angle.cos(), angle.sin()], 1)


def random_directions(n_features: int, d_in: int, generator: torch.Generator) -> Float[Tensor, "n_features d_in"]:
    """Unit directions drawn uniformly from the sphere."""
    return torch.nn.functional.normalize(torch.randn(n_features, d_in, generator=generator), dim=1)


def activations(
    directions: Float[Tensor, "n_features d_in"], n_tokens: int, n_active: int, noise: float, generator: torch.Generator
) -> Float[Tensor, "n_tokens d_in"]:
    """Tokens with `n_active` features each, drawn without regard to each other, of strength 0.5 to 1.5, plus Gaussian noise."""
    present = torch.rand(n_tokens, len(directions), generator=generator).topk(n_active).indices
    codes = torch.zeros(n_tokens, len(directions)).scatter(1, present, 0.5 + torch.rand(n_tokens, n_active, generator=generator))
    return codes @ directions + noise * torch.randn(n_tokens, directions.shape[1], generator=generator)


class Batches(Sequence):
    """Endless fresh toy tokens for `train.fit`; a step's batch depends on seed and step alone."""

    def __init__(self, directions: Tensor, n_steps: int, batch_tokens: int, n_active: int = 1, noise: float = 0.0, seed: int = 0):
        self.directions, self.n_steps, self.batch_tokens = directions, n_steps, batch_tokens
        self.n_active, self.noise, self.seed = n_active, noise, seed

    def __len__(self) -> int:
        return self.n_steps

    def __getitem__(self, step: int) -> Tensor:
        if not 0 <= step < self.n_steps:
            raise IndexError(f"step {step} is not one of the {self.n_steps} steps")
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        return activations(self.directions, self.batch_tokens, self.n_active, self.noise, generator)


def recovery(learned: Float[Tensor, "d_sae d_in"], true: Float[Tensor, "n_features d_in"]) -> Float[Tensor, " n_features"]:
    """How well each true feature was found: the largest cosine between its direction and any learned one. A zero row counts as 0."""
    unit = torch.nn.functional.normalize(learned.detach(), dim=1)
    return (true @ unit.T).max(1).values
