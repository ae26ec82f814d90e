"""Figures of the chapters that ask where the gain comes from."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from companion.plots import COLOURS, WIDTH


def split_curves(frame: pd.DataFrame, paper: float, trained: tuple[float, float]) -> Axes:
    """Gain as published against the share of the summed decoder that the linear path holds.

    `frame`: columns model (a name in `plots.COLOURS`), split, gain and closed_form; `paper` is the published gain, `trained` the split and
    the gain of the joint model as its training left it.
    """
    figure, ax = plt.subplots(figsize=(WIDTH, 3.6))
    for name, rows in frame.groupby("model", sort=False):
        ax.plot(rows["split"], rows["gain"], color=COLOURS[name], label=name)
        ax.plot(rows["split"], rows["closed_form"], "--", color=COLOURS[name], linewidth=1)
    ax.axhline(paper, color=COLOURS["published"], linewidth=1)
    ax.annotate(
        f"the paper's {paper:g} %",
        (0.0, paper),
        (0, 3),
        textcoords="offset points",
        ha="center",
        color=COLOURS["published"],
    )
    ax.plot(*trained, "o", color=COLOURS["joint"], label="joint, as trained")
    ax.set_xlabel("share of the summed decoder in the linear path")
    ax.set_ylabel("gain as published, %")
    ax.legend(loc="lower right")
    return ax


def conservation(frame: pd.DataFrame) -> Axes:
    """How far W_dec and W_lin - W_dec have moved against steps, on a log scale: columns sees, step, difference, decoder."""
    figure, ax = plt.subplots()
    for (label, rows), style in zip(frame.groupby("sees", sort=False), ("-", "--"), strict=True):
        ax.plot(
            rows["step"], rows["decoder"], style, color=COLOURS["sae"], label=f"decoder; {label}"
        )
        ax.plot(
            rows["step"],
            rows["difference"],
            style,
            color=COLOURS["linear"],
            label=f"difference; {label}",
        )
    ax.set_yscale("log")
    ax.set_xlabel("steps")
    ax.set_ylabel("distance moved (Frobenius)")
    ax.legend(loc="center right")
    return ax
