"""How the book draws: in this package the figures that several chapters share, in its modules those
of one chapter or of a few. A figure takes what it draws, mostly a tidy frame, never a model, and
returns an `Axes` or a `Figure`; style and colours are `companion.plots`'.
"""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from companion import plots
from companion.plots import COLOURS, INK, WIDTH

DASHES = ("", (4, 2), (1, 1.5), (4, 2, 1, 2))
LONGEST_LABEL = 24
"""Characters; labels with longer lines stand above their rows, since beside them they would leave a
phone no room for the data."""


def label(row) -> str:
    """What an estimate is called in a figure: its model, over its baseline if it has one."""
    return f"{row.model}\nover {row.baseline}" if row.baseline else row.model


def intervals(frame: pd.DataFrame, xlabel: str, zero: bool = False, label=label) -> Axes:
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
    curves = pd.concat(histories, names=["model"]).reset_index()
    roles = pd.Series({name: plots.role(name) for name in histories})
    nth = roles.groupby(roles).cumcount()  # models of one colour differ in their lines
    ax = sns.lineplot(
        curves.assign(tokens=curves["tokens"] / 1e6),
        x="tokens",
        y="validation_loss",
        hue="model",
        palette=dict(roles.map(COLOURS)),
        style="model",
        dashes={name: DASHES[n] for name, n in nth.items()},
        ax=plt.subplots()[1],
    )
    ax.set(xlabel="training tokens, millions", ylabel="validation MSE", yscale="log")
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.yaxis.set_major_formatter("{x:.2f}")
    ax.yaxis.set_minor_formatter("{x:.2f}")
    ax.tick_params(axis="y", which="minor", labelsize=9)
    ax.legend()
    return ax


def protocol_bars(frame: pd.DataFrame, ylabel: str) -> Axes:
    """Two bars per model, as published and controlled, with intervals; `frame` as `estimates.tidy`.

    What is compared stands under them: the model, and the part if it has one.
    """
    names = [f"{r.part}\nin {r.model}" if r.part else r.model for r in frame.itertuples()]
    numbers = frame[["value", "lo", "hi"]].astype(float)
    bars = frame.assign(label=names, **numbers)
    palette = {"as published": COLOURS["published"], "controlled": COLOURS["controlled"]}
    ax = sns.barplot(
        bars,
        x="label",
        y="value",
        hue="protocol",
        palette=palette,
        hue_order=list(palette),
        saturation=1,
        width=0.76,
        errorbar=None,
        ax=plt.subplots()[1],
    )
    order = list(dict.fromkeys(names))
    shift = bars["protocol"].map({"as published": -0.19, "controlled": 0.19})
    ends = (bars["value"] - bars["lo"]).fillna(0), (bars["hi"] - bars["value"]).fillna(0)
    line = {"ecolor": INK, "elinewidth": 1.2, "capsize": 3}
    ax.errorbar(bars["label"].map(order.index) + shift, bars["value"], ends, fmt="none", **line)
    ax.axhline(0, color=INK, linewidth=0.8)
    ax.set(xlabel="", ylabel=ylabel)
    ax.grid(axis="x", visible=False)
    ax.legend()
    return ax
