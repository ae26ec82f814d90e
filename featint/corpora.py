"""Text as token windows: articles, split into train, validation and test, and packed."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from safetensors.torch import load_file, save
from torch import Tensor

from featint import assets, store
from featint.config import SPLITS, CorpusConfig, LMConfig, to_json

KIND = "windows"
PACKAGED = "wikipedia-summaries"


class Article(NamedTuple):
    """One document."""

    title: str
    topic: str
    text: str


class Windows(NamedTuple):
    """Token windows with the origin of each token."""

    tokens: Int[Tensor, "n_windows seq_len"]
    """Token ids. Position 0 holds the separator, so that no token of the text is the attention sink
    of the first position."""
    article: Int[Tensor, "n_windows seq_len"]
    """Row of `Corpus.titles`; a separator belongs to the article that follows it."""
    topic: Int[Tensor, "n_windows seq_len"]
    """Index into `Corpus.topics`."""

    def first(self, n: int | None) -> "Windows":
        """The first n windows; None keeps all. Raises ValueError if there are fewer."""
        if n is not None and n > len(self.tokens):
            raise ValueError(
                f"{n} windows were asked for, but the corpus has {len(self.tokens)} in this split; "
                "ask for fewer or use more text"
            )
        return Windows(*(t[:n] for t in self))


class Corpus(NamedTuple):
    """The windows of every split and the names behind their numbers."""

    windows: dict[str, Windows]
    """By split: train, validation, test."""
    titles: list[str]
    """Titles of the articles of all splits."""
    topics: list[str]
    """Topic labels."""
    separator: int
    """Token id between articles and at every window's start."""
    path: Path
    """Folder of the artefact."""


def source(config: CorpusConfig) -> Path:
    """The file of the articles.

    Raises ValueError if the corpus is neither the packaged one nor an existing file.
    """
    if config.name == PACKAGED:
        return assets.path(PACKAGED)
    file = Path(config.name)
    if not file.is_file():
        raise ValueError(
            f"corpus name = {config.name!r} is not known; allowed: {PACKAGED!r}, or the path of an "
            "existing JSON file"
        )
    return file


def articles(config: CorpusConfig) -> list[Article]:
    """All articles by title, without pages that open by saying what their name "may refer to".

    Spaces are made plain. Raises ValueError if the file is not JSON of the form
    {title: {"extract": text, "topic": label}} with text in it.
    """
    file = source(config)
    try:
        pages = json.loads(file.read_text(encoding="utf-8"))
        plain = str.maketrans("\u00a0\u202f", "  ")
        found = [
            Article(title, page["topic"], page["extract"].translate(plain).strip())
            for title, page in sorted(pages.items())
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise ValueError(
            f'{file} must be JSON of the form {{title: {{"extract": text, "topic": label}}}}; '
            f"reading it failed: {e!r}"
        ) from e
    found = [a for a in found if a.text and "may refer to" not in a.text[:200]]
    if not found:
        raise ValueError(f"{file} holds no article with text")
    return found


def split(found: Sequence[Article], config: CorpusConfig) -> dict[str, list[int]]:
    """Indices of the articles of each split, in shuffled order.

    Every topic gives the same share of its articles to each split. Raises ValueError if a split
    would be empty.
    """
    generator = np.random.default_rng(config.seed)
    members: dict[str, list[int]] = {name: [] for name in SPLITS}
    topics = np.array([a.topic for a in found])
    for topic in sorted(set(topics.tolist())):
        rows = generator.permutation(np.flatnonzero(topics == topic))
        shares = (config.test_fraction, config.validation_fraction)
        held_out = np.cumsum([round(share * len(rows)) for share in shares])
        test, validation, train = np.split(rows, held_out)
        for name, part in zip(SPLITS, (train, validation, test), strict=True):
            members[name] += part.tolist()
    if empty := [name for name in SPLITS if not members[name]]:
        raise ValueError(
            f"{len(found)} articles leave the split {empty[0]!r} empty; use more articles or a "
            f"larger {empty[0]}_fraction"
        )
    return {name: generator.permutation(part).tolist() for name, part in members.items()}


def pack(
    rows: Sequence[int],
    encoded: Sequence[Sequence[int]],
    topic_of: Sequence[int],
    separator: int,
    seq_len: int,
) -> Windows:
    """Join articles by the separator and cut the stream into windows.

    A window is the separator and `seq_len - 1` tokens of the stream; the incomplete last one is
    dropped. `rows` are the articles in the order in which they are packed, as indices into
    `encoded`, each one's token ids, and `topic_of`. Raises ValueError if not one window is full.
    """
    stream = [np.asarray([separator, *encoded[row]], dtype=np.int64) for row in rows]
    tokens = np.concatenate(stream)[1:]
    article = np.repeat(np.asarray(rows, dtype=np.int64), list(map(len, stream)))[1:]
    n, width = len(tokens) // (seq_len - 1), seq_len - 1
    if n == 0:
        raise ValueError(
            f"{len(tokens)} tokens do not fill one window of seq_len = {seq_len}; use more text or "
            "shorter windows"
        )
    tokens, article = tokens[: n * width].reshape(n, width), article[: n * width].reshape(n, width)
    tokens = np.concatenate([np.full((n, 1), separator), tokens], axis=1)
    article = np.concatenate([article[:, :1], article], axis=1)
    return Windows(*map(torch.from_numpy, (tokens, article, np.asarray(topic_of)[article])))


def identity(config: CorpusConfig, lm: LMConfig) -> dict:
    """What the windows depend on: text, split, window length and tokenizer."""
    return {"corpus": to_json(config), "lm": to_json(lm)}


def windows(
    config: CorpusConfig, lm: LMConfig, tokenizer: Callable[[], tuple[Callable, int]]
) -> Corpus:
    """The corpus as windows; taken from the store, or made and put there.

    `tokenizer` gives a function from texts to lists of token ids, and the separator's id; it is
    called only if the windows have to be made. Raises StoreError if a corpus file has changed
    since they were.
    """
    config_of = identity(config, lm)
    if not store.exists(KIND, config_of):
        make(config, lm, *tokenizer())
    artefact = store.load(KIND, config_of)
    if config.name != PACKAGED:
        file = source(config)
        if store.sha256(file, file.stat().st_mtime_ns) != artefact.meta["sha256"]:
            raise store.StoreError(
                f"{file} has changed since {artefact.path} was made from it; "
                "save the new text under another name"
            )
    tensors = load_file(artefact.file("windows.safetensors"))
    names = json.loads(artefact.file("names.json").read_text(encoding="utf-8"))
    by_split = {
        name: Windows(*(tensors[f"{name}/{field}"].long() for field in Windows._fields))
        for name in SPLITS
    }
    return Corpus(
        by_split, names["titles"], names["topics"], artefact.meta["separator"], artefact.path
    )


def make(
    config: CorpusConfig,
    lm: LMConfig,
    encode: Callable[[list[str]], list[list[int]]],
    separator: int,
) -> None:
    """Cut the corpus into windows and store them."""
    found = articles(config)
    print(f"cutting {len(found):,} articles into windows of {config.seq_len} tokens", flush=True)
    encoded = encode([a.text for a in found])
    topics = sorted({a.topic for a in found})
    topic_of = [topics.index(a.topic) for a in found]
    tensors, meta = {}, {"separator": separator}
    for name, rows in split(found, config).items():
        packed = pack(rows, encoded, topic_of, separator, config.seq_len)
        tensors |= {f"{name}/{field}": getattr(packed, field).int() for field in Windows._fields}
        meta[name] = {
            "articles": len(rows),
            "windows": len(packed.tokens),
            "tokens": int((packed.tokens != separator).sum()),
        }
    file = source(config)
    meta["sha256"] = store.sha256(file, file.stat().st_mtime_ns)
    with store.create(KIND, identity(config, lm), meta, seed=config.seed) as folder:
        store.write_bytes(folder / "windows.safetensors", save(tensors))
        store.write_json(
            folder / "names.json", {"titles": [a.title for a in found], "topics": topics}
        )
