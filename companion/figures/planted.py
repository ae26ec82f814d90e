"""Figures of the chapter Planted truth and of the walkthroughs on toy data."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from companion import plots
from companion.plots import COLOURS, INK, WIDTH

ARROWS = {
    "true": (INK, "--"),
    "principal": (COLOURS["linear"], "-"),
    "learned": (COLOURS["joint"], "-"),
}


def ranking(top: pd.DataFrame) -> Figure:
    """The largest pair scores in order, a panel per model: columns model, rank, score, planted."""
    models = top.groupby("model", sort=False)
    height = 1.2 + 1.35 * len(models)
    figure, axes = plt.subplots(len(models), 1, figsize=(WIDTH, height), sharex=True)
    for ax, (model, scores) in zip(axes, models, strict=True):
        for planted, marker, role in ((True, "o", "joint"), (False, "x", "random")):
            points = scores[scores["planted"].astype(bool) == planted]
            name = "planted" if planted else "not planted"
            style = {"color": COLOURS[role], "markersize": 5, "label": name}
            ax.plot(points["rank"], points["score"], marker, **style)
        ax.set_title(model.replace("_", " "), loc="left")
        ax.set_ylim(bottom=0)
        ax.set_ylabel("score")
    axes[0].legend(loc="upper right")
    axes[-1].set_xlabel("rank of the pair")
    return figure


def curves(means: pd.DataFrame, x: str, xlabel: str, ylabel: str, target: float) -> Axes:
    """A measure against a parameter on a logarithmic axis, a line per model with intervals, and the
    value to reach: columns model, `x`, value, lo, hi."""
    _, ax = plt.subplots()
    means = means.assign(**means[["value", "lo", "hi"]].astype(float))
    styles = zip(("o-", "s--", "^:"), means.groupby("model", sort=False), strict=False)
    for style, (model, line) in styles:
        colour = COLOURS[plots.role(model)]
        ax.plot(line[x], line["value"], style, color=colour, label=model.replace("_", " "))
        ax.vlines(line[x], line["lo"], line["hi"], color=colour, linewidth=1)
    ax.axhline(target, color=INK, linewidth=0.8, linestyle="--")
    ax.annotate("target", (means[x].min(), target), (0, 3), textcoords="offset points")
    ticks = sorted(means[x].unique())
    ax.set(xscale="log", xlabel=xlabel, ylabel=ylabel)
    ax.set_xticks(ticks, [f"{tick:,g}" for tick in ticks])
    ax.set_xticks([], minor=True)
    ax.legend(loc="lower right")
    return ax


def plane(points: np.ndarray, arrows: Mapping[str, np.ndarray]) -> Axes:
    """Points (n, 2) in the plane and sets of directions (m, 2), by a name in `ARROWS`."""
    figure, ax = plt.subplots(figsize=(4, 4))
    ax.plot(*np.asarray(points).T, ".", color=COLOURS["random"], markersize=3)
    for name, ends in arrows.items():
        colour, line = ARROWS[name]
        for i, (a, b) in enumerate(np.asarray(ends)):
            label = f"{name} directions" if i == 0 else None
            ax.plot([0, a], [0, b], line, color=colour, label=label)
            ax.plot(a, b, "o", color=colour, markersize=4)
    ax.set(aspect="equal", xlabel="first number", ylabel="second number")
    figure.legend(loc="outside upper center", ncols=2)
    return ax


def tables(panels: Mapping[str, np.ndarray], label: str) -> Figure:
    """Tables of one size as shaded grids side by side, on one colour scale: name -> (rows,
    columns)."""
    figure, axes = plt.subplots(1, len(panels), figsize=(WIDTH, 2.9), sharey=True)
    arrays = {name: np.asarray(values) for name, values in panels.items()}
    low, high = np.min(list(arrays.values())), np.max(list(arrays.values()))
    for ax, (name, values) in zip(axes, arrays.items(), strict=True):
        image = ax.imshow(values, vmin=low, vmax=high, aspect="auto")
        ax.set(title=name, xticks=[], yticks=[])
        ax.grid(visible=False)
    figure.colorbar(image, ax=axes, location="bottom", shrink=0.6, label=label, aspect=30)
    return figure


def two_errors(fvu: pd.DataFrame) -> Axes:
    """Own path and whole model of each row (columns `own path`, `whole model`; FVU), joined."""
    _, ax = plt.subplots(figsize=(WIDTH, 0.9 + 0.45 * len(fvu)))
    own, whole, places = fvu["own path"], fvu["whole model"], range(len(fvu))
    ax.hlines(places, own, whole, color=COLOURS["random"], linewidth=1)
    open_dots = {"markerfacecolor": "none", "color": COLOURS["published"], "label": "own path"}
    ax.plot(own, places, "o", **open_dots)
    ax.plot(whole, places, "o", markersize=4, color=COLOURS["controlled"], label="whole model")
    ax.set_yticks(places, fvu.index)
    ax.invert_yaxis()
    ax.set_xlim(left=0)
    ax.set_xlabel("variance left unexplained (FVU)")
    ax.grid(axis="y", visible=False)
    ax.legend()
    return ax
