"""Figures of the chapter Planted truth and of the walkthroughs on toy data."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from companion import figures, plots
from companion.plots import COLOURS, INK

ARROWS = {
    "true": (INK, "--"),
    "principal": (COLOURS["linear"], "-"),
    "learned": (COLOURS["joint"], "-"),
}


def curves(means: pd.DataFrame, x: str, xlabel: str, ylabel: str, target: float) -> Axes:
    """A measure against a parameter on a logarithmic axis, a line per model with intervals, and the
    value to reach: columns model, `x`, value, lo, hi."""
    _, ax = plt.subplots()
    models = figures.grouped(means, "model").items()
    for style, (model, line) in zip(("o-", "s--", "^:"), models, strict=False):
        colour = plots.colour(model)
        ax.plot(line[x], line["value"], style, color=colour, label=model.replace("_", " "))
        ax.errorbar(
            line[x], line["value"], figures.arms(line), fmt="none", ecolor=colour, elinewidth=1
        )
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
        x, y = np.asarray(ends).T
        first, *_ = ax.plot([0 * x, x], [0 * y, y], line, color=colour)
        first.set_label(f"{name} directions")
        ax.plot(x, y, "o", color=colour, markersize=4)
    ax.set(aspect="equal", xlabel="first number", ylabel="second number")
    figure.legend(**figures.ABOVE)
    return ax
