"""Figures of the chapter on behaviour and of the walkthrough on one splice."""

import itertools

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from companion import plots
from companion.plots import COLOURS, INK, WIDTH

FLOOR = 1e-5  # nats; smaller KL is drawn here, since a logarithm has no zero
KINDS = {"alone": "added first", "last": "added last", "shapley": "mean (Shapley)"}


def colour(condition: str) -> str:
    """The colour of a condition, as everywhere in the book."""
    return COLOURS[plots.role(condition)]


def with_twins(rows: pd.DataFrame, condition: str) -> list[tuple[pd.Series, str]]:
    """KL per token of a condition's random twins, with their colour, and of the condition."""
    rows = rows[rows["condition"] == condition]
    kl = rows["kl"].clip(lower=FLOOR)
    return [(kl[rows["draw"] >= 0], COLOURS["random"]), (kl[rows["draw"] < 0], colour(condition))]


def boxes(rows: pd.DataFrame, labels: dict[str, str]) -> Axes:
    """KL per token, a box per condition and below it, grey, its random twin: rows of
    `downstream.evaluate`; `labels` says which, top to bottom.

    The box holds the middle half, the line is the median, the dot the mean, whiskers reach from the
    5th to the 95th percentile.
    """
    _, ax = plt.subplots(figsize=(WIDTH, 0.9 + 0.62 * len(labels)))
    for place, condition in enumerate(labels):
        for shift, (kl, c) in zip((0.18, -0.18), with_twins(rows, condition), strict=True):
            line = {"color": c, "linewidth": 1.4}
            parts = dict.fromkeys(("boxprops", "whiskerprops", "capprops"), line)
            where = {"positions": [place + shift], "widths": 0.3, "orientation": "horizontal"}
            plain = {"whis": (5, 95), "showfliers": False, "manage_ticks": False}
            ax.boxplot(kl, medianprops=line | {"linewidth": 2.4}, **parts, **where, **plain)
            ax.plot(kl.mean(), place + shift, "o", color=c, markersize=5)
    ax.set_yticks(range(len(labels)), labels.values())
    ax.invert_yaxis()
    ax.set_xscale("log")
    ax.set_xlabel("KL per token, nats")
    ax.grid(axis="y", visible=False)
    return ax


def histograms(rows: pd.DataFrame, labels: dict[str, str]) -> Figure:
    """KL per token of some conditions, a panel each, over the grey histogram of its random twins:
    rows of `downstream.evaluate`. Solid lines mark the means, dotted ones the medians.
    """
    size = (WIDTH, 0.7 + 1.35 * len(labels))
    figure, axes = plt.subplots(len(labels), 1, figsize=size, sharex=True, squeeze=False)
    bins = np.geomspace(FLOOR, max(1.0, rows["kl"].max()), 41)
    for ax, (condition, label) in zip(axes[:, 0], labels.items(), strict=True):
        for kl, c in with_twins(rows, condition):
            percent = np.full(len(kl), 100 / max(1, len(kl)))
            ax.hist(kl, bins, weights=percent, histtype="step", color=c, linewidth=1.5)
            ax.axvline(kl.mean(), color=c, linewidth=1.2)
            ax.axvline(kl.median(), color=c, linewidth=1.2, linestyle=":")
        ax.set_title(label, loc="left")
        ax.set_ylabel("tokens, %")
    axes[-1, 0].set_xscale("log")
    axes[-1, 0].set_xlabel("KL per token, nats")
    return figure


def by_position(rows: pd.DataFrame, labels: dict[str, str]) -> Figure:
    """Mean KL against position in the window, a panel per protocol: columns protocol, condition,
    position (first of its bin), kl."""
    figure, axes = plt.subplots(2, 1, figsize=(WIDTH, 5.0), sharex=True)
    palette = {labels[c]: colour(c) for c in rows["condition"].unique()}
    rows = rows.assign(place=rows["position"].clip(lower=0.5), label=rows["condition"].map(labels))
    for ax, (protocol, panel) in zip(axes, rows.groupby("protocol", sort=True), strict=True):
        line = {"errorbar": None, "marker": "o", "markersize": 5, "markeredgewidth": 0}
        sns.lineplot(panel, x="place", y="kl", hue="label", palette=palette, ax=ax, **line)
        ax.set_title(protocol, loc="left")
        ax.set_ylabel("mean KL, nats")
        ax.set_ylim(bottom=0)
        ax.legend(fontsize=9, ncols=2)
    places = sorted(rows["position"].unique())
    axes[-1].set_xscale("log", base=2)
    axes[-1].set_xticks([max(0.5, place) for place in places], places)
    axes[-1].minorticks_off()
    axes[-1].set_xlabel("position in the window (first of its bin)")
    return figure


def norm_curve(levels: pd.DataFrame, labels: dict[str, str], own: list[str]) -> Figure:
    """Mean KL against mean error norm: `levels` by condition, columns error_norm, kl, kl_random.

    Above, the grey curve joins the random twins of all conditions, the thin blue one `own`, the
    SAE's error and its shrunk copies. Below, the surroundings of the SAE, with that blue curve
    carried on as a power law.
    """
    figure, (ax, near) = plt.subplots(2, 1, figsize=(WIDTH, 6.6), height_ratios=(3, 2))
    random, own = levels.sort_values("error_norm"), levels.loc[own].sort_values("error_norm")
    grey, blue = COLOURS["random"], COLOURS["sae"]
    ax.plot(random["error_norm"], random["kl_random"], ".-", color=grey, label="random direction")
    thin = {"color": blue, "linewidth": 1}
    ax.plot(own["error_norm"], own["kl"], "x-", label="SAE's error, shrunk", **thin)
    norms = levels.loc[list(labels), "error_norm"]
    close = norms[(norms / norms["sae"]).between(0.9, 1.1)]
    for (condition, label), mark in zip(labels.items(), itertools.cycle("osD^vPX*<>h")):
        point = levels.loc[condition, ["error_norm", "kl"]]
        ax.plot(*point, mark, color=colour(condition), label=label)
        if condition in close:
            near.plot(*point, mark, color=colour(condition), markersize=8)
    (x0, y0), (x1, y1) = own[["error_norm", "kl"]].to_numpy()[-2:]
    x = np.linspace(close.min(), close.max(), 20)
    near.plot(x, y1 * (x / x1) ** (np.log(y1 / y0) / np.log(x1 / x0)), **thin)
    ax.set(xscale="log", yscale="log")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    ticks, ends = (10, 15, 20, 25, 30, 40, 50, 60, 80, 100, 150), random["error_norm"].iloc[[0, -1]]
    ax.set_xticks([t for t in ticks if ends.iloc[0] <= t <= ends.iloc[1]])
    near.set_title("near the SAE", loc="left")
    near.set_xlabel("mean length of the error")
    for each in (ax, near):
        each.set_ylabel("mean KL, nats")
    figure.legend(*ax.get_legend_handles_labels(), fontsize=9, loc="outside lower center", ncols=2)
    return figure


def contributions(frame: pd.DataFrame) -> Figure:
    """What each path takes off the KL without either, a panel per model: estimates whose quantity
    is `contribution_` and a kind of `KINDS`, and whose part is the path."""
    models = frame["model"].unique()
    figure, axes = plt.subplots(len(models), 1, figsize=(WIDTH, 4.4), squeeze=False)
    for ax, model in zip(axes[:, 0], models, strict=True):
        for shift, path in ((-0.13, "linear"), (0.13, "interaction")):
            rows = frame[(frame["model"] == model) & (frame["part"] == path)]
            rows = rows.set_index("quantity").loc[[f"contribution_{kind}" for kind in KINDS]]
            places = np.arange(len(KINDS)) + shift
            if rows["lo"].notna().all():
                ax.hlines(places, rows["lo"], rows["hi"], color=COLOURS[path])
            ax.plot(rows["value"], places, "o", color=COLOURS[path], label=path)
        ax.set_yticks(range(len(KINDS)), KINDS.values())
        ax.set_ylim(len(KINDS) - 0.5, -0.5)
        ax.axvline(0, color=INK, linewidth=0.8)
        ax.grid(axis="y", visible=False)
        ax.set_title(model, loc="left")
        ax.set_xlabel("KL removed, % of the KL without the paths")
    axes[0, 0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    return figure


def strip(kl: pd.DataFrame) -> Axes:
    """KL token by token: a row per token (the index, in order), a column per reconstruction, colour
    and number for the KL in nats; the colour follows its root."""
    _, ax = plt.subplots(figsize=(WIDTH, 1.0 + 0.3 * len(kl)))
    root = np.sqrt(kl / max(kl.to_numpy().max(), FLOOR))
    look = {"cmap": mpl.rcParams["image.cmap"], "vmin": 0, "vmax": 1, "cbar": False}
    sns.heatmap(root, annot=kl, fmt=".2f", annot_kws={"fontsize": 10}, ax=ax, **look)
    ax.tick_params(length=0, labeltop=True, labelbottom=False, rotation=0)
    ax.set_ylabel("")
    return ax


def top_predictions(frame: pd.DataFrame) -> Figure:
    """Probabilities of the likeliest next tokens, a panel per condition: columns condition, token,
    probability, and role, the name of a colour."""
    panels = frame.groupby("condition", sort=False)
    size = (WIDTH, 0.5 + 0.3 * len(frame) + 0.4 * len(panels))
    figure, axes = plt.subplots(len(panels), 1, figsize=size, sharex=True, squeeze=False)
    for ax, (condition, rows) in zip(axes[:, 0], panels, strict=True):
        places = np.arange(len(rows))  # two different tokens may read the same
        ax.barh(places, rows["probability"], color=COLOURS[rows["role"].iloc[0]])
        ax.set_yticks(places, rows["token"])
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
        ax.set_title(condition, loc="left")
    axes[-1, 0].set_xlabel("probability")
    return figure
