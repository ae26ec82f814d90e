"""Stimuli of the factorial designs: sentences in 2x2 cells crossed with topic, words in four
groups, and prompts. The files and how they were made: data/stimuli/README.md and
data/words/README.md.

A reader's own file in the same format works in their place. Errors name the file and the line; that
every topic and prompt has what its design needs is checked where it is tested, in `designs`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from companion import places

DESIGNS = {file.stem: file for file in sorted((places.DATA / "stimuli").glob("*.csv"))}
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


def load(name: str | Path) -> pd.DataFrame:
    """The sentences of a design: topic, half, the two factors, text; one row per topic and cell.

    `name` is one of DESIGNS or a CSV file with these five columns, whose factors may have any name
    and any two labels each. Raises ValueError for other columns, an empty entry, an unknown half,
    and a topic in both halves.
    """
    file = DESIGNS.get(str(name), Path(name))
    if not file.exists():
        known = ", ".join(DESIGNS)
        raise ValueError(f"stimuli {str(name)!r} are neither a file nor one of {known}")
    frame = read(file, ("topic", "half", "text"))
    if len(frame.columns) != 5:
        raise ValueError(f"{file} has {', '.join(frame)}; it needs exactly two factors besides")
    unknown = f"half = {{half!r}} is not known; allowed: {', '.join(HALVES)}"
    refuse(file, frame, ~frame["half"].isin(HALVES), unknown)
    halves = frame.groupby("topic")["half"].transform("nunique")
    refuse(file, frame, halves > 1, "topic {topic!r} is in both halves")
    return frame


def factors(frame: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """The two factors of a design with their levels (low, high), as `designs` wants them.

    A factor that LEVELS does not know has its two commonest labels, in the order they appear in.
    """
    levels = {}
    for factor in frame.columns.drop(["topic", "half", "text"]):
        counts = frame[factor].value_counts(sort=False)  # in the order of first appearance
        common = counts.nlargest(2)
        levels[factor] = LEVELS.get(factor, tuple(x for x in counts.index if x in common))
    return levels


def shuffle_labels(frame: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The null design: each topic's labels are dealt anew, so that topics keep their own level."""
    columns = list(factors(frame))
    topic = pd.factorize(frame["topic"])[0]
    dealt = frame[columns].iloc[np.lexsort((np.random.default_rng(seed).random(len(frame)), topic))]
    return frame.assign(**dealt.set_axis(frame.index[np.argsort(topic, kind="stable")]))


def matching(frame: pd.DataFrame, n_tokens: Callable[[str], int]) -> pd.DataFrame:
    """How well the cells are matched, one row per cell: `sentences`, means of `tokens` (by
    `n_tokens`; standard deviation `tokens_sd`), `words` and `characters` per sentence, and in the
    whole cell the number of `full_stops` and of `other_marks`: neither letter, digit nor space."""
    text = frame["text"]
    lengths = {"tokens": text.map(n_tokens), "words": text.str.split().str.len()}
    lengths["characters"] = text.str.len()
    marks = {"full_stops": text.str.count(r"\."), "other_marks": text.str.count(r"[^\w\s.]")}
    cells = frame.assign(**lengths, **marks).groupby(list(factors(frame)), sort=False)
    means = cells[list(lengths)].mean()
    means.insert(1, "tokens_sd", cells["tokens"].std())
    sizes = cells.size().to_frame("sentences")
    return sizes.join(means).join(cells[list(marks)].sum()).reset_index()


def load_words(
    encode: Callable[[str], Sequence[int]], decode: Callable[[list[int]], str], file: Path = WORDS
) -> pd.DataFrame:
    """The words: word, group, formality, emotion, `token_id`, and what else the file holds.

    `encode` gives a text's token ids without special tokens, `decode` spells them. The words are
    scored after a prompt, so only those that are one token with their leading space are kept, as
    many of each group. Raises ValueError if that leaves fewer than two, for a missing column, an
    empty entry, and a group that is not its two labels.
    """
    frame = read(file, ("word", "group", "formality", "emotion"))
    said = frame["formality"] + "-" + frame["emotion"]
    refuse(file, frame, frame["group"] != said, "group {group!r} is not {formality}-{emotion}")
    tokens = (" " + frame["word"]).map(lambda word: list(encode(word)))
    pieces = tokens.map(lambda ids: " + ".join(repr(decode([i])) for i in ids))
    whole = (tokens.str.len() == 1) & (tokens.map(decode).str.strip() == frame["word"])
    n = whole.groupby(frame["group"]).sum().min()
    few = f"word {{word!r}} is several tokens for this model, {{pieces}}; {n} of its like are one"
    refuse(file, frame.assign(pieces=pieces), ~whole & (n < 2), few)
    return frame.assign(token_id=tokens.str[0])[whole].groupby("group").head(n)


def load_prompts(file: Path = PROMPTS) -> list[str]:
    """The neutral prompts. Raises ValueError for a missing column or one that stands twice."""
    frame = read(file, ("prompt",))
    refuse(file, frame, frame.duplicated("prompt"), "prompt {prompt!r} stands twice")
    return frame["prompt"].tolist()


def read(file: Path, needed: Sequence[str]) -> pd.DataFrame:
    """A table of a file as text, without surrounding spaces; between columns stands what the header
    has most of: commas, semicolons or tabs. Raises ValueError for what is no file, a missing
    column, an empty entry, or a row longer than the header."""
    if not file.is_file():
        raise ValueError(f"{file} is {'a folder' if file.exists() else 'missing'}, not a table")
    try:
        with file.open(encoding="utf-8-sig") as lines:
            between = max(",;\t", key=lines.readline().count)
        options = {"dtype": str, "keep_default_na": False, "skipinitialspace": True}
        frame = pd.read_csv(file, sep=between, **options).rename(columns=str.strip)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as e:
        raise ValueError(f"{file}: {e}; save as UTF-8, texts with commas in double quotes") from e
    if missing := set(needed) - set(frame):
        raise ValueError(f"{file} lacks the columns {', '.join(sorted(missing))}")
    if not isinstance(frame.index, pd.RangeIndex):  # pandas takes what is too much for an index
        raise ValueError(f"{file}, line 2: longer than the header; quote texts with {between!r}")
    if frame.empty:
        raise ValueError(f"{file} has a header, but no rows")
    frame = frame.fillna("").apply(lambda column: column.str.strip())
    for column in frame:
        refuse(file, frame, frame[column] == "", "{0} is empty", column)
    return frame


def refuse(file: Path, frame: pd.DataFrame, wrong: pd.Series, message: str, *more: str) -> None:
    """Raise ValueError for the first row that is wrong; `message` names entries as {column}."""
    if wrong.any():
        row = wrong.idxmax()
        raise ValueError(f"{file}, line {row + 2}: {message.format(*more, **frame.loc[row])}")
