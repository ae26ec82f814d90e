"""Figures of the chapter Planted truth."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from companion.plots import COLOURS, INK, WIDTH

ROLES = {
    "true codes": ("controlled", "o", "-"),
    "sequential": ("sequential", "s", "--"),
    "joint": ("joint", "^", ":"),
}


def ranking(top: Mapping[str, Sequence[tuple[float, bool]]]) -> Figure:
    """The largest pair scores in order, a panel per setting: setting -> (score, planted or not)."""
    figure, axes = plt.subplots(len(top), 1, figsize=(WIDTH, 1.2 + 1.35 * len(top)), sharex=True)
    for ax, (name, scores) in zip(axes, top.items(), strict=True):
        for planted, marker, colour in (
            (True, "o", COLOURS["joint"]),
            (False, "x", COLOURS["random"]),
        ):
            points = [
                (rank, score)
                for rank, (score, is_planted) in enumerate(scores, 1)
                if bool(is_planted) == planted
            ]
            label = "planted" if planted else "not planted"
            ax.plot(
                *zip(*points, strict=True) if points else ([], []),
                marker,
                color=colour,
                markersize=5,
                label=label,
            )
        ax.set_title(name, loc="left")
        ax.set_ylim(bottom=0)
        ax.set_ylabel("score")
    axes[0].legend(loc="upper right")
    axes[-1].set_xlabel("rank of the pair")
    return figure


def curves(
    frame: pd.DataFrame, x: str, xlabel: str, ylabel: str, target: float | None = None
) -> Axes:
    """A measure against a parameter on a logarithmic axis, a line per setting with intervals: columns setting, `x`, value, lo, hi."""
    figure, ax = plt.subplots()
    for name, rows in frame.groupby("setting", sort=False):
        role, marker, line = ROLES[name]
        rows = rows.sort_values(x)
        ax.plot(rows[x], rows["value"], marker + line, color=COLOURS[role], label=name)
        ax.vlines(
            rows[x],
            rows["lo"].astype(float).fillna(rows["value"]),
            rows["hi"].astype(float).fillna(rows["value"]),
            color=COLOURS[role],
            linewidth=1,
        )
    if target is not None:
        ax.axhline(target, color=INK, linewidth=0.8, linestyle="--")
        ax.annotate("target", (frame[x].min(), target), (0, 3), textcoords="offset points")
    ax.set_xscale("log")
    ticks = sorted(frame[x].unique())
    ax.set_xticks(ticks, [f"{t:,g}" for t in ticks])
    ax.set_xticks([], minor=True)
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.legend(loc="lower right")
    return ax
