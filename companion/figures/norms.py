"""Figures of the chapter on norms."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from companion import figures
from companion.estimates import number
from companion.plots import COLOURS, INK, WIDTH

SHARES = {
    "nfm": "whole NFM",
    "linear": "linear path",
    "interaction": "interaction path",
    "decoder": "decoder",
}
ROLES = {"SAE alone": "sae", "joint model": "joint"}
WEIGHTS = {"trained": COLOURS["joint"], "drawn anew": COLOURS["random"]}
VIOLIN = {"inner": None, "cut": 0, "density_norm": "width", "width": 0.9}
VIOLIN |= {"linewidth": 0, "alpha": 0.8, "saturation": 1}
DRAWN = 500
"""Dots of a scatter plot; more would only grow the file."""


def scatter(ax: Axes, features: pd.DataFrame, x: str, y: str, colour: str, **style) -> None:
    """A small dot per feature, of at most `DRAWN`, drawn at random but always the same."""
    seen = features.sample(min(DRAWN, len(features)), random_state=0)
    ax.plot(x, y, ".", data=seen, color=colour, markersize=3, **style)


def histograms(histories: Mapping[str, pd.DataFrame], splits: Mapping[str, float]) -> Figure:
    """Squared norms of the SAE and of the joint model: as published filled, controlled as an
    outline, and at the start of training; the split of those as published dashed."""
    figure, panels = figures.panels(ROLES, 2.4, sharex=True)
    bins = np.linspace(0, 1.05 * max(h.s.quantile(0.995) for h in histories.values()), 61)
    for ax, role in panels:
        published, split = histories[f"{role}_published"], splits[f"{role}_published"]
        layers = {
            "at the start": (published.start, {"color": COLOURS["random"], "alpha": 0.6}),
            "trained, as published": (published.s, {"color": COLOURS[role], "alpha": 0.75}),
            "trained, controlled": (histories[role].s, {"color": INK, "histtype": "step"}),
        }
        _, *heights = [
            ax.hist(s, bins, density=True, label=label, **style)[0].max()
            for label, (s, style) in layers.items()
        ]
        if split < bins[-1]:
            ax.axvline(split, color=INK, linestyle="--", linewidth=1)
        ax.set(ylim=(0, 1.1 * max(heights)), ylabel="density")
    figure.axes[0].legend()
    ax.set_xlabel("squared norm of the feature's direction")
    return figure


def against(histories: Mapping[str, pd.DataFrame], x: str, xlabel: str) -> Figure:
    """Squared norm against `x`, a column that is positive or 0, one panel per role, logarithmic;
    a line of medians, and grey: norms at the start."""
    figure, panels = figures.panels(ROLES, 2.4, sharex=True, sharey=True)
    for ax, role in panels:
        features = histories[role]
        seen = features.assign(x=features[x].clip(lower=features[x][features[x] > 0].min() / 2))
        ends = features.start.min(), features.start.max()
        ax.axhspan(*ends, color=COLOURS["random"], alpha=0.4, linewidth=0)
        scatter(ax, seen, "x", "s", COLOURS[role])
        groups = pd.qcut(features[x].rank(method="first"), min(20, len(seen)), labels=False)
        ax.plot("x", "s", data=seen.groupby(groups)[["x", "s"]].median(), color=INK)
        ax.set(xscale="log", yscale="log", ylabel="squared norm")
        figures.log_ticks(ax.yaxis)
        ax.xaxis.set_minor_formatter("")
    ax.set_xlabel(xlabel)
    return figure


def violins(trained: pd.DataFrame, drawn: pd.DataFrame, split: float) -> Axes:
    """Shares of the weight norms for low- and high-norm features: trained above each line, freshly
    drawn integration weights below it; both with `norms.weight_shares`' columns."""
    _, ax = plt.subplots(figsize=(WIDTH, 4.6))
    both = pd.concat(dict(zip(WEIGHTS, (trained, drawn), strict=True)), names=["weights"])
    both = both.assign(group=np.where(both.s < split, "low", "high")).reset_index("weights")
    long = both.melt(["weights", "group"], list(SHARES), "share", "value")
    long = long.assign(row=long.share.map(SHARES) + ", " + long.group, value=100 * long.value)
    rows = [f"{share}, {group}" for share in SHARES.values() for group in ("low", "high")]
    how = {"data": long, "x": "value", "y": "row", "order": rows, "hue": "weights", "ax": ax}
    sns.violinplot(**how, **VIOLIN, split=True, palette=WEIGHTS, legend=False)
    medians = {"estimator": "median", "errorbar": None, "linestyle": "none", "marker": "|"}
    sns.pointplot(**how, **medians, dodge=0.3, palette=[INK, INK], markersize=9, legend=False)
    ax.set_yticks(range(len(rows)), [r + " (none)" * (r not in set(long.row)) for r in rows])
    ax.set(xlabel="share of weight norms, %", ylabel="")
    ax.grid(axis="y", visible=False)
    handles = [Patch(color=colour, label=name) for name, colour in WEIGHTS.items()]
    ax.figure.legend(handles=handles, **figures.ABOVE)
    return ax


def scatters(trained: pd.DataFrame, drawn: pd.DataFrame) -> Figure:
    """Squared norm against each share, trained and drawn anew, with both rank correlations."""
    figure, axes = plt.subplots(2, 2, figsize=(WIDTH, 4.8), sharex=True)
    trained, drawn = (frame.assign(**100 * frame[list(SHARES)]) for frame in (trained, drawn))
    for ax, (share, name) in zip(axes.flat, SHARES.items(), strict=True):
        scatter(ax, drawn, "s", share, COLOURS["random"])
        scatter(ax, trained, "s", share, COLOURS["joint"])
        r, null = (number(f.s.corr(f[share], method="spearman"), ".2f") for f in (trained, drawn))
        ax.set_title(f"{name}\nr = {r}, null {null}", fontsize=10)
    figure.supxlabel("squared norm")
    figure.supylabel("share of weight norms, %")
    dot = {"marker": "o", "linestyle": ""}
    handles = [Line2D([], [], color=c, label=name, **dot) for name, c in WEIGHTS.items()]
    figure.legend(handles=handles, **figures.ABOVE)
    return figure
