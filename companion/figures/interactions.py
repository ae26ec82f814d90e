"""Figures of 2x2 designs, of features that answer to them, and of clamps, from tidy frames."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from companion import figures
from companion.plots import COLOURS, INK, WIDTH

ROLES = {
    "secondary feature": "interaction",
    "primary feature, all paths": "joint",
    "primary feature, SAE alone": "sae",
    "primary feature, linear path": "linear",
    "primary feature, interaction path": "interaction",
}
"""Colour of each kind of clamp; controls have that of chance."""
WORD_GROUPS = ("formal, neutral", "formal, emotional", "casual, neutral", "casual, emotional")
SMALL = 4
"""Marker size of single words and features."""


def volcano(features: pd.DataFrame) -> Figure:
    """All features, a panel per `dictionary`: standardised interaction contrast `d` (mean over its
    standard deviation between topics) against -log10 `p`; q < 0.05 decides the colour."""
    named = figures.grouped(features, features["dictionary"] + " features")
    figure, panels = figures.panels(named, 2.6, sharex=True)
    for ax, rows in panels:
        height = -np.log10(rows.p.clip(lower=1e-300))
        passes = rows.q < 0.05
        kinds = ("does not pass", ~passes, "random"), ("passes", passes, "interaction")
        for label, on, role in kinds:
            style = {"color": COLOURS[role], "markersize": SMALL, "alpha": 0.7}
            ax.plot(rows.d[on], height[on], "o", label=f"{label} ({on.sum()})", **style)
        ax.set_ylabel("−log10 p")
        ax.legend(loc="upper center", ncols=2, handletextpad=0.2)
        ax.set_ylim(top=1.35 * ax.get_ylim()[1])
    ax.set_xlabel("interaction contrast, standard deviations")
    return figure


def cells(frame: pd.DataFrame) -> Figure:
    """Interaction plots, one panel per feature: second factor on the x axis, a line per level of
    the first. `frame`: the two factors, `feature`, `value` and, with intervals, `lo` and `hi`."""
    first, second = frame.columns[:2]
    figure, panels = figures.panels(figures.grouped(frame, "feature"), 2.1, more=0.5, columns=2)
    styles = [("sae", "o-", -0.03), ("joint", "o--", 0.03)]
    for ax, part in panels:
        lines = part.groupby(first, sort=False)
        for (level, one), (role, line, shift) in zip(lines, styles, strict=True):
            ends = figures.arms(one) if "lo" in one else None
            style = {"fmt": line, "color": COLOURS[role], "capsize": 3, "label": level}
            ax.errorbar(np.arange(2) + shift, one.value, ends, **style)
        ax.set_xticks([0, 1], part[second].unique())
        ax.set_xlim(-0.35, 1.35)
        ax.locator_params(axis="y", nbins=4)
    for ax, _ in panels[::2]:
        ax.set_ylabel("mean activation")
    figure.legend(*ax.get_legend_handles_labels(), **figures.ABOVE)
    return figure


def heat_map(frame: pd.DataFrame) -> Axes:
    """Cell means per feature (rows), divided by the feature's largest; columns as for `cells`."""
    factors = list(frame.columns[:2])
    wide = frame.pivot_table(index="feature", columns=factors, values="value", sort=False)
    wide = wide.div(wide.max(axis=1).where(lambda m: m > 0, 1), axis=0)
    _, ax = plt.subplots(figsize=(WIDTH, 1.3 + 0.34 * len(wide)))
    names = ["\n".join(cell) for cell in wide.columns]
    bar = {"label": "mean / largest"}
    sns.heatmap(wide, vmin=0, vmax=1, cmap="cividis", cbar_kws=bar, xticklabels=names, ax=ax)
    ax.set_xlabel("")
    return ax


def dose_response(contrasts: pd.DataFrame, kinds: Mapping[str, str]) -> Figure:
    """Interaction contrast against the multiplier with its interval, a panel per kind of clamp with
    its own scale, a line per condition. `contrasts`: condition, multiplier, estimate, lo, hi."""
    contrasts = contrasts.rename(columns={"estimate": "value"})
    by_kind = figures.grouped(contrasts, contrasts["condition"].map(kinds))
    figure, panels = figures.panels(by_kind, 1.8, sharex=True)
    for (ax, rows), kind in zip(panels, by_kind, strict=True):
        style = {"fmt": "o-", "color": COLOURS[ROLES.get(kind, "random")], "capsize": 3}
        for _, line in rows.sort_values("multiplier").groupby("condition"):
            ax.errorbar(line["multiplier"], line["value"], figures.arms(line), **style)
        ax.axhline(0, color=INK, linewidth=0.8)
        ax.locator_params(axis="y", nbins=4)
    figure.supylabel("interaction contrast, logit")
    ax.set_xlabel("multiplier of the feature's value")
    ax.set_xticks(sorted(contrasts["multiplier"].unique()))
    return figure


def word_scatter(shifts: pd.DataFrame) -> Figure:
    """Logit shift of every word after every prompt against the multiplier, a panel per word group
    (`formality`, `emotion`), means joined by a line."""
    x = shifts.multiplier + np.random.default_rng(0).uniform(-0.25, 0.25, len(shifts))
    groups = figures.grouped(shifts.assign(x=x), shifts.formality + ", " + shifts.emotion)
    content = {name: groups[name] for name in WORD_GROUPS}
    figure, panels = figures.panels(content, 2.3, columns=2, sharex=True, sharey=True)
    dots = {"color": COLOURS["random"], "markersize": 2, "alpha": 0.5, "rasterized": True}
    for ax, group in panels:
        means = group.groupby("multiplier").value.mean()
        ax.plot(group.x, group.value, ".", **dots)
        ax.plot(means.index, means, "o-", color=INK, markersize=SMALL)
        ax.set_xticks(means.index)
    figure.supxlabel("multiplier of the feature's value")
    figure.supylabel("logit shift")
    return figure


def over_bound(table: pd.DataFrame) -> Axes:
    """Contrasts in units of the smallest that would matter, a line per condition (index), on a
    scale that is linear up to 1, logarithmic beyond; rows of `chapters.interactions.summary`."""
    rows = table.dropna(subset="estimate_over_bound")
    ends = rows.filter(like="_over_bound").set_axis(["value", "lo", "hi"], axis=1)
    _, ax = plt.subplots(figsize=(WIDTH, 1.2 + 0.27 * len(rows)))
    ax.axvspan(-1, 1, color=COLOURS["random"], alpha=0.2, linewidth=0)
    for place, kind in enumerate(rows.kind):
        colour = COLOURS[ROLES.get(kind, "random")]
        figures.dots(ax, ends.iloc[[place]], [place], colour, markersize=5)
    ax.set_xscale("symlog", linthresh=1)
    ax.xaxis.set_major_formatter("{x:g}")
    figures.name_rows(ax, rows.index, fontsize=9)
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.set_xlabel("contrast / smallest that would matter")
    return ax
