"""What the split between decoder and linear path does, and what training does to it."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from companion.plots import COLOURS, WIDTH


def split_curves(frame: pd.DataFrame, paper: float, trained: tuple[float, float]) -> Axes:
    """Gain as published against the share of the summed decoder that the linear path holds.

    `frame`: columns model, split, gain and closed_form; `paper` is the published gain, `trained`
    the split and the gain of the joint model as its training left it.
    """
    _, ax = plt.subplots(figsize=(WIDTH, 3.6))
    for name, rows in frame.groupby("model", sort=False):
        ax.plot(rows["split"], rows["gain"], color=COLOURS[name], label=name)
        ax.plot(rows["split"], rows["closed_form"], "--", color=COLOURS[name], linewidth=1)
    ax.axhline(paper, color=COLOURS["published"], linewidth=1)
    above = {"textcoords": "offset points", "ha": "center", "color": COLOURS["published"]}
    ax.annotate(f"the paper's {paper:g} %", (0.0, paper), (0, 3), **above)
    ax.plot(*trained, "o", color=COLOURS["joint"], label="joint, as trained")
    ax.set_xlabel("share of the summed decoder in the linear path")
    ax.set_ylabel("gain as published, %")
    ax.legend(loc="lower right")
    return ax


def conservation(kept: dict[str, pd.DataFrame]) -> Axes:
    """How far decoder and difference have moved against steps, on a log scale, by what the linear
    path sees: frames indexed by step with columns decoder, difference."""
    _, ax = plt.subplots()
    for (sees, moved), style in zip(kept.items(), ("-", "--"), strict=True):
        for name, role in (("decoder", "sae"), ("difference", "linear")):
            ax.plot(moved[name], style, color=COLOURS[role], label=f"{name}; {sees}")
    ax.set_yscale("log")
    ax.set_xlabel("steps")
    ax.set_ylabel("distance moved (Frobenius)")
    ax.legend(loc="center right")
    return ax
