"""Activations of the language model for a whole corpus, stored once for all trainings."""

from pathlib import Path

import torch
from jaxtyping import Bool, Int
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from featint import corpora, lm, store
from featint.config import FIRST_POSITIONS, SPLITS, HarvestConfig

KIND = "activations"
SHARD_WINDOWS = 512


def windows(config: HarvestConfig) -> corpora.Corpus:
    """The corpus as windows of the language model's tokens; made on first use."""
    return corpora.windows(config.corpus, config.lm, lambda: lm.encoder(config.lm))


def harvest(config: HarvestConfig, *more: HarvestConfig) -> store.Artefact:
    """Store the activations of all splits at the hook point; taken from the store if they are
    there.

    A killed harvest goes on where it was; of two at once on one cache, one waits for the other.

    Further configs of the same text and language model are read in the same pass, each with its own
    hook point and numbers of windows. Per split: shards of (n_windows, seq_len, d_model) with all
    positions, float16 where that holds them, and the origin of each token. `featint.activations`
    reads them.

    Raises ValueError for an unknown hook point, more or longer windows than there may be, or
    configs that cannot share a pass, StoreError if an activation is not finite.
    """
    wanted = dict.fromkeys((config, *more))
    if len(passes := dict.fromkeys((c.lm, c.corpus, c.dtype) for c in wanted)) > 1:
        asked = " and ".join(map(str, passes))
        raise ValueError(f"one pass reads one language model, corpus and precision, not {asked}")
    if not all(store.exists(KIND, c) for c in wanted):
        with store.alone("harvest"):
            if missing := [c for c in wanted if not store.exists(KIND, c)]:
                read(missing)
    return store.load(KIND, config)


def read(configs: list[HarvestConfig]) -> None:
    """Make the artefacts of configs that share a pass; says beforehand how many tokens it reads."""
    dtype = lm.precision(configs[0].dtype)
    model = lm.load(configs[0].lm, dtype)
    for c in configs:
        lm.block_of(model, c.hook_point)
        model.check_length(c.corpus.seq_len)
        if store.path(KIND, c).exists() and not partial(c).exists():  # a flow took its manifest
            store.path(KIND, c).rename(partial(c))
    corpus, shards = windows(configs[0]), {}
    missing = {
        c: {split: corpus.windows[split].first(getattr(c, f"{split}_windows")) for split in SPLITS}
        for c in configs
    }
    n = sum(max(parts[split].tokens.numel() for parts in missing.values()) for split in SPLITS)
    places = ", ".join(dict.fromkeys(c.hook_point for c in configs))
    print(f"reading {n:,} tokens at {places} of {model.config.name}, in {dtype}", flush=True)
    for split in SPLITS:
        tokens = {c: parts[split].tokens for c, parts in missing.items()}
        shards[split] = write_shards(model, tokens, split)
    for c, parts in missing.items():
        files = {split: shards[split][c] for split in SPLITS}
        meta = {"d_in": model.d_model, "dtype": dtype, "shards": files}
        finish(model, c, parts, meta, corpus)


def partial(config: HarvestConfig) -> Path:
    """The folder of the shards of an unfinished harvest."""
    return store.cache() / KIND / f"partial-{store.key(config)}"


def write_shards(
    model: lm.LanguageModel, wanted: dict[HarvestConfig, Int[Tensor, "n_windows seq"]], split: str
) -> dict[HarvestConfig, list[str]]:
    """Write one split's activations, a file per `SHARD_WINDOWS` windows, and return their names.

    Files that are there already stay.
    """
    longest = max(wanted.values(), key=len)
    names = {
        c: [f"{split}-{i:05d}.safetensors" for i in range(-(-len(tokens) // SHARD_WINDOWS))]
        for c, tokens in wanted.items()
    }
    with tqdm(total=len(longest), desc=f"harvest {split}", unit="window", mininterval=1) as bar:
        for i, part in enumerate(longest.split(SHARD_WINDOWS)):
            # file -> (hook point, windows), of the files of this part that are lacking
            lacking = {}
            for c, tokens in wanted.items():
                if i < len(names[c]) and not (file := partial(c) / names[c][i]).exists():
                    lacking[file] = c.hook_point, len(tokens[i * SHARD_WINDOWS :][:SHARD_WINDOWS])
            if lacking:
                hook_points, lengths = zip(*lacking.values(), strict=True)
                x = read_rows(model, part[: max(lengths)], set(hook_points), bar)
                for file, (hook_point, n) in lacking.items():
                    store.write_bytes(file, save({"x": x[hook_point][:n].contiguous()}))
            else:
                bar.update(len(part))
    return names


def read_rows(
    model: lm.LanguageModel, tokens: Int[Tensor, "n_windows seq"], hook_points: set[str], bar: tqdm
) -> dict[str, Tensor]:
    """The activations at each hook point, (n_windows, seq, d_model): float16, or in the model's
    precision, or float32, if float16 would not hold them.

    Raises StoreError for one that is not finite.
    """
    rows = {hook_point: [] for hook_point in hook_points}
    for batch in tokens.split(lm.BATCH_WINDOWS):
        for hook_point, x in lm.activations(model, batch, hook_points).items():
            if len(wrong := (~x.isfinite()).nonzero()):
                window, token, at = wrong[0].tolist()
                raise store.StoreError(
                    f"{bar.desc}: {model.config.name} gives {x[window, token, at].item()} at "
                    f"{hook_point} in window {bar.n + window}, token {token}: its weights are "
                    f"damaged, or too large for {x.dtype} (dtype = 'float32')"
                )
            half = x.half()
            rows[hook_point].append((half if half.isfinite().all() else x).cpu())
        bar.update(len(batch))
    return {hook_point: torch.cat(parts) for hook_point, parts in rows.items()}


def finish(
    model: lm.LanguageModel,
    config: HarvestConfig,
    parts: dict[str, corpora.Windows],
    meta: dict,
    corpus: corpora.Corpus,
) -> None:
    """Make the artefact of a config whose shards are all written; if that fails, they stay."""
    with store.create(KIND, config, meta, draft=partial(config)) as draft:
        for split, part in parts.items():
            files = [draft / name for name in meta["shards"][split]]
            pairs = zip(files, part.tokens.split(SHARD_WINDOWS), strict=True)
            sinks = torch.cat([model.sinks(t, load_file(file)["x"]) for file, t in pairs])
            position = torch.arange(config.corpus.seq_len).expand_as(part.tokens)
            origin = {"token": part.tokens, "article": part.article, "topic": part.topic}
            origin = {name: t.int() for name, t in (origin | {"position": position}).items()}
            columns = {name: t.flatten() for name, t in (origin | {"sink": sinks}).items()}
            store.write_bytes(draft / f"{split}-origin.safetensors", save(columns))
            if split == "train":
                store.write_bytes(draft / "statistics.safetensors", save(statistics(files, sinks)))
        store.write_json(draft / "names.json", {"titles": corpus.titles, "topics": corpus.topics})


def statistics(files: list[Path], sinks: Bool[Tensor, "n_windows seq"]) -> dict[str, Tensor]:
    """Mean and standard deviation per dimension, (d_in,) each, from sums in float64.

    Keys: `mean_drop` and `std_drop`, without the attention sinks, and `mean_keep` and `std_keep`,
    over all positions.
    """
    found = {}
    for first_position in FIRST_POSITIONS:
        n, total, squares = 0, 0.0, 0.0
        for file, sink in zip(files, sinks.split(SHARD_WINDOWS), strict=True):
            x = load_file(file)["x"]
            rows = x.flatten(0, 1) if first_position == "keep" else x[~sink]
            for part in rows.split(1 << 14):
                part = part.double()
                n += len(part)
                total, squares = total + part.sum(0), squares + part.square().sum(0)
        mean, std = total / n, (squares / n - (total / n).square()).clamp(min=0).sqrt()
        found |= {f"mean_{first_position}": mean.float(), f"std_{first_position}": std.float()}
    return found
