"""Harvested activations as rows: memory-mapped, z-scored, in reproducible random order."""

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor

from featint import store
from featint.config import FIRST_POSITIONS, SPLITS, HarvestConfig, TrainConfig, choose


def normalise(
    x: Float[Tensor, "*batch d"], mean: Float[Tensor, " d"], std: Float[Tensor, " d"]
) -> Float[Tensor, "*batch d"]:
    """(x - mean) / std per dimension, on the device and in the precision of x."""
    return (x - mean.to(x)) / std.to(x)


def denormalise(
    z: Float[Tensor, "*batch d"], mean: Float[Tensor, " d"], std: Float[Tensor, " d"]
) -> Float[Tensor, "*batch d"]:
    """z * std + mean per dimension: the inverse of `normalise`."""
    return z * std.to(z) + mean.to(z)


class Batches(Sequence):
    """`n` batches of rows, (batch, d) each, made when they are asked for.

    `make(step)` must give the same batch at every call, so that a killed training can go on.
    Raises IndexError for a step beyond the last.
    """

    def __init__(self, n: int, make: Callable[[int], Tensor]):
        self.n, self.make = n, make

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, step: int) -> Float[Tensor, "batch d"]:
        if not 0 <= step < self.n:
            raise IndexError(f"step {step} is not among the {self.n} batches")
        return self.make(step)

    def map(self, function: Callable[[Tensor], Tensor]) -> "Batches":
        """The batches with a function applied to each."""
        return Batches(self.n, lambda step: function(self.make(step)))


@dataclass(frozen=True)
class Activations:
    """The activations of one split.

    A row is a token; attention sinks are left out unless asked for.
    """

    config: HarvestConfig
    first_position: str
    """`drop`: the attention sinks (windows' first positions, separators, tokens with as large a
    norm, see `lm.LanguageModel.sinks`) are not among the rows. `keep`: they are."""
    shards: tuple[Tensor, ...]
    """Memory-mapped, each (n, d_in), float16 or, if too large, what held them: all positions, of
    which `where` picks the rows."""
    starts: Int[Tensor, " n_shards"]
    """Position in the whole split at which each shard begins."""
    where: Int[Tensor, " n"]
    """Position of each row in the whole split."""
    mean: Float[Tensor, " d_in"]
    """Of the training split, with or without sinks as in `first_position`."""
    std: Float[Tensor, " d_in"]
    """As `mean`; 1 where a dimension is constant."""
    token: Int[Tensor, " n"]
    """Token id of each row."""
    article: Int[Tensor, " n"]
    """Row of `titles`."""
    topic: Int[Tensor, " n"]
    """Index into `topics`."""
    position: Int[Tensor, " n"]
    """Position in the window, from 0."""
    titles: list[str]
    topics: list[str]

    def __len__(self) -> int:
        return len(self.where)

    @property
    def d_in(self) -> int:
        return len(self.mean)

    def raw(self, index: Int[Tensor, " n"]) -> Float[Tensor, "n d_in"]:
        """The rows of these numbers as stored: float16 unless shards are of a wider type."""
        where = self.where[index].to(self.shards[0].device)
        if len(self.shards) == 1:
            return self.shards[0][where]
        shard = torch.bucketize(where, self.starts.to(where.device), right=True) - 1
        order = torch.argsort(shard)
        parts = where[order].split(torch.bincount(shard, minlength=len(self.shards)).tolist())
        rows = [self.shards[i][part - self.starts[i]] for i, part in enumerate(parts)]
        x = torch.empty_like(found := torch.cat(rows))  # of the widest of their types
        x[order] = found
        return x

    def rows(self, index: Int[Tensor, " n"]) -> Float[Tensor, "n d_in"]:
        """The rows of these numbers, normalised, float32."""
        return self.normalise(self.raw(index).float())

    def pieces(self, n: int = 4096) -> Batches:
        """All rows in order, normalised, float32, `n` at a time, on `store.device()`."""

        def piece(i: int) -> Tensor:
            index = torch.arange(i * n, min((i + 1) * n, len(self)))
            return self.rows(index).to(store.device())

        return Batches(-(-len(self) // n), piece)

    def batches(self, how: TrainConfig) -> Batches:
        """Random batches for training, (batch_tokens, d_in), normalised, on `store.device()`.

        Every pass is a new permutation of all rows; with `chunk_tokens`, of one chunk of so many
        consecutive rows, `chunk_passes` times, then of the next (after the last whole one, the
        first). A CUDA device gathers them itself if the activations take no more than half of its
        free memory. Raises ValueError if there are no rows.
        """
        if len(self) == 0:
            raise ValueError("there are no activations to draw batches from")
        device, source = store.device(), self
        if (
            device == "cuda"
            and 2 * sum(s.nbytes for s in self.shards) < torch.cuda.mem_get_info()[0]
        ):
            source = replace(self, shards=tuple(shard.to(device) for shard in self.shards))
        n = min(how.chunk_tokens or len(self), len(self))

        @functools.lru_cache(maxsize=2)  # a batch may reach over the end of a pass
        def order(number: int) -> Tensor:
            return torch.from_numpy(np.random.default_rng([how.seed, number]).permutation(n))

        @functools.lru_cache(maxsize=2)
        def chunk(i: int) -> Activations:
            if how.chunk_tokens is None:
                return source
            part = source.subset(torch.arange(n) + i % (len(self) // n) * n)
            std, mean = torch.std_mean(part.raw(torch.arange(n)).float(), 0, correction=0)
            return replace(part, mean=mean, std=torch.where(std > 0, std, 1.0))

        def batch(step: int) -> Tensor:
            passes, row = np.divmod(np.arange(how.batch_tokens) + step * how.batch_tokens, n)
            parts = [
                chunk(i // how.chunk_passes).rows(order(i)[row[passes == i]])
                for i in np.unique(passes).tolist()
            ]
            return torch.cat(parts).to(device)

        return Batches(how.n_steps, batch)

    def subset(self, index: Int[Tensor, " m"]) -> "Activations":
        """The activations of these rows only, in this order."""
        labels = ("where", "token", "article", "topic", "position")
        return replace(self, **{name: getattr(self, name)[index] for name in labels})

    def split_tokens(self, share: float, seed: int) -> tuple["Activations", "Activations"]:
        """Part the rows at random, token by token, into 1 - `share` and `share` of them.

        This is how the released code makes its validation set. Neighbours in a window fall on both
        sides, so that it is no held-out text.
        """
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        cut = round(len(self) * share)
        return self.subset(order[cut:].sort().values), self.subset(order[:cut].sort().values)

    def normalise(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """Raw activations as z-scores of the training split."""
        return normalise(x, self.mean, self.std)

    def denormalise(self, z: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """The inverse of `normalise`."""
        return denormalise(z, self.mean, self.std)


def load(config: HarvestConfig, split: str, first_position: str = "drop") -> Activations:
    """Open the harvested activations of a split: train, validation or test.

    `first_position="drop"` leaves out all attention sinks, `"keep"` none; mean and standard
    deviation are the training split's, with or without sinks alike. What the store lacks is
    harvested on the spot. Raises StoreError if a file is damaged, ValueError for an unknown split.
    """
    choose("split", split, SPLITS)
    choose("first_position", first_position, FIRST_POSITIONS)
    if not store.exists("activations", config):
        from featint import harvest  # only here: it waits for the language model's library

        harvest.harvest(config)
    artefact = store.load("activations", config)
    shards = tuple(
        load_file(artefact.file(name))["x"].flatten(0, 1) for name in artefact.meta["shards"][split]
    )
    origin = load_file(artefact.file(f"{split}-origin.safetensors"))
    where = (~origin["sink"] | (first_position == "keep")).nonzero().squeeze(1)
    statistics = load_file(artefact.file("statistics.safetensors"))
    mean, std = statistics[f"mean_{first_position}"], statistics[f"std_{first_position}"]
    names = json.loads(artefact.file("names.json").read_text(encoding="utf-8"))
    return Activations(
        config,
        first_position,
        shards,
        torch.tensor([0, *map(len, shards)][:-1]).cumsum(0),
        where,
        mean,
        torch.where(std > 0, std, 1.0),
        **{name: origin[name][where].long() for name in ("token", "article", "topic", "position")},
        **names,
    )
