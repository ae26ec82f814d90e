"""How the book draws: in this package what several chapters share, in its modules the figures of
one chapter or of a few. A figure takes what it draws, mostly a tidy frame, never a model, and
returns an `Axes` or a `Figure`; style and colours are `companion.plots`'.
"""

from collections.abc import Collection, Mapping
from math import ceil
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from companion import plots
from companion.plots import COLOURS, INK, WIDTH

ABOVE = {"loc": "outside upper center", "ncols": 2}
"""Where the legend of a whole figure stands."""
LONGEST_LABEL = 24
"""Characters; longer labels stand above their rows: beside them they leave a phone no room."""
ARMS = {"fmt": "none", "ecolor": INK, "elinewidth": 1.2, "capsize": 3}
"""How the intervals of bars look."""


def panels(
    content: Mapping[str, Any], height: float, more: float = 0, columns: int = 1, **share: bool
) -> tuple[Figure, list[tuple[Axes, Any]]]:
    """A figure with a panel per entry, its name above it at the left: the axes come with what they
    are to show. `height` is that of a row of panels, `more` what is added to all, in inches."""
    rows = ceil(len(content) / columns)
    size = (WIDTH, rows * height + more)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, **share)
    for ax in axes.flat[len(content) :]:
        ax.set_visible(False)
    for ax, name in zip(axes.flat, content, strict=False):
        ax.set_title(plots.in_words(name), loc="left")
    return figure, list(zip(axes.flat, content.values(), strict=False))


def grouped(frame: pd.DataFrame, by: str | pd.Series) -> dict[str, pd.DataFrame]:
    """The rows of each group, groups in the order in which they come."""
    return dict(iter(frame.groupby(by, sort=False)))


def name_rows(ax: Axes, names: Collection[str], **text) -> None:
    """Name the places 0, 1, ... of the vertical axis, from top to bottom."""
    ax.set_yticks(range(len(names)), names, **text)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)


def log_ticks(axis: Axis) -> None:
    """Ticks at 1, 2, 5, 10, ... in plain digits."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")


def arms(frame: pd.DataFrame) -> np.ndarray:
    """How far intervals reach below and above their values (columns value, lo, hi; 0 where there is
    none), as `errorbar` takes them."""
    numbers = frame[["value", "lo", "hi"]].astype(float)
    return numbers[["lo", "hi"]].sub(numbers["value"], axis=0).abs().fillna(0).to_numpy().T


def dots(ax: Axes, frame: pd.DataFrame, places: Collection[float], colour: str, **style) -> None:
    """A dot with its interval per row of a frame (columns value, lo, hi), at heights `places`."""
    ax.errorbar(frame["value"], places, xerr=arms(frame), fmt="none", ecolor=colour)
    ax.plot(frame["value"], places, "o", color=colour, **style)


def label(row) -> str:
    """What an estimate is called in a figure: its model, over its baseline if it has one."""
    over = f"\nover {plots.in_words(row.baseline)}" if row.baseline else ""
    return plots.in_words(row.model) + over


def intervals(frame: pd.DataFrame, xlabel: str, zero: bool = False, label=label) -> Axes:
    """A dot with its interval per estimate (`estimates.tidy`), from top to bottom, in the colour of
    its model (`plots.colour`); with `zero` a line marks no difference."""
    labels = [label(row) for row in frame.itertuples()]
    lines = [text.split("\n") for text in labels]
    above = max(len(line) for text in lines for line in text) > LONGEST_LABEL
    height = 0.3 + 0.18 * max(map(len, lines)) if above else 0.36
    _, ax = plt.subplots(figsize=(WIDTH, 0.9 + height * len(frame)))
    for place, row in enumerate(frame.itertuples()):
        dots(ax, frame.iloc[[place]], [place], plots.colour(row.model, row.baseline))
    name_rows(ax, labels)
    ax.set_xlabel(xlabel)
    if above:
        ax.set(yticks=[], ylim=(len(frame) - 0.6, -1))
        beside = {"transform": ax.get_yaxis_transform(), "in_layout": False}
        for place, text in enumerate(labels):
            ax.text(0.01, place - 0.2, text, va="bottom", fontsize=10, **beside)
            if zero:  # in the rows alone, not across the labels
                ax.plot([0, 0], [place - 0.18, place + 0.3], color=INK, linewidth=0.8)
    elif zero:
        ax.axvline(0, color=INK, linewidth=0.8)
    return ax


def protocol_bars(frame: pd.DataFrame, ylabel: str) -> Axes:
    """Two bars per model, as published and controlled, with intervals; `frame` as `estimates.tidy`.
    What is compared stands under them: the model, and the part if it has one."""
    within = frame["part"].map(lambda part: f"{part}\nin " if part else "")
    place, names = pd.factorize(within + frame["model"].map(plots.in_words))
    _, ax = plt.subplots()
    for protocol, shift in (("as published", -0.19), ("controlled", 0.19)):
        on = frame["protocol"] == protocol
        bars, at = frame[on], place[on] + shift
        colour = COLOURS[protocol.removeprefix("as ")]
        ax.bar(at, bars["value"], 0.38, color=colour, label=protocol)
        ax.errorbar(at, bars["value"], arms(bars), **ARMS)
    ax.axhline(0, color=INK, linewidth=0.8)
    ax.set_xticks(range(len(names)), names)
    ax.set_ylabel(ylabel)
    ax.grid(axis="x", visible=False)
    ax.legend()
    return ax
