"""How well trained models reconstruct activations: squared errors of each model and path, summed
per article.

Every metric of reconstruction is a ratio of such sums, and an interval over articles needs no more.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from featint import activations, runs, store
from featint.config import ModelConfig
from featint.metrics import squared_error

PATHS = {
    "own_path": ("sae_out",),
    "plus_linear": ("sae_out", "linear_out"),
    "plus_interaction": ("sae_out", "interaction_out"),
    "all": ("sae_out", "linear_out", "interaction_out"),
}
"""Reconstructions that a model's parts make up; a part that a model lacks counts as nothing."""
KIND = "reconstruction"
LEVELS, SHARED = ["measure", "model", "part"], ["tokens", "sst"]


def paths(models: Mapping[str, nn.Module]) -> Callable[[Tensor], dict[tuple, Tensor]]:
    """For `by_article`: what each model makes of x (batch, d_in).

    `(model, path)` is the reconstruction by each subset of parts in `PATHS`, `("abs", model, part)`
    the mean |output| of an NFM path over the dimensions, `("l0", model, "")` the number of active
    features.
    """

    def reconstruct(x: Tensor) -> dict[tuple, Tensor]:
        found = {}
        for name, model in models.items():
            codes = model.encode(x)
            parts = model.parts(codes)
            present = {path: tuple(p for p in PATHS[path] if p in parts) for path in PATHS}
            x_hat = {subset: sum(parts[p] for p in subset) for subset in set(present.values())}
            found |= {(name, path): x_hat[subset] for path, subset in present.items()}
            found |= {("abs", name, p): parts[p].abs().mean(1) for p in parts if p != "sae_out"}
            found["l0", name, ""] = (codes.acts > 0).sum(1)
        return found

    return reconstruct


@torch.no_grad()
def by_article(
    reconstruct: Callable[[Tensor], Mapping[tuple, Tensor]],
    batches: Sequence[Float[Tensor, "_ d_in"]],
    article: Int[Tensor, " n"],
) -> pd.DataFrame:
    """Sums per article from which every metric of reconstruction follows.

    `reconstruct` takes x (batch, d_in) to tensors: (batch, d_in) under `(model, part)` is a
    reconstruction of x, (batch,) under `(measure, model, part)` is anything to be summed.
    `batches` hold x in consecutive pieces, read twice, first for the mean; `article` (n,) says to
    which article each of their rows belongs.

    Returns a frame indexed by article with the column levels `LEVELS`: `tokens` and `sst`, squared
    distances from the mean of all rows, have no model; `("sse", model, part)` are squared errors.

    Raises ValueError if `article` has another length than the batches, or for NaN and infinity.
    """
    n = sum(map(len, batches))
    if n != len(article):
        raise ValueError(f"the batches have {n} rows, but article has {len(article)}")
    mean = sum(x.double().sum(0) for x in batches) / n
    rows: dict[tuple, list[Tensor]] = {}
    for x in batches:
        rows.setdefault(("tokens", "", ""), []).append(torch.ones(len(x)))
        rows.setdefault(("sst", "", ""), []).append(squared_error(x, mean.expand_as(x)))
        errors: dict[int, Tensor] = {}  # a tensor that comes under several names is measured once
        for key, value in reconstruct(x).items():
            if value.ndim == 2:
                if id(value) not in errors:
                    errors[id(value)] = squared_error(x, value)
                key, value = ("sse", *key), errors[id(value)]
            if not value.isfinite().all():  # an error is finite only if all of its x_hat is
                raise ValueError(f"{key} holds NaN or infinity; the model that made it is broken")
            rows.setdefault(key, []).append(value)
    columns = {key: torch.cat(values).double().cpu().numpy() for key, values in rows.items()}
    table = pd.DataFrame(columns, index=pd.Index(np.asarray(article), name="article"))
    return table.rename_axis(columns=LEVELS).groupby(level="article").sum()


def sums(models: Mapping[str, ModelConfig], split: str = "test") -> pd.DataFrame:
    """`by_article` of `paths` on a whole split, for models by name, each measured once and stored.

    A model that the store lacks is trained. Each meets the activations that it was trained on: the
    same hook point, statistics, and first positions dropped or kept.

    Raises ValueError if `models` is empty or they do not all read the same activations, so that
    their errors could not be compared token by token.
    """
    sites = {(config.harvest, config.train.first_position) for config in models.values()}
    if len(sites) != 1:
        seen = sorted(f"{site.hook_point} (first positions: {first})" for site, first in sites)
        raise ValueError(
            "models that read one set of activations can be compared token by token; "
            f"asked for {len(sites)}: {', '.join(seen) or 'none'}"
        )
    tables = {name: _stored(config, split) for name, config in models.items()}
    own = [
        table.drop(columns=SHARED, level="measure").rename(columns={"": name}, level="model")
        for name, table in tables.items()
    ]
    return pd.concat([next(iter(tables.values()))[SHARED], *own], axis=1)


def _stored(config: ModelConfig, split: str) -> pd.DataFrame:
    """The sums of one model, without a name; measured, if the store lacks them."""
    trained = runs.get(config)
    key = {"weights": trained.sha256, "split": split}
    if not store.exists(KIND, key):
        acts = activations.load(config.harvest, split, config.train.first_position)
        table = by_article(paths({"": trained.model}), acts.pieces(), acts.article)
        with store.create(KIND, key, seed=config.train.seed) as folder:
            columns = {"|".join(c): torch.tensor(table[c].to_numpy()) for c in table}
            columns["article"] = torch.tensor(table.index)
            save_file(columns, folder / "sums.safetensors")
    columns = load_file(store.load(KIND, key).file("sums.safetensors"))
    index = pd.Index(columns.pop("article").numpy(), name="article")
    values = {tuple(column.split("|")): sums.numpy() for column, sums in columns.items()}
    return pd.DataFrame(values, index=index).rename_axis(columns=LEVELS)
