"""Figures of the toy walkthroughs."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from companion.plots import COLOURS, INK, WIDTH

ARROWS = {
    "true": (INK, "--"),
    "principal": (COLOURS["linear"], "-"),
    "learned": (COLOURS["joint"], "-"),
}


def plane(points: np.ndarray, arrows: Mapping[str, np.ndarray]) -> Axes:
    """Points (n, 2) in the plane and sets of directions (m, 2), by a name in `ARROWS`."""
    figure, ax = plt.subplots(figsize=(4, 4))
    ax.plot(*np.asarray(points).T, ".", color=COLOURS["random"], markersize=3)
    for name, ends in arrows.items():
        colour, line = ARROWS[name]
        for i, (a, b) in enumerate(np.asarray(ends)):
            ax.plot(
                [0, a], [0, b], line, color=colour, label=f"{name} directions" if i == 0 else None
            )
            ax.plot(a, b, "o", color=colour, markersize=4)
    ax.set_aspect("equal")
    ax.set_xlabel("first number")
    ax.set_ylabel("second number")
    figure.legend(loc="outside upper center", ncols=2)
    return ax


def recovery(cosines: Mapping[str, np.ndarray]) -> Axes:
    """Histograms of the best cosine of each true feature: `trained` and `chance`."""
    figure, ax = plt.subplots()
    for name, role in (("chance", "random"), ("trained", "sae")):
        ax.hist(
            np.asarray(cosines[name]),
            bins=np.linspace(0, 1, 31),
            color=COLOURS[role],
            alpha=0.8,
            label=name,
        )
    ax.set_xlabel("largest cosine with a learned direction")
    ax.set_ylabel("true features")
    ax.legend(loc="upper left")
    return ax


def tables(panels: Mapping[str, np.ndarray]) -> Figure:
    """Tables of one size as shaded grids side by side, on one colour scale; name -> (rows, columns)."""
    figure, axes = plt.subplots(1, len(panels), figsize=(WIDTH, 2.9), sharey=True)
    arrays = {name: np.asarray(values) for name, values in panels.items()}
    low, high = (f([f(a) for a in arrays.values()]) for f in (np.min, np.max))
    for ax, (name, values) in zip(axes, arrays.items(), strict=True):
        image = ax.imshow(values, vmin=low, vmax=high, aspect="auto")
        ax.set_title(name)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.grid(visible=False)
    figure.colorbar(image, ax=axes, location="bottom", shrink=0.6, label="rating", aspect=30)
    return figure


def response(product: np.ndarray, outputs: Mapping[str, np.ndarray]) -> Axes:
    """What models write along a planted direction against the true product; names `linear` and `with pairs`."""
    figure, ax = plt.subplots()
    for name, role, marker in (("linear", "linear", "s"), ("with pairs", "interaction", "o")):
        ax.plot(
            np.asarray(product),
            np.asarray(outputs[name]),
            marker,
            color=COLOURS[role],
            markersize=3,
            alpha=0.7,
            label=name,
        )
    top = float(np.max(np.asarray(product)))
    ax.plot([0, top], [0, top], "--", color=INK, linewidth=1.2, label="truth")
    ax.set_xlabel("product of the pair's codes")
    ax.set_ylabel("added along its direction")
    ax.legend(markerscale=2.5)
    return ax


def two_errors(fvu: pd.DataFrame) -> Axes:
    """Own path and whole model of each row of a frame with columns `own path` and `whole model` (FVU), joined by a line."""
    figure, ax = plt.subplots(figsize=(WIDTH, 0.9 + 0.45 * len(fvu)))
    for place, (own, whole) in enumerate(zip(fvu["own path"], fvu["whole model"], strict=True)):
        ax.plot([own, whole], [place, place], color=COLOURS["random"], linewidth=1)
        ax.plot(
            own,
            place,
            "o",
            markerfacecolor="none",
            color=COLOURS["published"],
            label="own path" if place == 0 else None,
        )
        ax.plot(
            whole,
            place,
            "o",
            markersize=4,
            color=COLOURS["controlled"],
            label="whole model" if place == 0 else None,
        )
    ax.set_yticks(range(len(fvu)), fvu.index)
    ax.invert_yaxis()
    ax.set_xlim(left=0)
    ax.set_xlabel("variance left unexplained (FVU)")
    ax.grid(axis="y", visible=False)
    ax.legend()
    return ax


def split_gain(frame: pd.DataFrame, trained: float) -> Axes:
    """Gain over the own path against the split (columns `split`, `gain`), and the gain as trained."""
    figure, ax = plt.subplots()
    ax.plot(
        frame["split"], frame["gain"], color=COLOURS["published"], label="same outputs, other split"
    )
    ax.axhline(trained, color=COLOURS["joint"], linewidth=1, linestyle="--", label="as trained")
    ax.set_xlabel("share of the summed decoder in the linear path")
    ax.set_ylabel("gain over own path, %")
    ax.legend()
    return ax
