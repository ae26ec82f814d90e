"""Figures of the chapters that ask where the gain comes from."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from companion.plots import COLOURS, INK, WIDTH


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


def waterfall(orders: dict[str, pd.DataFrame], ylabel: str) -> Figure:
    """One panel per order of the switches; a bar with its figure per protocol, from the published one to the controlled one.

    Each frame has columns label, value, lo, hi; the first row is as published, the last controlled. Between them a thin line carries the
    previous bar's height over, so that each step can be read off.
    """
    figure, axes = plt.subplots(
        len(orders),
        1,
        figsize=(WIDTH, 0.7 + sum(0.9 + 0.33 * len(f) for f in orders.values())),
        sharex=True,
    )
    for ax, (title, frame) in zip(axes, orders.items(), strict=True):
        last = len(frame) - 1
        for i, row in enumerate(frame.itertuples()):
            role = "published" if i == 0 else "controlled" if i == last else "random"
            ax.barh(i, row.value, 0.62, color=COLOURS[role])
            ax.errorbar(
                row.value,
                i,
                xerr=[[row.value - row.lo], [row.hi - row.value]],
                ecolor=INK,
                elinewidth=1.2,
                capsize=3,
            )
            figures = f"{row.value:.1f}" if abs(row.value) >= 1 else f"{row.value:.2f}"
            ax.annotate(
                figures.replace("-", "−"),
                (max(0.0, row.hi), i),
                (5, 0),
                textcoords="offset points",
                va="center",
                fontsize=10,
            )
            if i < last:
                ax.plot([row.value] * 2, [i, i + 1], color=INK, linewidth=0.8)
        ax.set_yticks(range(len(frame)), frame["label"])
        ax.invert_yaxis()
        ax.axvline(0, color=INK, linewidth=0.8)
        ax.grid(axis="y", visible=False)
        ax.set_title(title, loc="left")
    axes[-1].margins(x=0.12)  # room for the figures
    axes[-1].set_xlabel(ylabel)
    return figure


def tuning(frame: pd.DataFrame) -> Axes:
    """Validation FVU of every trial by family: columns family, role (in `plots.COLOURS`), fvu, chosen (bool).

    The axis ends where a trial is worse than the median by five times as much as the best is better; beyond, an arrow stands at the edge.
    """
    figure, ax = plt.subplots(figsize=(WIDTH, 0.9 + 0.45 * frame["family"].nunique()))
    families = list(dict.fromkeys(frame["family"]))
    median, best = frame["fvu"].median(), frame["fvu"].min()
    edge = median + 5 * (median - best)
    for row in frame.itertuples():
        face = COLOURS[row.role] if row.chosen else "none"
        marker = ">" if row.fvu > edge > best else "o"
        ax.plot(
            min(row.fvu, edge) if edge > best else row.fvu,
            families.index(row.family),
            marker,
            color=COLOURS[row.role],
            markerfacecolor=face,
        )
    ax.set_yticks(range(len(families)), families)
    ax.invert_yaxis()
    ax.set_xlabel("validation FVU")
    return ax
