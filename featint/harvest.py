"""Activations of the language model for a whole corpus, stored once: the slow step that every training shares."""

import os
import shutil
from pathlib import Path

import torch
from jaxtyping import Bool, Int
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from featint import activations, corpora, lm, store
from featint.config import HarvestConfig

SHARD_WINDOWS = 512


def windows(config: HarvestConfig) -> corpora.Corpus:
    """The corpus as windows of the language model's tokens; made on first use."""
    return corpora.windows(config.corpus, config.lm, lambda: lm.encoder(config.lm))


def harvest(config: HarvestConfig) -> store.Artefact:
    """Store the activations of all splits at the hook point; taken from the store if they are there. A killed harvest goes on where it was.

    Per split: shards of (n_windows, seq_len, d_model) float16 with all positions, and the origin of each token. `featint.activations` reads them.
    Raises ValueError for an unknown hook point or more windows than there are, StoreError if an activation does not fit into float16.
    """
    corpus = windows(config)
    wanted = {split: corpus.windows[split].first(getattr(config, f"{split}_windows")) for split in corpora.SPLITS}
    if store.exists(activations.KIND, config):
        return store.load(activations.KIND, config)
    dtype = lm.precision(config.dtype)
    model = lm.load(config.lm, dtype)
    lm.block_of(model, config.hook_point)
    partial = store.cache() / activations.KIND / f"partial-{store.key(config)}"
    meta = {"d_in": model.d_model, "dtype": dtype, "shards": {}}
    for split, part in wanted.items():
        meta["shards"][split] = [file.name for file in shards(model, config, part.tokens, partial, split)]
    with store.create(activations.KIND, config, meta) as draft:
        for name in sum(meta["shards"].values(), []):
            os.replace(partial / name, draft / name)
        sinks = {split: sinks_of(model, [draft / name for name in meta["shards"][split]], part.tokens) for split, part in wanted.items()}
        for split, part in wanted.items():
            origin = {"token": part.tokens, "article": part.article, "topic": part.topic} | {
                "position": torch.arange(config.corpus.seq_len).expand_as(part.tokens),
                "sink": sinks[split],
            }
            columns = {name: t.flatten().to(torch.int32 if t.dtype == torch.int64 else t.dtype) for name, t in origin.items()}
            store.write_bytes(draft / f"{split}-origin.safetensors", save(columns))
        found = statistics([draft / name for name in meta["shards"]["train"]], sinks["train"])
        store.write_bytes(draft / "statistics.safetensors", save(found))
        store.write_json(draft / "names.json", {"titles": corpus.titles, "topics": corpus.topics})
    shutil.rmtree(partial, ignore_errors=True)
    return store.load(activations.KIND, config)


def shards(model: lm.LanguageModel, config: HarvestConfig, tokens: Int[Tensor, "n_windows seq"], folder: Path, split: str) -> list[Path]:
    """Write one split's activations into a folder, a file per `SHARD_WINDOWS` windows; those that are there already stay."""
    parts = {folder / f"{split}-{i:05d}.safetensors": part for i, part in enumerate(tokens.split(SHARD_WINDOWS))}
    done = sum(len(part) for file, part in parts.items() if file.exists())
    with tqdm(total=len(tokens), initial=done, desc=f"harvest {split}", unit="window", disable=None) as bar:
        for file, part in parts.items():
            if file.exists():
                continue
            rows = []
            for batch in part.split(lm.BATCH_WINDOWS):
                rows.append(lm.read(model, batch, config.hook_point).x.half().cpu())
                if not rows[-1].isfinite().all():
                    raise store.StoreError(
                        f"activations at {config.hook_point} of {config.lm.name} do not fit into float16 (largest 65504)"
                    )
                bar.update(len(batch))
            store.write_bytes(file, save({"x": torch.cat(rows)}))
    return list(parts)


def sinks_of(model: lm.LanguageModel, files: list[Path], tokens: Int[Tensor, "n_windows seq"]) -> Bool[Tensor, "n_windows seq"]:
    """Where the attention sinks of stored activations are."""
    return torch.cat([model.sinks(part, load_file(file)["x"]) for file, part in zip(files, tokens.split(SHARD_WINDOWS), strict=True)])


def statistics(files: list[Path], sinks: Bool[Tensor, "n_windows seq"]) -> dict[str, Tensor]:
    """Mean and standard deviation per dimension, float64 sums: without the sinks (`drop`) and over all positions (`keep`)."""
    found = {}
    for first_position in ("drop", "keep"):
        n, total, squares = 0, 0.0, 0.0
        for file, sink in zip(files, sinks.split(SHARD_WINDOWS), strict=True):
            x = load_file(file)["x"]
            for part in (x if first_position == "keep" else x[~sink]).reshape(-1, x.shape[-1]).split(1 << 14):
                part = part.double()
                n, total, squares = n + len(part), total + part.sum(0), squares + part.square().sum(0)
        mean = total / n
        found |= {
            f"mean_{first_position}": mean.float(),
            f"std_{first_position}": (squares / n - mean.square()).clamp(min=0).sqrt().float(),
        }
    return found
