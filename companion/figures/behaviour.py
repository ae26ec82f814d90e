"""Figures of the chapter on behaviour and of the walkthrough on one splice."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from companion import figures, plots
from companion.plots import COLOURS, INK, WIDTH

FLOOR = 1e-5  # nats; smaller KL is drawn here, since a logarithm has no zero
KINDS = {"alone": "added first", "last": "added last", "shapley": "mean (Shapley)"}


def with_twins(rows: pd.DataFrame, condition: str) -> list[tuple[pd.Series, str]]:
    """KL per token of a condition's random twins, with their colour, and of the condition."""
    rows = rows[rows["condition"] == condition]
    kl, twin = rows["kl"].clip(lower=FLOOR), rows["draw"] >= 0
    return [(kl[twin], COLOURS["random"]), (kl[~twin], plots.colour(condition))]


def boxes(rows: pd.DataFrame, labels: dict[str, str]) -> Axes:
    """KL per token, a box per condition and below it, grey, its random twin: rows of
    `downstream.evaluate`; `labels` says which, top to bottom.

    The box holds the middle half, its line is the median, the dot the mean; whiskers end at the 5th
    and the 95th percentile."""
    _, ax = plt.subplots(figsize=(WIDTH, 0.9 + 0.62 * len(labels)))
    for place, condition in enumerate(labels):
        for shift, (kl, c) in zip((0.18, -0.18), with_twins(rows, condition), strict=True):
            line = {"color": c, "linewidth": 1.4}
            parts = dict.fromkeys(("boxprops", "whiskerprops", "capprops"), line)
            where = {"positions": [place + shift], "widths": 0.3, "orientation": "horizontal"}
            plain = {"whis": (5, 95), "showfliers": False, "manage_ticks": False}
            ax.boxplot(kl, medianprops=line | {"linewidth": 2.4}, **parts, **where, **plain)
            ax.plot(kl.mean(), place + shift, "o", color=c, markersize=5)
    figures.name_rows(ax, list(labels.values()))
    ax.set(xscale="log", xlabel="KL per token, nats")
    return ax


def histograms(rows: pd.DataFrame, labels: dict[str, str]) -> Figure:
    """KL per token of some conditions, a panel each, over the grey histogram of its random twins:
    rows of `downstream.evaluate`. Solid lines mark the means, dotted ones the medians."""
    layers = {label: with_twins(rows, condition) for condition, label in labels.items()}
    figure, panels = figures.panels(layers, 1.35, more=0.7, sharex=True)
    bins = np.geomspace(FLOOR, max(1.0, rows["kl"].max()), 41)
    for ax, layer in panels:
        for kl, c in layer:
            percent = np.full(len(kl), 100 / max(1, len(kl)))
            ax.hist(kl, bins, weights=percent, histtype="step", color=c, linewidth=1.5)
            ax.axvline(kl.mean(), color=c, linewidth=1.2)
            ax.axvline(kl.median(), color=c, linewidth=1.2, linestyle=":")
        ax.set_ylabel("tokens, %")
    ax.set(xscale="log", xlabel="KL per token, nats")
    return figure


def by_position(rows: pd.DataFrame, labels: dict[str, str]) -> Figure:
    """Mean KL against position in the window, a panel per protocol: columns protocol, condition,
    position (first of its bin), kl."""
    palette = {labels[c]: plots.colour(c) for c in rows["condition"].unique()}
    rows = rows.assign(place=rows["position"].clip(lower=0.5), label=rows["condition"].map(labels))
    figure, panels = figures.panels(figures.grouped(rows, "protocol"), 2.5, sharex=True)
    for ax, panel in panels:
        line = {"errorbar": None, "marker": "o", "markersize": 5, "markeredgewidth": 0}
        sns.lineplot(panel, x="place", y="kl", hue="label", palette=palette, ax=ax, **line)
        ax.set(ylabel="mean KL, nats", ylim=(0, None))
        ax.legend(fontsize=9, ncols=2)
    ax.set_xscale("log", base=2)
    ax.set_xticks(sorted(rows["place"].unique()), sorted(rows["position"].unique()))
    ax.minorticks_off()
    ax.set_xlabel("position in the window (first of its bin)")
    return figure


def norm_curve(levels: pd.DataFrame, labels: dict[str, str], own: list[str]) -> Figure:
    """Mean KL against mean error norm: `levels` by condition, columns error_norm, kl, kl_random.

    Above, the grey curve joins the random twins of all conditions, the thin blue one `own`, the
    SAE's error and its shrunk copies; below, near the SAE, it is carried on as a power law."""
    figure, (ax, near) = plt.subplots(2, 1, figsize=(WIDTH, 6.6), height_ratios=(3, 2))
    random, own = levels.sort_values("error_norm"), levels.loc[own].sort_values("error_norm")
    thin = {"color": COLOURS["sae"], "linewidth": 1}
    twins = {"color": COLOURS["random"], "label": "random direction"}
    ax.plot("error_norm", "kl_random", ".-", data=random, **twins)
    ax.plot("error_norm", "kl", "x-", data=own, **thin, label="SAE's error, shrunk")
    norms = levels.loc[list(labels), "error_norm"]
    close = norms[(norms / norms["sae"]).between(0.9, 1.1)]
    for (condition, label), mark in zip(labels.items(), itertools.cycle("osD^vPX*<>h")):
        point = levels.loc[condition, ["error_norm", "kl"]]
        ax.plot(*point, mark, color=plots.colour(condition), label=label)
        if condition in close:
            near.plot(*point, mark, color=plots.colour(condition), markersize=8)
    (x0, y0), (x1, y1) = own[["error_norm", "kl"]].to_numpy()[-2:]
    x = np.linspace(close.min(), close.max(), 20)
    near.plot(x, y1 * (x / x1) ** (np.log(y1 / y0) / np.log(x1 / x0)), **thin)
    ax.set(xscale="log", yscale="log", ylabel="mean KL, nats")
    figures.log_ticks(ax.xaxis)
    figures.log_ticks(ax.yaxis)
    ticks = pd.Series([10, 15, 20, 25, 30, 40, 50, 60, 80, 100, 150])
    ax.set_xticks(ticks[ticks.between(random["error_norm"].min(), random["error_norm"].max())])
    near.set_title("near the SAE", loc="left")
    near.set(xlabel="mean length of the error", ylabel="mean KL, nats")
    figure.legend(*ax.get_legend_handles_labels(), fontsize=9, loc="outside lower center", ncols=2)
    return figure


def contributions(frame: pd.DataFrame) -> Figure:
    """What each path takes off the KL without either, a panel per model: estimates whose quantity
    is `contribution_` and a kind of `KINDS`, and whose part is the path."""
    models = figures.grouped(frame.set_index("quantity"), "model")
    figure, panels = figures.panels(models, 4.4 / len(models))
    for ax, rows in panels:
        for shift, path in ((-0.13, "linear"), (0.13, "interaction")):
            of_path = rows[rows["part"] == path].loc[[f"contribution_{kind}" for kind in KINDS]]
            figures.dots(ax, of_path, np.arange(len(KINDS)) + shift, COLOURS[path], label=path)
        figures.name_rows(ax, list(KINDS.values()))
        ax.set_ylim(len(KINDS) - 0.5, -0.5)
        ax.axvline(0, color=INK, linewidth=0.8)
        ax.set_xlabel("KL removed, % of the KL without the paths")
    figure.axes[0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    return figure
