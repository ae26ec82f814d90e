"""Figures of 2x2 designs, of features that answer to them, and of clamps. Each takes a tidy
frame."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from companion.plots import COLOURS, INK, WIDTH

ROLES = {
    "secondary feature": "interaction",
    "primary feature, all paths": "joint",
    "primary feature, SAE alone": "sae",
    "primary feature, linear path": "linear",
    "primary feature, interaction path": "interaction",
}
"""Colour of each kind of clamp; controls have that of chance."""
SMALL = 4
"""Marker size of single words and features."""


def volcano(features: pd.DataFrame) -> Figure:
    """All features, a panel per `dictionary`: standardised interaction contrast `d` (mean over its
    standard deviation between topics) against -log10 `p`; q < 0.05 decides the colour."""
    panels = list(features.groupby("dictionary", sort=False))
    figure, axes = plt.subplots(len(panels), figsize=(WIDTH, 2.6 * len(panels)), sharex=True)
    for ax, (name, rows) in zip(np.atleast_1d(axes), panels, strict=True):
        height = -np.log10(rows.p.clip(lower=1e-300))
        for passes, role, label in (
            (False, "random", "does not pass"),
            (True, "interaction", "passes"),
        ):
            on = (rows.q < 0.05) == passes
            style = {"color": COLOURS[role], "markersize": SMALL, "alpha": 0.7}
            ax.plot(rows.d[on], height[on], "o", label=f"{label} ({on.sum()})", **style)
        ax.set_ylabel("−log10 p")
        ax.set_title(f"{name} features", loc="left")
        ax.legend(loc="upper center", ncols=2, handletextpad=0.2)
        ax.set_ylim(top=1.35 * ax.get_ylim()[1])
    ax.set_xlabel("interaction contrast, standard deviations")
    return figure


def cells(frame: pd.DataFrame) -> Figure:
    """Interaction plots, one panel per feature: second factor on the x axis, a line per level of
    the first. `frame`: the two factors, `feature`, `value` and, if there are intervals, `lo`,
    `hi`."""
    (first, second), panels = frame.columns[:2], frame.groupby("feature", sort=False)
    rows = -(-len(panels) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(WIDTH, 0.5 + 2.1 * rows), squeeze=False)
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    styles = [("sae", "o-", -0.03), ("joint", "o--", 0.03)]
    for ax, (feature, part) in zip(axes.flat, panels, strict=False):
        lines = part.groupby(first, sort=False)
        for (level, one), (role, line, shift) in zip(lines, styles, strict=True):
            ends = [one.value - one.lo, one.hi - one.value] if "lo" in one else None
            style = {"fmt": line, "color": COLOURS[role], "capsize": 3, "label": level}
            ax.errorbar(np.arange(2) + shift, one.value, ends, **style)
        ax.set_xticks([0, 1], part[second].unique())
        ax.set_xlim(-0.35, 1.35)
        ax.set_title(str(feature), loc="left")
        ax.locator_params(axis="y", nbins=4)
    for ax in axes[:, 0]:
        ax.set_ylabel("mean activation")
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def heat_map(frame: pd.DataFrame) -> Axes:
    """Cell means per feature (rows), divided by the feature's largest; columns as for `cells`."""
    factors = list(frame.columns[:2])
    wide = frame.pivot_table(index="feature", columns=factors, values="value", sort=False)
    wide = wide.div(wide.max(axis=1).where(lambda m: m > 0, 1), axis=0)
    _, ax = plt.subplots(figsize=(WIDTH, 1.3 + 0.34 * len(wide)))
    sns.heatmap(wide, vmin=0, vmax=1, cmap="cividis", cbar_kws={"label": "mean / largest"}, ax=ax)
    ax.set(xlabel="", xticklabels=["\n".join(cell) for cell in wide.columns])
    return ax


def activations(panels: Mapping[str, np.ndarray]) -> Figure:
    """Histograms of the activations above 0, one panel per name; the others are counted."""
    figure, axes = plt.subplots(len(panels), figsize=(WIDTH, 2.1 * len(panels)), squeeze=False)
    for ax, (name, values) in zip(axes.flat, panels.items(), strict=True):
        on = values[values > 0]
        ax.hist(on, bins=40, color=COLOURS["interaction"])
        ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
        ax.set_ylabel("features")
        ax.set_title(f"{name}: {len(on):,} of {len(values):,} above 0", loc="left")
    ax.set_xlabel("activation")
    return figure


def dose_response(contrasts: pd.DataFrame, kinds: Mapping[str, str]) -> Figure:
    """Interaction contrast against the multiplier with its interval, a panel per kind of clamp with
    its own scale, a line per condition. `contrasts`: condition, multiplier, estimate, lo, hi."""
    panels = list(contrasts.groupby(contrasts.condition.map(kinds), sort=False))
    size = (WIDTH, 1.8 * len(panels))
    figure, axes = plt.subplots(len(panels), figsize=size, sharex=True, squeeze=False)
    for ax, (kind, rows) in zip(axes.flat, panels, strict=True):
        for _, line in rows.sort_values("multiplier").groupby("condition"):
            ends = [(line.estimate - line.lo).fillna(0), (line.hi - line.estimate).fillna(0)]
            style = {"fmt": "o-", "color": COLOURS[ROLES.get(kind, "random")], "capsize": 3}
            ax.errorbar(line.multiplier, line.estimate, ends, **style)
        ax.axhline(0, color=INK, linewidth=0.8)
        ax.set_title(kind, loc="left")
        ax.locator_params(axis="y", nbins=4)
    figure.supylabel("interaction contrast, logit", fontsize=11)
    ax.set_xlabel("multiplier of the feature's value")
    ax.set_xticks(sorted(contrasts.multiplier.unique()))
    return figure


def word_scatter(shifts: pd.DataFrame) -> Figure:
    """Logit shift of every word after every prompt against the multiplier, a panel per word group
    (`formality`, `emotion`), means joined by a line."""
    figure, axes = plt.subplots(2, 2, figsize=(WIDTH, 4.6), sharex=True, sharey=True)
    groups = [(f, e) for f in ("formal", "casual") for e in ("neutral", "emotional")]
    x = shifts.multiplier + np.random.default_rng(0).uniform(-0.25, 0.25, len(shifts))
    dots = {"color": COLOURS["random"], "markersize": 2, "alpha": 0.5, "rasterized": True}
    for ax, (formality, emotion) in zip(axes.flat, groups, strict=True):
        on = (shifts.formality == formality) & (shifts.emotion == emotion)
        means = shifts[on].groupby("multiplier").value.mean()
        ax.plot(x[on], shifts.value[on], ".", **dots)
        ax.plot(means.index, means, "o-", color=INK, markersize=SMALL)
        ax.set_title(f"{formality}, {emotion}", loc="left")
        ax.set_xticks(means.index)
    figure.supxlabel("multiplier of the feature's value", fontsize=11)
    figure.supylabel("logit shift", fontsize=11)
    return figure


def over_bound(table: pd.DataFrame) -> Axes:
    """Contrasts in units of the smallest that would matter, a line per condition (index), on a
    scale that is linear up to 1 and logarithmic beyond. Columns `kind`, and `estimate`, `lo` and
    `hi`, each `..._over_bound`."""
    rows = table.dropna(subset="estimate_over_bound")
    _, ax = plt.subplots(figsize=(WIDTH, 1.2 + 0.27 * len(rows)))
    ax.axvspan(-1, 1, color=COLOURS["random"], alpha=0.2, linewidth=0)
    for place, row in enumerate(rows.itertuples()):
        colour = COLOURS[ROLES.get(row.kind, "random")]
        ax.plot([row.lo_over_bound, row.hi_over_bound], [place, place], color=colour)
        ax.plot(row.estimate_over_bound, place, "o", color=colour, markersize=5)
    ax.set_xscale("symlog", linthresh=1)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_yticks(range(len(rows)), rows.index, fontsize=9)
    ax.invert_yaxis()
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("contrast / smallest that would matter")
    return ax


def small_multiples(frame: pd.DataFrame, xlabel: str, ylabel: str, nominal: float) -> Figure:
    """A panel per `panel`, a line per further column over `x`; `nominal` is marked across."""
    panels, lines = frame.groupby("panel", sort=False), frame.columns.drop(["panel", "x"])
    rows, styles = -(-len(panels) // 2), [("published", "o-"), ("controlled", "o--")]
    size = (WIDTH, 0.6 + 2.0 * rows)
    figure, axes = plt.subplots(rows, 2, figsize=size, sharex=True, sharey=True, squeeze=False)
    for ax, (name, part) in zip(axes.flat, panels, strict=False):
        for line, (role, style) in zip(lines, styles, strict=True):
            ax.plot(part.x, part[line], style, color=COLOURS[role], markersize=SMALL, label=line)
        ax.axhline(nominal, color=INK, linewidth=0.8)
        ax.set_xscale("log")
        ax.set_xticks(part.x, map(str, part.x))
        ax.minorticks_off()
        ax.set_title(name, loc="left", fontsize=10)
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    figure.supxlabel(xlabel, fontsize=11)
    figure.supylabel(ylabel, fontsize=11)
    return figure
