"""Stimuli of the factorial designs: sentences in 2x2 cells crossed with topic, words in four groups, and prompts. Read, checked, shuffled.

The files and how they were made: data/stimuli/README.md and data/words/README.md. A reader's own file in the same format works in their place.
"""

import csv
from collections import Counter
from collections.abc import Callable, Sequence
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
    "full_stops": ".",
    "commas": ",",
    "apostrophes": "'’",
    "exclamations": "!",
    "questions": "?",
}


def load(name: str | Path) -> pd.DataFrame:
    """The sentences of a design: columns `topic`, `half`, the two factors, `text`; one row per topic and cell, in the order of the file.

    `name` is one of DESIGNS or the path of a CSV file with these five columns, whose factors may have any name and any two labels each.
    Raises ValueError, with the file and the line, for a missing or additional column, an empty entry, a label that is not known, a cell
    that a topic lacks or has twice, and a topic in both halves.
    """
    file = DESIGNS.get(str(name), Path(name))
    if not file.exists():
        raise ValueError(
            f"stimuli {str(name)!r} are neither a known design ({', '.join(DESIGNS)}) nor a file"
        )
    frame, lines = read(file)
    if len(frame.columns) != 5 or not {"topic", "half", "text"} <= set(frame.columns):
        raise ValueError(
            f"{file} has the columns {', '.join(frame.columns)}; it needs topic, half, text and exactly two factors"
        )
    try:
        levels = factors(frame)
    except ValueError as e:
        raise ValueError(f"{file}: {e}") from e
    check_labels(file, frame, lines, {"half": HALVES, **levels})
    keys = ["topic", *levels]
    if (twice := frame.duplicated(keys)).any():
        row = twice.idxmax()
        first = frame.index[(frame[keys] == frame.loc[row, keys]).all(axis=1)][0]
        raise ValueError(
            f"{file}, line {lines[row]}: topic {frame.topic[row]!r} already has the cell {cell_name(tuple(frame.loc[row, list(levels)]))} in line "
            f"{lines[first]}; every topic is one sentence per cell, so give another topic another name"
        )
    for topic, rows in frame.groupby("topic", sort=False):
        if rows.half.nunique() > 1:
            raise ValueError(
                f"{file}, line {lines[rows.index[-1]]}: topic {topic!r} is in both halves; a topic belongs to one half"
            )
        if lacking := [
            cell
            for cell in product(*levels.values())
            if cell not in set(rows[list(levels)].itertuples(index=False, name=None))
        ]:
            raise ValueError(
                f"{file}, line {lines[rows.index[0]]}: topic {topic!r} lacks the cell {cell_name(lacking[0])}"
            )
    return frame


def factors(frame: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """The two factors of a design with their levels (low, high), as `factorial` wants them.

    A factor that LEVELS does not know has its two commonest labels as levels, in the order of their first appearance.
    Raises ValueError if it has only one label.
    """
    found = {}
    for factor in frame.columns.drop(["topic", "half", "text"]):
        counts = Counter(frame[factor])
        commonest = {label for label, _ in counts.most_common(2)}
        found[factor] = LEVELS.get(factor, tuple(label for label in counts if label in commonest))
        if len(found[factor]) != 2:
            raise ValueError(
                f"factor {factor!r} has {len(counts)} label ({', '.join(counts)}); it needs two"
            )
    return found


def shuffle_labels(frame: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The null design: in every topic the four cell labels are dealt anew to its four sentences, so that topics keep their own level."""
    columns = list(factors(frame))
    topic = pd.factorize(frame["topic"])[0]
    dealt = np.lexsort(
        (np.random.default_rng(seed).random(len(frame)), topic)
    )  # topic by topic, in random order within each
    labels = frame[columns].to_numpy(copy=True)
    labels[np.argsort(topic, kind="stable")] = labels[dealt]
    shuffled = frame.copy()
    shuffled[columns] = labels
    return shuffled


def matching(frame: pd.DataFrame, n_tokens: Callable[[str], int]) -> pd.DataFrame:
    """How well the cells are matched, one row per cell: `sentences`, means of `tokens` (with its standard deviation `tokens_sd`), `words`
    and `characters` per sentence, and the number of marks in the whole cell; `other_marks` is all that is neither letter, digit nor space.

    `n_tokens` gives a text's length in tokens.
    """
    text = frame["text"]
    measures = pd.DataFrame(
        {
            "tokens": text.map(n_tokens),
            "words": text.str.split().str.len(),
            "characters": text.str.len(),
        }
    )
    for name, marks in MARKS.items():
        measures[name] = text.map(lambda t, marks=marks: sum(t.count(mark) for mark in marks))
    measures["other_marks"] = text.str.count(r"[^\w\s]") - measures[list(MARKS)].sum(axis=1)
    cells = measures.groupby([frame[factor] for factor in factors(frame)], sort=False)
    table = (
        cells[["tokens", "words", "characters"]].mean().join(cells[[*MARKS, "other_marks"]].sum())
    )
    table.insert(0, "sentences", cells.size())
    table.insert(2, "tokens_sd", cells["tokens"].std())
    return table.reset_index()


def load_words(
    encode: Callable[[str], Sequence[int]],
    decode: Callable[[list[int]], str] | None = None,
    file: Path = WORDS,
) -> pd.DataFrame:
    """The word groups: columns `word`, `group`, `formality`, `emotion`, `token_id` (by this tokenizer) and what else the file holds.

    `encode` gives a text's token ids without special tokens; `decode`, if given, spells the pieces of a word in the message. The words are
    scored after a prompt, so each must be one token with its leading space.
    Raises ValueError, with the file and the line, for a missing column, an empty entry, an unknown label, a group without words, a word that
    stands twice, and a word of several tokens.
    """
    frame, lines = read(file)
    if missing := {"word", "group", "formality", "emotion"} - set(frame.columns):
        raise ValueError(
            f"{file} lacks the columns {', '.join(sorted(missing))}; it has {', '.join(frame.columns)}"
        )
    groups = {"formality": LEVELS["formality"], "emotion": LEVELS["emotion"]}
    check_labels(file, frame, lines, groups)
    for row, (group, formality, emotion) in frame[["group", "formality", "emotion"]].iterrows():
        if group != f"{formality}-{emotion}":
            raise ValueError(
                f"{file}, line {lines[row]}: group {group!r} is not {formality}-{emotion}, which the word's two labels say"
            )
    if empty := {f"{a}-{b}" for a, b in product(*groups.values())} - set(frame.group):
        raise ValueError(f"{file} has no word in the group {sorted(empty)[0]}")
    if (twice := frame.duplicated("word")).any():
        raise ValueError(
            f"{file}, line {lines[twice.idxmax()]}: word {frame.word[twice.idxmax()]!r} stands twice"
        )
    tokens = [list(encode(f" {word}")) for word in frame.word]
    for row, pieces in enumerate(tokens):
        if len(pieces) != 1:
            spelled = " + ".join(repr(decode([i]) if decode else i) for i in pieces)
            raise ValueError(
                f"{file}, line {lines[row]}: word {frame.word[row]!r} is {len(pieces)} tokens for this model, {spelled}; take another word"
            )
    numbers = frame.columns.intersection(["log10_count", "zipf"])
    return frame.astype(dict.fromkeys(numbers, float)).assign(
        token_id=[pieces[0] for pieces in tokens]
    )


def load_prompts(file: Path = PROMPTS) -> list[str]:
    """The neutral prompts. Raises ValueError, with the file and the line, for a missing column, an empty prompt, or one that stands twice."""
    frame, lines = read(file)
    if "prompt" not in frame.columns:
        raise ValueError(f"{file} lacks the column prompt; it has {', '.join(frame.columns)}")
    if (twice := frame.duplicated("prompt")).any():
        raise ValueError(
            f"{file}, line {lines[twice.idxmax()]}: prompt {frame.prompt[twice.idxmax()]!r} stands twice"
        )
    return frame.prompt.tolist()


def read(file: Path) -> tuple[pd.DataFrame, list[int]]:
    """A CSV file as text, without surrounding spaces, and the line on which each row ends.

    pandas' own reader takes an unquoted comma for a further column or an index, so lines are split by `csv`, which tells where.
    Raises ValueError, with the file and the line, for a row that is too long or short, an empty entry, a file without rows, and one not in UTF-8.
    """
    rows, lines = [], []
    try:
        with open(file, newline="", encoding="utf-8-sig") as f:
            reader = csv.DictReader(f, skipinitialspace=True)
            for row in reader:
                if None in row or None in row.values():
                    raise ValueError(
                        f"{file}, line {reader.line_num}: not {len(reader.fieldnames)} entries as in the header; "
                        "put a text that holds commas between double quotes"
                    )
                row = {column: entry.strip() for column, entry in row.items()}
                if not all(row.values()):
                    raise ValueError(
                        f"{file}, line {reader.line_num}: {next(c for c, entry in row.items() if not entry)} is empty"
                    )
                rows.append(row)
                lines.append(reader.line_num)
    except UnicodeDecodeError as e:
        raise ValueError(
            f"{file} is not UTF-8 text ({e.reason} at byte {e.start}); save it as UTF-8"
        ) from e
    if not rows:
        raise ValueError(f"{file} has no rows")
    return pd.DataFrame(rows), lines


def check_labels(
    file: Path, frame: pd.DataFrame, lines: list[int], allowed: dict[str, tuple[str, ...]]
) -> None:
    """Raise ValueError, with the file and the line, for a label that its column does not allow."""
    for column, labels in allowed.items():
        if (unknown := ~frame[column].isin(labels)).any():
            row = unknown.idxmax()
            raise ValueError(
                f"{file}, line {lines[row]}: {column} = {frame[column][row]!r} is not known; allowed: {', '.join(labels)}"
            )


def cell_name(labels: Sequence[str]) -> str:
    return " x ".join(labels)
