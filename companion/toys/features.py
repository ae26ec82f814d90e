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


def random_directions(
    n_features: int, d_in: int, generator: torch.Generator
) -> Float[Tensor, "n_features d_in"]:
    """Unit directions drawn uniformly from the sphere."""
    return torch.nn.functional.normalize(torch.randn(n_features, d_in, generator=generator), dim=1)


def activations(
    directions: Float[Tensor, "n_features d_in"],
    n_tokens: int,
    n_active: int,
    noise: float,
    generator: torch.Generator,
) -> Float[Tensor, "n_tokens d_in"]:
    """Tokens with `n_active` features each, drawn without regard to each other, of strength 0.5 to 1.5, plus Gaussian noise."""
    return codes(len(directions), n_tokens, n_active, generator) @ directions + noise * torch.randn(
        n_tokens, directions.shape[1], generator=generator
    )


def codes(
    n_features: int, n_tokens: int, n_active: int, generator: torch.Generator
) -> Float[Tensor, "n_tokens n_features"]:
    """How strongly each feature is present: `n_active` features per token, drawn without regard to each other, of strength 0.5 to 1.5."""
    present = torch.rand(n_tokens, n_features, generator=generator).topk(n_active).indices
    return torch.zeros(n_tokens, n_features).scatter(
        1, present, 0.5 + torch.rand(n_tokens, n_active, generator=generator)
    )


def step_generator(seed: int, step: int) -> torch.Generator:
    """A generator that depends on seed and step alone, so that a step's batch is the same whenever it is asked for."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def ratings(
    n_users: int, n_items: int, generator: torch.Generator
) -> Float[Tensor, "n_users n_items"]:
    """A table of ratings: every user and every item has a level, and half of either prefer the one of two genres by a point."""
    genre = [2 * (torch.arange(n) < n // 2).float() - 1 for n in (n_users, n_items)]
    level = [0.5 * torch.randn(n, generator=generator) for n in (n_users, n_items)]
    return 3 + level[0][:, None] + level[1] + genre[0][:, None] * genre[1]


def one_hot_pairs(table: Float[Tensor, "n_users n_items"]) -> Float[Tensor, "entries columns"]:
    """A row per entry of the table: 1 for its user, 1 for its item, 0 for all others; last, the entry."""
    user, item = (torch.arange(n) for n in table.shape)
    user, item = torch.cartesian_prod(user, item).T
    return torch.cat(
        [torch.eye(len(table))[user], torch.eye(table.shape[1])[item], table.reshape(-1, 1)], 1
    )


class Batches(Sequence):
    """Endless fresh toy tokens for `train.fit`; a step's batch depends on seed and step alone."""

    def __init__(
        self,
        directions: Tensor,
        n_steps: int,
        batch_tokens: int,
        n_active: int = 1,
        noise: float = 0.0,
        seed: int = 0,
    ):
        self.directions, self.n_steps, self.batch_tokens = directions, n_steps, batch_tokens
        self.n_active, self.noise, self.seed = n_active, noise, seed

    def __len__(self) -> int:
        return self.n_steps

    def __getitem__(self, step: int) -> Tensor:
        if not 0 <= step < self.n_steps:
            raise IndexError(f"step {step} is not one of the {self.n_steps} steps")
        return activations(
            self.directions,
            self.batch_tokens,
            self.n_active,
            self.noise,
            step_generator(self.seed, step),
        )


def recovery(
    learned: Float[Tensor, "d_sae d_in"], true: Float[Tensor, "n_features d_in"]
) -> Float[Tensor, " n_features"]:
    """How well each true feature was found: the largest cosine between its direction and any learned one. A zero row counts as 0."""
    unit = torch.nn.functional.normalize(learned.detach(), dim=1)
    return (true @ unit.T).max(1).values
