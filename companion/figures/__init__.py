"""How the book draws: in this package the figures that several chapters share, in its modules those of one chapter or of a few. A figure
takes what it draws, mostly a tidy frame, never a model, and returns an `Axes` or a `Figure`; style and colours are `companion.plots`'.
"""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from companion import plots
from companion.plots import COLOURS, INK, WIDTH

LONGEST_LABEL = 24
"""Characters; labels with longer lines stand above their rows, since beside them they would leave a phone no room for the data."""


def label(row) -> str:
    """What an estimate is called in a figure: its model, over its baseline if it has one."""
    return f"{row.model}\nover {row.baseline}" if row.baseline else row.model


def estimate_dots(frame: pd.DataFrame, xlabel: str, zero: bool = False, label=label) -> Axes:
    """A dot with its interval per estimate (`estimates.tidy`), from top to bottom; long labels
    stand above their rows.

    Colours are those of the models (`plots.role`). With `zero` a line marks no difference.
    """
    labels = [label(row) for row in frame.itertuples()]
    lines = [text.split("\n") for text in labels]
    above = max(len(line) for text in lines for line in text) > LONGEST_LABEL
    height = 0.3 + 0.18 * max(map(len, lines)) if above else 0.36
    _, ax = plt.subplots(figsize=(WIDTH, 0.9 + height * len(frame)))
    for place, row in enumerate(frame.itertuples()):
        colour = COLOURS[plots.role(row.model, row.baseline)]
        if row.lo is not None:
            ax.plot([row.lo, row.hi], [place, place], color=colour)
        ax.plot(row.value, place, "o", color=colour)
    places = range(len(frame))
    if above:
        ax.set_yticks([])
        ax.set_ylim(-1, len(frame) - 0.6)
        beside = {"transform": ax.get_yaxis_transform(), "in_layout": False}
        for place, text in enumerate(labels):
            ax.text(0.01, place - 0.2, text, va="bottom", fontsize=10, **beside)
    else:
        ax.set_yticks(places, labels)
    ax.invert_yaxis()
    ax.set_xlabel(xlabel)
    ax.grid(axis="y", visible=False)
    if zero and above:  # in the rows alone, not across the labels
        ends = [y - 0.18 for y in places], [y + 0.3 for y in places]
        ax.vlines([0] * len(frame), *ends, INK, linewidth=0.8)
    elif zero:
        ax.axvline(0, color=INK, linewidth=0.8)
    return ax


def loss_curves(histories: dict[str, pd.DataFrame]) -> Axes:
    """Validation loss against training tokens, a curve per model: histories of `train.fit`."""
    _, ax = plt.subplots()
    seen: dict[str, int] = {}  # models of one colour differ in their lines
    for name, history in histories.items():
        role = plots.role(name)
        style = ["-", "--", ":", "-."][seen.get(role, 0)]
        seen[role] = seen.get(role, 0) + 1
        losses = history["tokens"] / 1e6, history["validation_loss"]
        ax.plot(*losses, style, color=COLOURS[role], label=name)
    ax.set_xlabel("training tokens, millions")
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.set_ylabel("validation MSE")
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter("{x:.2f}")
    ax.yaxis.set_minor_formatter("{x:.2f}")
    ax.tick_params(axis="y", which="minor", labelsize=9)
    ax.legend()
    return ax


def protocol_bars(frame: pd.DataFrame, ylabel: str) -> Axes:
    """Two bars per model, as published and controlled, with intervals; `frame` as `estimates.tidy`.

    What is compared stands under them: the model, and the part if it has one.
    """
    _, ax = plt.subplots()
    frame = frame.assign(
        label=[f"{r.part}\nin {r.model}" if r.part else r.model for r in frame.itertuples()]
    )
    labels = list(dict.fromkeys(frame["label"]))
    for shift, protocol in ((-0.2, "as published"), (0.2, "controlled")):
        rows = frame[frame["protocol"] == protocol].set_index("label").reindex(labels)
        rows = rows[["value", "lo", "hi"]].astype(float)
        places = [i + shift for i in range(len(labels))]
        ax.bar(places, rows["value"], 0.36, color=COLOURS[protocol.split()[-1]], label=protocol)
        errors = [(rows["value"] - rows["lo"]).fillna(0), (rows["hi"] - rows["value"]).fillna(0)]
        ax.errorbar(
            places, rows["value"], errors, fmt="none", ecolor=INK, elinewidth=1.2, capsize=3
        )
    ax.set_xticks(range(len(labels)), labels)
    ax.axhline(0, color=INK, linewidth=0.8)
    ax.set_ylabel(ylabel)
    ax.grid(axis="x", visible=False)
    ax.legend()
    return ax


def intervals(frame: pd.DataFrame, xlabel: str, zero: bool = False) -> Axes:
    """A dot with its interval per row, from top to bottom; long labels stand above their rows.

    `frame`: columns `label`, `value`, `lo`, `hi` (None where there is no interval) and `role`, a name in `plots.COLOURS`.
    With `zero` a line marks where there is no difference.
    """
    lines = [label.split("\n") for label in frame["label"]]
    above = max(len(line) for label in lines for line in label) > LONGEST_LABEL
    height = 0.3 + 0.18 * max(map(len, lines)) if above else 0.36
    figure, ax = plt.subplots(figsize=(WIDTH, 0.9 + height * len(frame)))
    for place, row in enumerate(frame.itertuples()):
        colour = COLOURS[row.role]
        if row.lo is not None:
            ax.plot([row.lo, row.hi], [place, place], color=colour)
        ax.plot(row.value, place, "o", color=colour)
    if above:
        ax.set_yticks([])
        ax.set_ylim(-1, len(frame) - 0.6)
        for place, label in enumerate(frame["label"]):
            ax.text(
                0.01,
                place - 0.2,
                label,
                transform=ax.get_yaxis_transform(),
                va="bottom",
                fontsize=10,
                in_layout=False,
            )
    else:
        ax.set_yticks(range(len(frame)), frame["label"])
    ax.invert_yaxis()
    ax.set_xlabel(xlabel)
    ax.grid(axis="y", visible=False)
    if zero and above:  # in the rows alone, not across the labels
        ax.vlines(
            [0] * len(frame),
            [place - 0.18 for place in range(len(frame))],
            [place + 0.3 for place in range(len(frame))],
            INK,
            linewidth=0.8,
        )
    elif zero:
        ax.axvline(0, color=INK, linewidth=0.8)
    return ax


def paired_bars(
    frame: pd.DataFrame, ylabel: str, groups: tuple[str, str] = ("as published", "controlled")
) -> Axes:
    """Two bars per row, one for each protocol, with intervals: columns `label`, `protocol`, `value`, `lo`, `hi`."""
    figure, ax = plt.subplots()
    labels = list(dict.fromkeys(frame["label"]))
    for shift, group, role in zip((-0.2, 0.2), groups, ("published", "controlled"), strict=True):
        rows = frame[frame["protocol"] == group].set_index("label").reindex(labels)
        places = [i + shift for i in range(len(labels))]
        ax.bar(places, rows["value"], 0.36, color=COLOURS[role], label=group)
        errors = [(rows["value"] - rows["lo"]).fillna(0), (rows["hi"] - rows["value"]).fillna(0)]
        ax.errorbar(
            places, rows["value"], errors, fmt="none", ecolor=INK, elinewidth=1.2, capsize=3
        )
    ax.set_xticks(range(len(labels)), labels)
    ax.axhline(0, color=INK, linewidth=0.8)
    ax.set_ylabel(ylabel)
    ax.grid(axis="x", visible=False)
    ax.legend()
    return ax
