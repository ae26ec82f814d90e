"""Stimuli of the factorial designs: sentences in 2x2 cells crossed with topic, words in four groups,
and prompts. Read, checked, shuffled.

The files and how they were made: data/stimuli/README.md and data/words/README.md. A reader's own
file in the same format works in their place. Every error names the file and the line.
"""

import csv
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from companion import places

DESIGNS = {
    name: places.DATA / "stimuli" / f"{name}.csv"
    for name in ("formality_emotion", "negation_tense")
}
WORDS = places.DATA / "words" / "groups.csv"
PROMPTS = places.DATA / "words" / "prompts.csv"
HALVES = ("discovery", "confirmation")
LEVELS = {
    "formality": ("casual", "formal"),
    "emotion": ("neutral", "emotional"),
    "negation": ("affirmative", "negated"),
    "tense": ("past", "future"),
}
"""Each known factor's levels, low before high."""
MARKS = {
    "full_stops": r"\.",
    "commas": ",",
    "apostrophes": "['’]",
    "exclamations": "!",
    "questions": r"\?",
    "other_marks": r"[^\w\s.,'’!?]",
}


def load(name: str | Path) -> pd.DataFrame:
    """The sentences of a design: topic, half, the two factors, text; one row per topic and cell.

    `name` is one of DESIGNS or a CSV file with these five columns, whose factors may have any name
    and any two labels each. Raises ValueError for other columns, an empty entry, a label that is
    not known, a topic without exactly one sentence in every cell, or in both halves.
    """
    file = DESIGNS.get(str(name), Path(name))
    if not file.exists():
        raise ValueError(
            f"stimuli {str(name)!r} are neither a file nor one of {', '.join(DESIGNS)}"
        )
    frame = read(file, ("topic", "half", "text"))
    if len(frame.columns) != 5:
        raise ValueError(f"{file} has {', '.join(frame)}; it needs exactly two factors besides")
    try:
        levels = factors(frame)
    except ValueError as e:
        raise ValueError(f"{file}: {e}") from e
    check_labels(file, frame, {"half": HALVES, **levels})
    topics = frame.groupby("topic")["half"]
    cell = " x ".join(f"{{{factor}}}" for factor in levels)
    refuse(file, frame, frame.duplicated(["topic", *levels]), "topic {topic!r} has twice " + cell)
    refuse(file, frame, topics.transform("nunique") > 1, "topic {topic!r} is in both halves")
    refuse(file, frame, topics.transform("size") < 4, "topic {topic!r} lacks one of its four cells")
    return frame.reset_index(drop=True)


def factors(frame: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """The two factors of a design with their levels (low, high), as `designs` wants them.

    A factor that LEVELS does not know has its two commonest labels as levels, in the order of
    their first appearance. Raises ValueError if it has only one label.
    """
    levels = {}
    for factor in frame.columns.drop(["topic", "half", "text"]):
        counts = Counter(frame[factor])
        commonest = {label for label, _ in counts.most_common(2)}
        levels[factor] = LEVELS.get(factor, tuple(label for label in counts if label in commonest))
        if len(levels[factor]) != 2:
            raise ValueError(f"factor {factor!r} has only the label {', '.join(counts)}, not two")
    return levels


def shuffle_labels(frame: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The null design: each topic's four cell labels are dealt anew to its four sentences, so that
    topics keep their own level."""
    columns = list(factors(frame))
    topic = pd.factorize(frame["topic"])[0]
    dealt = np.lexsort((np.random.default_rng(seed).random(len(frame)), topic))
    labels = frame[columns].to_numpy(copy=True)
    labels[np.argsort(topic, kind="stable")] = labels[dealt]
    return frame.assign(**dict(zip(columns, labels.T, strict=True)))


def matching(frame: pd.DataFrame, n_tokens: Callable[[str], int]) -> pd.DataFrame:
    """How well the cells are matched, one row per cell: `sentences`, means of `tokens` (by
    `n_tokens`; standard deviation `tokens_sd`), `words` and `characters` per sentence, and the
    number of marks in the whole cell; `other_marks`: neither letter, digit, space nor known mark."""
    text = frame["text"]
    lengths = {
        "tokens": text.map(n_tokens),
        "words": text.str.split().str.len(),
        "characters": text.str.len(),
    }
    marks = {name: text.str.count(pattern) for name, pattern in MARKS.items()}
    cells = pd.DataFrame(lengths | marks).groupby([frame[f] for f in factors(frame)], sort=False)
    table = cells[list(lengths)].mean().join(cells[list(marks)].sum())
    table.insert(0, "sentences", cells.size())
    table.insert(2, "tokens_sd", cells["tokens"].std())
    return table.reset_index()


def load_words(
    encode: Callable[[str], Sequence[int]], decode: Callable[[list[int]], str], file: Path = WORDS
) -> pd.DataFrame:
    """The word groups: word, group, formality, emotion, `token_id`, and what else the file holds.

    `encode` gives a text's token ids without special tokens, `decode` spells them in messages. The
    words are scored after a prompt, so each must be one token with its leading space. Raises
    ValueError for that, a missing column, an empty entry, an unknown label, a group without words,
    and a word that stands twice.
    """
    frame = read(file, ("word", "group", "formality", "emotion"))
    groups = {factor: LEVELS[factor] for factor in ("formality", "emotion")}
    check_labels(file, frame, groups)
    said = frame["formality"] + "-" + frame["emotion"]
    refuse(file, frame, frame["group"] != said, "group {group!r} is not {formality}-{emotion}")
    if empty := {"-".join(cell) for cell in product(*groups.values())} - set(frame["group"]):
        raise ValueError(f"{file} has no word in the group {min(empty)}")
    refuse(file, frame, frame.duplicated("word"), "word {word!r} stands twice")
    tokens = (" " + frame["word"]).map(lambda word: list(encode(word)))
    pieces = tokens.map(lambda ids: " + ".join(repr(decode([i])) for i in ids))
    several = "word {word!r} is several tokens for this model, {pieces}; take another"
    refuse(file, frame.assign(pieces=pieces), tokens.str.len() != 1, several)
    numbers = frame.columns.intersection(["log10_count", "zipf"])
    frame = frame.astype(dict.fromkeys(numbers, float)).assign(token_id=tokens.str[0])
    return frame.reset_index(drop=True)


def load_prompts(file: Path = PROMPTS) -> list[str]:
    """The neutral prompts. Raises ValueError for a missing column, an empty prompt, or one that
    stands twice."""
    frame = read(file, ("prompt",))
    refuse(file, frame, frame.duplicated("prompt"), "prompt {prompt!r} stands twice")
    return frame["prompt"].tolist()


def read(file: Path, needed: Sequence[str]) -> pd.DataFrame:
    """A CSV file as text, without surrounding spaces, indexed by the line on which each row ends.

    pandas' own reader takes an unquoted comma for a further column or an index; `csv` tells where.
    Raises ValueError for a missing column, a row that is too long or short, an empty entry, a file
    without rows, and one not in UTF-8.
    """
    rows = {}
    try:
        with open(file, newline="", encoding="utf-8-sig") as f:
            reader = csv.DictReader(f, skipinitialspace=True)
            if missing := set(needed) - set(reader.fieldnames or ()):
                raise ValueError(f"{file} lacks the columns {', '.join(sorted(missing))}")
            for row in reader:
                where = f"{file}, line {reader.line_num}"
                if None in row or None in row.values():
                    raise ValueError(
                        f"{where}: not {len(reader.fieldnames)} entries as in the header; put a "
                        "text that holds commas between double quotes"
                    )
                rows[reader.line_num] = row = {c: entry.strip() for c, entry in row.items()}
                if empty := [column for column, entry in row.items() if not entry]:
                    raise ValueError(f"{where}: {empty[0]} is empty")
    except UnicodeDecodeError as e:
        raise ValueError(f"{file} is not UTF-8 text (byte {e.start}); save it as UTF-8") from e
    if not rows:
        raise ValueError(f"{file} has no rows")
    return pd.DataFrame.from_dict(rows, orient="index")


def check_labels(file: Path, frame: pd.DataFrame, allowed: Mapping[str, Sequence[str]]) -> None:
    """Raise ValueError for a label that its column does not allow."""
    for column, labels in allowed.items():
        message = f"{column} = {{{column}!r}} is not known; allowed: {', '.join(labels)}"
        refuse(file, frame, ~frame[column].isin(labels), message)


def refuse(file: Path, frame: pd.DataFrame, wrong: pd.Series, message: str) -> None:
    """Raise ValueError for the first row that is wrong; `message` names entries as {column}."""
    if wrong.any():
        line = wrong.idxmax()
        raise ValueError(f"{file}, line {line}: {message.format(**frame.loc[line])}")
