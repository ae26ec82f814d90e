"""A toy world whose answer is known: features that add up, and chosen pairs (or triples) whose product adds a direction of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from companion.toys import features as toy
from featint.config import at_least, choose
from featint.metrics import fvu, squared_error

ORDERS = {"none": 0, "pairs": 2, "triples": 3}
"""How many features a planted product multiplies."""


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """What is planted. Raises ValueError for what cannot be, such as triples where two features are active."""

    n_features: int = 64
    """Identity features, each a random unit direction."""
    d_in: int = 64
    """Dimensions of an activation."""
    n_active: int = 6
    """Features present in a token, drawn without regard to each other, of strength 0.5 to 1.5."""
    order: Literal["none", "pairs", "triples"] = "pairs"
    """Products of two features, of three, or none at all."""
    n_products: int = 16
    """Planted products, each with a random unit direction of its own; ignored if `order` is `none`."""
    strength: float = 1.0
    """Factor on the products. At 1, a product is on average as strong as a feature."""
    noise: float = 0.05
    """Standard deviation of the Gaussian noise in each dimension."""
    seed: int = 0
    """Seed of directions and of what is planted."""

    def __post_init__(self):
        choose("order", self.order, tuple(ORDERS))
        for name in ("n_features", "d_in", "n_active", "n_products"):
            at_least(name, getattr(self, name), 1)
        at_least("noise", self.noise, 0)
        at_least("strength", self.strength, 0)
        if self.n_active > self.n_features:
            raise ValueError(
                f"n_active = {self.n_active} is more than n_features = {self.n_features}: no more can be present than there are"
            )
        size = ORDERS[self.order]
        if self.n_active < size:
            raise ValueError(
                f"order = {self.order!r} needs n_active of at least {size}, not {self.n_active}: no product would ever occur"
            )
        if size and self.n_products > comb(self.n_features, size):
            raise ValueError(
                f"n_products = {self.n_products} is more than the {comb(self.n_features, size)} {self.order} of {self.n_features} features"
            )
        if size and self.strength == 0:
            raise ValueError(
                f"strength = 0 plants nothing, but order = {self.order!r}; use order = 'none'"
            )


class Sample(NamedTuple):
    """Tokens with their true causes."""

    codes: Float[Tensor, "n n_features"]
    """How strongly each feature is present."""
    products: Float[Tensor, "n n_products"]
    """The planted products of these; no columns if nothing is planted."""
    x: Float[Tensor, "n d_in"]
    """The activations."""


class World:
    r"""The planted truth :math:`x = \sum_i c_i d_i + s \sum_p \big(\prod_{i \in p} c_i\big)\, e_p + \mathrm{noise}`.

    `directions` (n_features, d_in) are the d_i, `product_directions` (n_products, d_in) the e_p, `products` (n_products, order) the features
    that each p multiplies.
    """

    def __init__(self, config: WorldConfig):
        self.config = config
        generator = torch.Generator().manual_seed(config.seed)
        self.directions = toy.random_directions(config.n_features, config.d_in, generator)
        size = ORDERS[config.order]
        choices = (
            torch.combinations(torch.arange(config.n_features), size)
            if size
            else torch.empty(0, 0, dtype=torch.int64)
        )
        self.products: Int64[Tensor, "n_products order"] = choices[
            torch.randperm(len(choices), generator=generator)[: config.n_products]
        ]
        self.product_directions = toy.random_directions(len(self.products), config.d_in, generator)

    def draw(self, n_tokens: int, generator: torch.Generator) -> Sample:
        """Fresh tokens."""
        codes = toy.codes(self.config.n_features, n_tokens, self.config.n_active, generator)
        products = codes[:, self.products].prod(2) if len(self.products) else codes[:, :0]
        x = codes @ self.directions + self.config.strength * products @ self.product_directions
        return Sample(
            codes, products, x + self.config.noise * torch.randn(x.shape, generator=generator)
        )

    def floors(self, train: Sample, test: Sample) -> tuple[float, float]:
        """The best test FVU with the true codes: of a linear map of them, and of a linear map of them and of the true products."""
        return least_squares(train.codes, train.x, test.codes, test.x), least_squares(
            torch.cat([train.codes, train.products], 1),
            train.x,
            torch.cat([test.codes, test.products], 1),
            test.x,
        )


def least_squares(
    inputs: Tensor,
    x: Tensor,
    test_inputs: Tensor,
    test_x: Tensor,
    given: tuple[Tensor, Tensor] | None = None,
) -> float:
    """FVU on test tokens of the affine map of the inputs that fits x best, in float64.

    `given` are parts of the reconstruction of x and of test_x that are there already; the map then fits what they leave.
    """
    known, test_known = (0.0, 0.0) if given is None else (given[0].double(), given[1].double())
    a = _affine(inputs)
    weights = torch.linalg.lstsq(
        a.T @ a, a.T @ (x.double() - known), driver="gelsd"
    ).solution  # gelsd: a dead feature is a column of zeros
    return share_unexplained(test_x, _affine(test_inputs) @ weights + test_known)


def share_unexplained(x: Tensor, x_hat: Tensor) -> float:
    """FVU of a reconstruction, both (n, d_in)."""
    return fvu(
        squared_error(x, x_hat).sum().item(), squared_error(x, x.mean(0).expand_as(x)).sum().item()
    )


class Batches(Sequence):
    """Fresh tokens of a world for `train.fit`; a step's batch depends on seed and step alone.

    With `with_codes` each row holds the true codes before the activation, for a model that is handed both.
    """

    def __init__(
        self, world: World, n_steps: int, batch_tokens: int, seed: int, with_codes: bool = False
    ):
        self.world, self.n_steps, self.batch_tokens, self.seed, self.with_codes = (
            world,
            n_steps,
            batch_tokens,
            seed,
            with_codes,
        )

    def __len__(self) -> int:
        return self.n_steps

    def __getitem__(self, step: int) -> Tensor:
        if not 0 <= step < self.n_steps:
            raise IndexError(f"step {step} is not one of the {self.n_steps} steps")
        sample = self.world.draw(self.batch_tokens, toy.step_generator(self.seed, step))
        return torch.cat([sample.codes, sample.x], 1) if self.with_codes else sample.x


def _affine(inputs: Tensor) -> Tensor:
    return torch.cat([inputs, inputs.new_ones(len(inputs), 1)], 1).double()
