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
from featint.config import FIRST_POSITIONS, SPLITS, HarvestConfig

SHARD_WINDOWS = 512


def windows(config: HarvestConfig) -> corpora.Corpus:
    """The corpus as windows of the language model's tokens; made on first use."""
    return corpora.windows(config.corpus, config.lm, lambda: lm.encoder(config.lm))


def harvest(config: HarvestConfig, *more: HarvestConfig) -> store.Artefact:
    """Store the activations of all splits at the hook point; taken from the store if they are there. A killed harvest goes on where it was.

    Further configs of the same text and language model are read in the same pass, each with its own hook point and numbers of windows.
    Per split: shards of (n_windows, seq_len, d_model) float16 with all positions, and the origin of each token. `featint.activations` reads them.

    Raises ValueError for an unknown hook point, more windows than there are, or configs that cannot share a pass, StoreError if an activation does
    not fit into float16.
    """
    corpus = windows(config)
    wanted = {
        c: {split: corpus.windows[split].first(getattr(c, f"{split}_windows")) for split in SPLITS}
        for c in (config, *more)
    }
    if len(passes := dict.fromkeys((c.lm, c.corpus, c.dtype) for c in wanted)) > 1:
        raise ValueError(
            f"one pass reads one language model, corpus and precision; asked for {' and '.join(map(str, passes))}"
        )
    missing = {c: parts for c, parts in wanted.items() if not store.exists(activations.KIND, c)}
    if missing:
        dtype = lm.precision(config.dtype)
        model = lm.load(config.lm, dtype)
        for c in missing:
            lm.block_of(model, c.hook_point)
        shards = {
            split: write_shards(
                model, {c: parts[split].tokens for c, parts in missing.items()}, split
            )
            for split in SPLITS
        }
        for c, parts in missing.items():
            meta = {
                "d_in": model.d_model,
                "dtype": dtype,
                "shards": {split: shards[split][c] for split in SPLITS},
            }
            finish(model, c, parts, meta, corpus)
    return store.load(activations.KIND, config)


def partial(config: HarvestConfig) -> Path:
    """The folder of the shards of an unfinished harvest."""
    return store.cache() / activations.KIND / f"partial-{store.key(config)}"


def write_shards(
    model: lm.LanguageModel, wanted: dict[HarvestConfig, Int[Tensor, "n_windows seq"]], split: str
) -> dict[HarvestConfig, list[str]]:
    """Write one split's activations, for each config a file per `SHARD_WINDOWS` windows; those that are there already stay. Returns the files' names."""
    longest = max(wanted.values(), key=len)
    names = {
        c: [f"{split}-{i:05d}.safetensors" for i in range(-(-len(tokens) // SHARD_WINDOWS))]
        for c, tokens in wanted.items()
    }
    with tqdm(total=len(longest), desc=f"harvest {split}", unit="window", disable=None) as bar:
        for i, part in enumerate(longest.split(SHARD_WINDOWS)):
            # file -> (hook point, windows), of the files of this part that are lacking
            lacking = {
                partial(c) / names[c][i]: (
                    c.hook_point,
                    len(tokens[i * SHARD_WINDOWS :][:SHARD_WINDOWS]),
                )
                for c, tokens in wanted.items()
                if i < len(names[c]) and not (partial(c) / names[c][i]).exists()
            }
            if lacking:
                n = max(n for _, n in lacking.values())
                x = read_float16(
                    model, part[:n], {hook_point for hook_point, _ in lacking.values()}, bar
                )
                for file, (hook_point, n) in lacking.items():
                    store.write_bytes(file, save({"x": x[hook_point][:n].contiguous()}))
            else:
                bar.update(len(part))
    return names


def read_float16(
    model: lm.LanguageModel, tokens: Int[Tensor, "n_windows seq"], hook_points: set[str], bar: tqdm
) -> dict[str, Tensor]:
    """The activations at each hook point, (n_windows, seq, d_model) float16. Raises StoreError if one does not fit."""
    rows = {hook_point: [] for hook_point in hook_points}
    for batch in tokens.split(lm.BATCH_WINDOWS):
        for hook_point, x in lm.activations(model, batch, hook_points).items():
            rows[hook_point].append(x.half().cpu())
            if not rows[hook_point][-1].isfinite().all():
                raise store.StoreError(
                    f"activations at {hook_point} of {model.config.name} do not fit into float16 (largest 65504)"
                )
        bar.update(len(batch))
    return {hook_point: torch.cat(parts) for hook_point, parts in rows.items()}


def finish(
    model: lm.LanguageModel,
    config: HarvestConfig,
    parts: dict[str, corpora.Windows],
    meta: dict,
    corpus: corpora.Corpus,
) -> None:
    """Make the artefact of a config whose shards are all written."""
    with store.create(activations.KIND, config, meta) as draft:
        for name in sum(meta["shards"].values(), []):
            os.replace(partial(config) / name, draft / name)
        sinks = {
            split: sinks_of(model, [draft / name for name in meta["shards"][split]], part.tokens)
            for split, part in parts.items()
        }
        for split, part in parts.items():
            origin = {"token": part.tokens, "article": part.article, "topic": part.topic} | {
                "position": torch.arange(config.corpus.seq_len).expand_as(part.tokens),
                "sink": sinks[split],
            }
            columns = {
                name: t.flatten().to(torch.int32 if t.dtype == torch.int64 else t.dtype)
                for name, t in origin.items()
            }
            store.write_bytes(draft / f"{split}-origin.safetensors", save(columns))
        found = statistics([draft / name for name in meta["shards"]["train"]], sinks["train"])
        store.write_bytes(draft / "statistics.safetensors", save(found))
        store.write_json(draft / "names.json", {"titles": corpus.titles, "topics": corpus.topics})
    shutil.rmtree(partial(config), ignore_errors=True)


def sinks_of(
    model: lm.LanguageModel, files: list[Path], tokens: Int[Tensor, "n_windows seq"]
) -> Bool[Tensor, "n_windows seq"]:
    """Where the attention sinks of stored activations are."""
    return torch.cat(
        [
            model.sinks(part, load_file(file)["x"])
            for file, part in zip(files, tokens.split(SHARD_WINDOWS), strict=True)
        ]
    )


def statistics(files: list[Path], sinks: Bool[Tensor, "n_windows seq"]) -> dict[str, Tensor]:
    """Mean and standard deviation per dimension, float64 sums: without the sinks (`drop`) and over all positions (`keep`)."""
    found = {}
    for first_position in FIRST_POSITIONS:
        n, total, squares = 0, 0.0, 0.0
        for file, sink in zip(files, sinks.split(SHARD_WINDOWS), strict=True):
            x = load_file(file)["x"]
            for part in (
                (x if first_position == "keep" else x[~sink])
                .reshape(-1, x.shape[-1])
                .split(1 << 14)
            ):
                part = part.double()
                n, total, squares = (
                    n + len(part),
                    total + part.sum(0),
                    squares + part.square().sum(0),
                )
        mean = total / n
        found |= {
            f"mean_{first_position}": mean.float(),
            f"std_{first_position}": (squares / n - mean.square()).clamp(min=0).sqrt().float(),
        }
    return found
