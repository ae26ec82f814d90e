"""Figures of the chapter on interactions: designs, features, clamps. Each takes a tidy frame and returns an `Axes` or a `Figure`."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from companion.plots import COLOURS, INK, WIDTH

ROLES = {
    "secondary feature": "interaction",
    "primary feature, all paths": "joint",
    "primary feature, SAE alone": "sae",
    "primary feature, linear path": "linear",
    "primary feature, interaction path": "interaction",
    "unselective secondary feature": "random",
    "inactive secondary feature": "random",
    "random direction": "random",
}
"""Colour of each kind of intervention."""
SMALL = 4
"""Marker size of single words and features."""


def volcano(tables: dict[str, pd.DataFrame], alpha: float = 0.05) -> Figure:
    """All features of each dictionary, one panel each: standardised interaction contrast against -log10 p; `q` decides the colour.

    Each frame has columns `d` (mean contrast over its standard deviation between topics), `p` and `q`.
    """
    figure, axes = plt.subplots(len(tables), figsize=(WIDTH, 2.6 * len(tables)), sharex=True)
    for ax, (name, table) in zip(np.atleast_1d(axes), tables.items(), strict=True):
        passed = table.q < alpha
        for rows, role, label in (
            (table[~passed], "random", "does not pass"),
            (table[passed], "interaction", "passes"),
        ):
            height = -np.log10(rows.p.clip(lower=1e-300))
            ax.plot(
                rows.d,
                height,
                "o",
                color=COLOURS[role],
                markersize=SMALL,
                alpha=0.7,
                label=f"{label} ({len(rows)})",
            )
        ax.set_ylabel("−log10 p")
        ax.set_title(name, loc="left")
        ax.legend(loc="upper center", ncols=2, handletextpad=0.2)
        ax.set_ylim(top=1.35 * ax.get_ylim()[1])
    ax.set_xlabel("interaction contrast, standard deviations")
    return figure


def cells(frame: pd.DataFrame, ylabel: str = "mean activation") -> Figure:
    """Interaction plots, one panel per feature: second factor on the x axis, a line per level of the first, intervals.

    `frame`: columns `feature`, the two factors, `value`, `lo`, `hi`.
    """
    first, second = [c for c in frame.columns if c not in ("feature", "value", "lo", "hi")]
    features = frame.feature.unique()
    rows = -(-len(features) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(WIDTH, 0.5 + 2.1 * rows), squeeze=False)
    for ax in axes.flat[len(features) :]:
        ax.set_visible(False)
    for ax, feature in zip(axes.flat, features, strict=False):
        part = frame[frame.feature == feature]
        for level, role, line in zip(
            part[first].unique(), ("sae", "joint"), ("-", "--"), strict=True
        ):
            one = part[part[first] == level]
            x = np.arange(len(one)) + (0.03 if role == "joint" else -0.03)
            ax.errorbar(
                x,
                one.value,
                [one.value - one.lo, one.hi - one.value],
                fmt=f"o{line}",
                color=COLOURS[role],
                capsize=3,
                label=level,
            )
        ax.set_xticks([0, 1], part[second].unique())
        ax.set_xlim(-0.35, 1.35)
        ax.set_title(str(feature), loc="left")
        ax.locator_params(axis="y", nbins=4)
    for ax in axes[:, 0]:
        ax.set_ylabel(ylabel)
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def heat_map(frame: pd.DataFrame) -> Axes:
    """Cell means per feature (rows) over the four cells, each divided by the feature's largest; columns as for `cells`."""
    first, second = [c for c in frame.columns if c not in ("feature", "value", "lo", "hi")]
    wide = frame.pivot_table(index="feature", columns=[first, second], values="value", sort=False)
    figure, ax = plt.subplots(figsize=(WIDTH, 1.3 + 0.34 * len(wide)))
    image = ax.imshow(
        wide.div(wide.max(axis=1).where(lambda m: m > 0, 1), axis=0), vmin=0, vmax=1, aspect="auto"
    )
    ax.set_yticks(range(len(wide)), wide.index)
    ax.set_xticks(range(wide.shape[1]), [f"{a}\n{b}" for a, b in wide.columns])
    ax.set_ylabel("feature")
    ax.grid(visible=False)
    figure.colorbar(image, label="mean / largest")
    return ax


def activations(panels: dict[str, np.ndarray]) -> Figure:
    """Histograms of secondary activations, one panel per name; zeros are counted in the title."""
    figure, axes = plt.subplots(len(panels), figsize=(WIDTH, 2.1 * len(panels)), squeeze=False)
    for ax, (name, values) in zip(axes.flat, panels.items(), strict=True):
        on = values[values > 0]
        ax.hist(on, bins=40, color=COLOURS["interaction"])
        ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
        ax.set_ylabel("features")
        ax.set_title(f"{name}: {len(on):,} of {len(values):,} above 0", loc="left")
    ax.set_xlabel("activation")
    return figure


def dose_response(frame: pd.DataFrame, kinds: dict[str, str]) -> Figure:
    """Interaction contrast against the multiplier, a panel per kind of intervention with its own scale, a line per condition.

    `frame`: columns `condition`, `multiplier`, `value`, `lo`, `hi` (None where there is no interval); `kinds`: condition -> kind.
    """
    shown = list(dict.fromkeys(kinds.values()))
    figure, axes = plt.subplots(
        len(shown), figsize=(WIDTH, 1.8 * len(shown)), sharex=True, squeeze=False
    )
    for ax, kind in zip(axes.flat, shown, strict=True):
        for condition in (c for c, k in kinds.items() if k == kind):
            rows = frame[frame.condition == condition].sort_values("multiplier")
            value, lo, hi = (rows[c].astype(float) for c in ("value", "lo", "hi"))
            ax.errorbar(
                rows.multiplier,
                value,
                [(value - lo).fillna(0), (hi - value).fillna(0)],
                fmt="o-",
                color=COLOURS[ROLES[kind]],
                capsize=3,
            )
        ax.axhline(0, color=INK, linewidth=0.8)
        ax.set_title(kind, loc="left")
        ax.locator_params(axis="y", nbins=4)
    figure.supylabel("interaction contrast, logit", fontsize=11)
    ax.set_xlabel("multiplier of the feature's value")
    ax.set_xticks(sorted(frame.multiplier.unique()))
    return figure


def word_scatter(frame: pd.DataFrame) -> Figure:
    """Logit shift of every word after every prompt against the multiplier, a panel per word group, means joined by a line.

    `frame`: columns `formality`, `emotion`, `multiplier`, `value`.
    """
    figure, axes = plt.subplots(2, 2, figsize=(WIDTH, 4.6), sharex=True, sharey=True)
    groups = [(f, e) for f in ("formal", "casual") for e in ("neutral", "emotional")]
    jitter = np.random.default_rng(0).uniform(-0.25, 0.25, len(frame))
    for ax, (formality, emotion) in zip(axes.flat, groups, strict=True):
        chosen = (frame.formality == formality) & (frame.emotion == emotion)
        rows, means = frame[chosen], frame[chosen].groupby("multiplier").value.mean()
        ax.plot(
            rows.multiplier + jitter[chosen],
            rows.value,
            ".",
            color=COLOURS["random"],
            markersize=2,
            alpha=0.5,
            rasterized=True,
        )
        ax.plot(means.index, means, "o-", color=INK, markersize=SMALL)
        ax.set_title(f"{formality}, {emotion}", loc="left")
        ax.set_xticks(sorted(frame.multiplier.unique()))
    figure.supxlabel("multiplier of the feature's value", fontsize=11)
    figure.supylabel("logit shift", fontsize=11)
    return figure


def over_bound(table: pd.DataFrame) -> Axes:
    """Contrasts in units of the smallest effect that would matter, one line per condition, on a scale that is linear up to 1 and logarithmic beyond.

    `table`: index condition, columns `kind`, `estimate_over_bound`, `lo_over_bound`, `hi_over_bound`.
    """
    rows = table.dropna(subset="estimate_over_bound")
    figure, ax = plt.subplots(figsize=(WIDTH, 1.2 + 0.27 * len(rows)))
    ax.axvspan(-1, 1, color=COLOURS["random"], alpha=0.2, linewidth=0)
    for place, row in enumerate(rows.itertuples()):
        colour = COLOURS[ROLES[row.kind]]
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


def small_multiples(
    panels: dict[str, pd.DataFrame], xlabel: str, ylabel: str, nominal: float | None = None
) -> Figure:
    """One panel per name, each a frame with `x` and one column per line; `nominal` is marked across."""
    rows = -(-len(panels) // 2)
    figure, axes = plt.subplots(
        rows, 2, figsize=(WIDTH, 0.6 + 2.0 * rows), sharex=True, sharey=True, squeeze=False
    )
    styles = [("published", "-"), ("controlled", "--"), ("random", ":")]
    for ax, (name, frame) in zip(axes.flat, panels.items(), strict=False):
        for (role, line), column in zip(styles, frame.columns.drop("x"), strict=False):
            ax.plot(frame.x, frame[column], f"o{line}", color=COLOURS[role], markersize=SMALL)
        if nominal is not None:
            ax.axhline(nominal, color=INK, linewidth=0.8)
        ax.set_xscale("log")
        ax.set_xticks(frame.x, map(str, frame.x), minor=False)
        ax.minorticks_off()
        ax.set_title(name, loc="left", fontsize=10)
    columns = next(iter(panels.values())).columns.drop("x")
    handles = [
        Line2D([], [], color=COLOURS[r], linestyle=s, label=c)
        for (r, s), c in zip(styles, columns, strict=False)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    figure.supxlabel(xlabel, fontsize=11)
    figure.supylabel(ylabel, fontsize=11)
    return figure
