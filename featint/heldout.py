"""Errors of trained models on held-out text, measured once per model and stored: all chapters read the same sums."""

from collections.abc import Mapping

import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from featint import activations, metrics, runs, store
from featint.config import ModelConfig

KIND = "heldout"
NAME = "model"  # in the stored columns; readers see the name that they asked for


def sums(models: Mapping[str, ModelConfig], split: str = "test") -> pd.DataFrame:
    """`metrics.by_article` of `metrics.paths` on a whole split, for models by name; measures, and trains, what the store lacks.

    Each model meets the activations that it was trained on: the same hook point, statistics, and first positions dropped or kept.
    Raises ValueError if `models` is empty or they do not all read the same activations, so that their errors could not be compared token by token.
    """
    sites = {(config.harvest, config.train.first_position) for config in models.values()}
    if len(sites) != 1:
        found = (
            ", ".join(
                sorted(f"{site.hook_point} (first positions: {first})" for site, first in sites)
            )
            or "none"
        )
        raise ValueError(
            f"models that read one set of activations can be compared token by token; asked for {len(sites)}: {found}"
        )
    tables = {name: _stored(config, split) for name, config in models.items()}
    shared = next(iter(tables.values()))[["tokens", "sst"]]
    return shared.join(
        [
            table.drop(columns=["tokens", "sst"]).rename(
                columns=lambda c, n=name: c.replace(NAME, n, 1)
            )
            for name, table in tables.items()
        ]
    )


def _stored(config: ModelConfig, split: str) -> pd.DataFrame:
    """The sums of one model, called `NAME`."""
    trained = runs.get(config)
    key = {"weights": trained.sha256, "split": split}
    if not store.exists(KIND, key):
        acts = activations.load(config.harvest, split, config.train.first_position)
        table = metrics.by_article(
            metrics.paths({NAME: trained.model}), acts.pieces(), acts.article
        )
        with store.create(KIND, key, seed=config.train.seed) as folder:
            columns = {
                "article": torch.tensor(table.index),
                **{name: torch.tensor(table[name].to_numpy()) for name in table},
            }
            save_file(columns, folder / "sums.safetensors")
    columns = {
        name: values.numpy()
        for name, values in load_file(store.load(KIND, key).file("sums.safetensors")).items()
    }
    return pd.DataFrame(columns).set_index("article")
