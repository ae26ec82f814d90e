"""A world whose truth is known: features that add up, and chosen pairs or triples of them whose
product adds a direction of its own. Models are trained on it to see whether they find what was
planted."""

from copy import copy
from dataclasses import dataclass
from math import comb
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn.functional import normalize

from featint import metrics, pair_effects, train
from featint.activations import Batches
from featint.config import at_least, choose
from featint.kernels.sparse import Codes
from featint.nfm import NFM
from featint.sae import Reconstruction

TOP = 40  # largest second differences of pairs that are handed out
REPORTED = 0.5  # of a planted pair's second difference: one of at least that is reported
ORDERS = {"none": 0, "pairs": 2, "triples": 3}
"""How many features a planted product multiplies."""


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """What is planted. Raises ValueError for what cannot be, such as triples of two features."""

    n_features: int = 64
    """Features, each a unit direction."""
    d_in: int = 64
    """Dimensions of an activation."""
    n_active: int = 6
    """Features present in a token, drawn without regard to each other."""
    order: Literal["none", "pairs", "triples"] = "pairs"
    """Products of two features, of three, or none at all."""
    n_products: int = 16
    """Planted products, each with a random unit direction; ignored if `order` is `none`."""
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
                f"n_active = {self.n_active} is more than n_features = {self.n_features}: "
                "no more can be present than there are"
            )
        size = ORDERS[self.order]
        if self.n_active < size:
            raise ValueError(
                f"order = {self.order!r} needs n_active of at least {size}, not {self.n_active}: "
                "no product would ever occur"
            )
        if size and self.n_products > (most := comb(self.n_features, size)):
            raise ValueError(
                f"n_products = {self.n_products} is more than the {most} {self.order} "
                f"of {self.n_features} features"
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
    r"""The planted truth

    .. math:: x = \sum_i c_i d_i + s \sum_p \big(\prod_{i \in p} c_i\big)\, e_p + \mathrm{noise}.

    `directions` (n_features, d_in) are the d_i, `product_directions` (n_products, d_in) the e_p,
    `products` (n_products, order) the features that each p multiplies. Directions are random
    unless given.
    """

    def __init__(
        self, config: WorldConfig, directions: Float[Tensor, "n_features d_in"] | None = None
    ):
        self.config, size = config, ORDERS[config.order]
        shape = config.n_features, config.d_in
        generator = torch.Generator().manual_seed(config.seed)
        self.directions = random_directions(*shape, generator) if directions is None else directions
        if self.directions.shape != shape:
            raise ValueError(f"directions have shape {tuple(self.directions.shape)}, not {shape}")
        every = torch.empty(0, 0, dtype=torch.int64)
        if size:
            every = torch.combinations(torch.arange(config.n_features), size)
        chosen = torch.randperm(len(every), generator=generator)[: config.n_products]
        self.products: Int64[Tensor, "n_products order"] = every[chosen]
        self.product_directions = random_directions(len(self.products), config.d_in, generator)

    def to(self, device: str) -> "World":
        """The same world on a device, which draws its tokens there; others than the CPU's."""
        moved = copy(self)
        for name in ("directions", "products", "product_directions"):
            setattr(moved, name, getattr(self, name).to(device))
        return moved

    def draw(self, n_tokens: int, generator: torch.Generator) -> Sample:
        """Fresh tokens; codes lie between 0.5 and 1.5 where a feature is present."""
        c, on = self.config, {"generator": generator, "device": self.directions.device}
        present = torch.rand(n_tokens, c.n_features, **on).topk(c.n_active).indices
        strengths = 0.5 + torch.rand(n_tokens, c.n_active, **on)
        codes = strengths.new_zeros(n_tokens, c.n_features).scatter(1, present, strengths)
        products = codes[:, self.products].prod(2)
        x = codes @ self.directions + c.strength * products @ self.product_directions
        return Sample(codes, products, x + c.noise * torch.randn(x.shape, **on))

    def batches(
        self, n_steps: int, batch_tokens: int, seed: int, with_codes: bool = False
    ) -> Batches:
        """Fresh tokens for `train.fit`; a step's batch depends on seed and step alone.

        With `with_codes` rows hold the true codes before the activation, as `OnTrueCodes` reads.
        """

        def batch(step: int) -> Tensor:
            sample = self.draw(batch_tokens, step_generator(seed, step, self.directions.device))
            return torch.cat([sample.codes, sample.x], 1) if with_codes else sample.x

        return Batches(n_steps, batch)

    def floors(self, train: Sample, test: Sample) -> tuple[float, float]:
        """The best test FVU with the true codes: of an affine map of them, and of an affine map of
        them and of the true products."""
        both = (torch.cat([s.codes, s.products], 1) for s in (train, test))
        return (
            least_squares(train.codes, train.x, test.codes, test.x),
            least_squares(next(both), train.x, next(both), test.x),
        )


def random_directions(n: int, d_in: int, generator: torch.Generator) -> Float[Tensor, "n d_in"]:
    """Unit directions drawn uniformly from the sphere."""
    return normalize(torch.randn(n, d_in, generator=generator), dim=1)


def step_generator(seed: int, step: int, device: str | torch.device = "cpu") -> torch.Generator:
    """A generator that depends on seed and step (and the kind of device) alone."""
    return torch.Generator(device).manual_seed(seed * 1_000_003 + step)


class OnTrueCodes(nn.Module):
    """An NFM that is handed the true codes instead of an SAE's: rows hold d_sae codes, then x."""

    def __init__(self, nfm: NFM, d_sae: int, k: int):
        super().__init__()
        self.nfm, self.d_sae, self.k = nfm, d_sae, k

    def encode(self, rows: Tensor) -> Codes:
        """The k features present in each token."""
        return Codes(*rows[:, : self.d_sae].topk(self.k))

    def forward(self, rows: Tensor) -> Reconstruction:
        codes = self.encode(rows)
        return Reconstruction(sum(self.nfm.parts(codes).values()), codes)

    def loss(self, x_hat: Tensor, rows: Tensor) -> Tensor:
        """Mean squared error on the rows' x."""
        return train.mse(x_hat, rows[:, self.d_sae :])


def least_squares(
    inputs: Tensor,
    x: Tensor,
    test_inputs: Tensor,
    test_x: Tensor,
    given: tuple[Tensor, Tensor] | None = None,
) -> float:
    """FVU on test tokens of the affine map of the inputs that fits x best, in float64.

    `given` are parts of the reconstruction of x and of test_x that are there already; the map then
    fits what they leave.
    """
    known, test_known = (0.0, 0.0) if given is None else (given[0].double(), given[1].double())
    a, target = _affine(inputs), x.double() - known
    # gelsd: a dead feature is a column of zeros
    weights = torch.linalg.lstsq(a.T @ a, a.T @ target, driver="gelsd").solution
    return fvu(test_x, _affine(test_inputs) @ weights + test_known)


def _affine(inputs: Tensor) -> Tensor:
    return torch.cat([inputs, inputs.new_ones(len(inputs), 1)], 1).double()


def fvu(x: Float[Tensor, "n d_in"], x_hat: Float[Tensor, "n d_in"]) -> float:
    """Fraction of the variance of these tokens that a reconstruction leaves unexplained."""
    around = metrics.squared_error(x, x.mean(0).expand_as(x)).sum().item()
    return metrics.fvu(metrics.squared_error(x, x_hat).sum().item(), around)


def nearest(
    learned: Float[Tensor, "d_sae d_in"], true: Float[Tensor, "n_features d_in"]
) -> Float[Tensor, " n_features"]:
    """The largest cosine between each true direction, of length 1, and any learned one; a learned
    row of zeros counts as 0."""
    return (true @ normalize(learned.detach(), dim=1).T).max(1).values


def matched(
    learned: Float[Tensor, "d_sae d_in"], true: Float[Tensor, "n_features d_in"]
) -> tuple[Float[Tensor, " n_features"], Int64[Tensor, " n_features"]]:
    """One learned direction for each true one such that the cosines add up to the most: the
    cosines, and which."""
    cosine = true @ normalize(learned, dim=1).T
    rows, columns = linear_sum_assignment(cosine.numpy(), maximize=True)
    return cosine[rows, columns], torch.from_numpy(columns)


def bought(codes: Tensor, products: Tensor) -> float:
    """Share of the planted products, columns of (n, n_products), that correlate by more than 0.5
    with the code of some one feature, columns of (n, d_sae)."""
    n = products.shape[1]
    together = torch.corrcoef(torch.cat([products, codes], 1).T)[:n, n:]
    return (together.nan_to_num(0.0).amax(1) > 0.5).double().mean().item()


def pairs_found(nfm: NFM, codes: Codes, match: Tensor, world: World) -> dict:
    """How well the NFM's pairs are the planted ones, over all pairs of true features, feature i
    being the NFM's `match[i]`, each at its mean level where it fires.

    For the scores `difference` and `factors` the `pair_effects.agreement` with what is planted, as
    `auprc_*` and `recall_*`; of the pairs whose difference is at least `REPORTED` of a planted
    one's, how many are `reported` and how many of these `false`; `top`, the largest differences,
    each with whether it is planted.
    """
    every = torch.combinations(torch.arange(len(match), device=match.device))
    dense, pairs = codes.dense(len(nfm.V)), match[every]
    levels = dense.sum(0) / (dense > 0).sum(0).clamp(min=1)
    difference = pair_effects.alone(nfm, pairs, levels)
    factors = pair_effects.by_weights(nfm, pairs, levels, codes)
    truth = torch.zeros(len(match), len(match), dtype=torch.bool, device=match.device)
    if world.products.shape[-1] == 2:
        truth[tuple(world.products.T.to(match.device))] = True
    truth = truth[tuple(every.T)]
    row = {}
    if truth.any():
        for name, score in {"difference": difference, "factors": factors}.items():
            agreement = pair_effects.agreement(score.cpu(), truth.cpu())
            row[f"auprc_{name}"], row[f"recall_{name}"] = agreement
    reported = difference >= REPORTED * world.config.strength
    top = difference.sort(descending=True).indices[:TOP]
    row["top"] = list(zip(difference[top].tolist(), truth[top].tolist(), strict=True))
    return row | {"reported": int(reported.sum()), "false": int((reported & ~truth).sum())}
