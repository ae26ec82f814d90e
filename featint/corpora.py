"""Text as token windows: articles, split into train, validation and test, and packed."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import torch
from jaxtyping import Int
from safetensors.torch import load_file, save
from torch import Tensor

from featint import assets, store
from featint.config import SPLITS, CorpusConfig, LMConfig, to_json

KIND = "windows"
PACKAGED = "wikipedia-summaries"
NO_TOPIC = "Uncategorized"
PLAIN = str.maketrans("\u00a0\u202f", "  ")
TABLE = 'a table with a column "text" and, if you like, "title" and "topic"'
FORMATS = {
    ".json": 'JSON of the form {title: {"text": text, "topic": label}}',
    ".txt": "text",
} | dict.fromkeys((".jsonl", ".csv", ".parquet"), TABLE)
"""What a file of text holds, by the end of its name."""
# names of columns that are understood, too
NAMES = {"extract": "text", "content": "text", "label": "topic", "category": "topic"}


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
            has = f"the corpus has {len(self.tokens)} in this split; ask for fewer or use more text"
            raise ValueError(f"{n} windows were asked for, but {has}")
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


def files(config: CorpusConfig) -> list[Path]:
    """The files of the text, sorted. Raises ValueError if the corpus is neither the packaged one
    nor a file, or a folder of files, of a format in `FORMATS`."""
    place = assets.path(PACKAGED) if config.name == PACKAGED else Path(config.name)
    found = sorted(place.rglob("*")) if place.is_dir() else [place]
    if found := [file for file in found if file.suffix in FORMATS and file.is_file()]:
        return found
    raise ValueError(
        f"corpus name = {config.name!r} is not known; allowed: {PACKAGED!r}, or the path of an "
        f"existing file, or of a folder of files, that end in {', '.join(FORMATS)}"
    )


def fingerprint(config: CorpusConfig) -> str:
    """The sha256 of the text's file; of several files a key of theirs."""
    found = {str(file): store.sha256(file, file.stat().st_mtime_ns) for file in files(config)}
    return store.key(found) if len(found) > 1 else found.popitem()[1]


def documents(file: Path, alone: bool) -> Iterator[dict]:
    """The documents of a file, by the names of their columns, one after the other. A text file is
    one document, but one that is `alone` has one in each paragraph."""
    if file.suffix == ".json":
        pages = json.loads(file.read_text(encoding="utf-8-sig"))
        yield from ({"title": title, **page} for title, page in sorted(pages.items()))
    elif file.suffix == ".txt":
        text = file.read_text(encoding="utf-8-sig")
        yield from ({"text": part} for part in (text.split("\n\n") if alone else [text]))
    else:
        kind = {".jsonl": "json"}.get(file.suffix, file.suffix[1:])
        yield from datasets.load_dataset(kind, data_files=str(file), split="train", streaming=True)


def articles(config: CorpusConfig) -> list[Article]:
    """All documents that hold text, those of a JSON file by title, without pages that open by
    saying what their name "may refer to".

    Spaces are made plain. Raises ValueError for a file that is not as `FORMATS` says, or holds what
    is not Unicode, and if there is no text at all.
    """
    found, among = [], files(config)
    for file in among:
        n, title = 0, file.stem
        try:
            rows = list(documents(file, len(among) == 1))  # to the end, which closes the file
            for n, row in enumerate(rows, 1):
                row = {NAMES.get(name, name): value for name, value in row.items()}
                title = str(row.get("title", f"{file.stem} {n}" if n > 1 else file.stem))
                text = (row["text"] or "").translate(PLAIN).strip()
                (title + text).encode()  # a lone surrogate is refused here
                topic = row.get("topic")
                found.append(Article(title, NO_TOPIC if topic is None else str(topic), text))
        except Exception as e:
            said = f"{type(e).__name__}: {e}".splitlines()[0][:200]
            raise ValueError(
                f"{file} must be {FORMATS[file.suffix]}, in UTF-8; reading it failed at or after "
                f"document {n} ({title[:60]!r}): {said}"
            ) from e
    found = [a for a in found if a.text and "may refer to" not in a.text[:200]]
    if not found:
        raise ValueError(f"{config.name} holds no article with text")
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
        remedy = f"use more articles or a larger {empty[0]}_fraction"
        raise ValueError(f"{len(found)} articles leave the split {empty[0]!r} empty; {remedy}")
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
        few = f"{len(tokens)} tokens do not fill one window of seq_len = {seq_len}"
        raise ValueError(f"{few}; use more text or shorter windows")
    tokens, article = tokens[: n * width].reshape(n, width), article[: n * width].reshape(n, width)
    tokens = np.concatenate([np.full((n, 1), separator), tokens], axis=1)
    article = np.concatenate([article[:, :1], article], axis=1)
    return Windows(*map(torch.from_numpy, (tokens, article, np.asarray(topic_of)[article])))


def windows(
    config: CorpusConfig, lm: LMConfig, tokenizer: Callable[[], tuple[Callable, int]]
) -> Corpus:
    """The corpus as windows; taken from the store, or made and put there.

    `tokenizer` gives a function from texts to lists of token ids, and the separator's id; it is
    called only if the windows have to be made. Raises StoreError if a corpus file has changed
    since they were.
    """
    identity = {"corpus": to_json(config), "lm": to_json(lm)}
    if not store.exists(KIND, identity):
        make(identity, config, *tokenizer())
    artefact = store.load(KIND, identity)
    if config.name != PACKAGED and fingerprint(config) != artefact.meta["sha256"]:
        said = f"{config.name} has changed since {artefact.path} was made from it"
        raise store.StoreError(f"{said}; save the new text under another name")
    tensors = load_file(artefact.file("windows.safetensors"))
    names = json.loads(artefact.file("names.json").read_text(encoding="utf-8"))
    by_split = {
        name: Windows(*(tensors[f"{name}/{field}"].long() for field in Windows._fields))
        for name in SPLITS
    }
    return Corpus(by_split, **names, separator=artefact.meta["separator"], path=artefact.path)


def make(identity: dict, config: CorpusConfig, encode: Callable, separator: int) -> None:
    """Cut the corpus into windows and store them under what they depend on."""
    found = articles(config)
    print(f"cutting {len(found):,} articles into windows of {config.seq_len} tokens", flush=True)
    encoded = encode([a.text for a in found])
    topics = sorted({a.topic for a in found})
    topic_of = [topics.index(a.topic) for a in found]
    tensors = {}
    for name, rows in split(found, config).items():
        packed = pack(rows, encoded, topic_of, separator, config.seq_len)
        tensors |= {f"{name}/{field}": getattr(packed, field).int() for field in Windows._fields}
    meta = {"separator": separator, "sha256": fingerprint(config)}
    with store.create(KIND, identity, meta, seed=config.seed) as folder:
        store.write_bytes(folder / "windows.safetensors", save(tensors))
        names = {"titles": [a.title for a in found], "topics": topics}
        store.write_json(folder / "names.json", names)
