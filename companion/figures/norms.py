"""Figures of the chapter on norms and of its walkthrough."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter

from companion.estimates import number
from companion.plots import COLOURS, INK, WIDTH

SHARES = {
    "nfm": "whole NFM",
    "linear": "linear path",
    "interaction": "interaction path",
    "decoder": "decoder",
}
ROLES = {"sae": "SAE alone", "joint": "joint model"}
WEIGHTS = {"trained": COLOURS["joint"], "drawn anew": COLOURS["random"]}
VIOLIN = {"inner": None, "cut": 0, "density_norm": "width", "width": 0.9}
VIOLIN |= {"linewidth": 0, "alpha": 0.8, "saturation": 1}
DRAWN = 500
"""Dots of a scatter plot; more would only grow the file."""


def sample(features: pd.DataFrame) -> pd.DataFrame:
    """The features that scatter plots show, drawn at random but always the same."""
    return features if len(features) <= DRAWN else features.sample(DRAWN, random_state=0)


def histograms(histories: Mapping[str, pd.DataFrame], splits: Mapping[str, float]) -> Figure:
    """Squared norms of the SAE and of the joint model: as published filled, controlled as an
    outline, and at the start of training; the split of those as published dashed."""
    figure, axes = plt.subplots(2, 1, figsize=(WIDTH, 4.8), sharex=True)
    bins = np.linspace(0, 1.05 * max(h.s.quantile(0.995) for h in histories.values()), 61)
    for ax, (role, title) in zip(axes, ROLES.items(), strict=True):
        published, controlled = histories[f"{role}_published"], histories[role]
        layers = {
            "at the start": (published.start, {"color": COLOURS["random"], "alpha": 0.6}),
            "trained, as published": (published.s, {"color": COLOURS[role], "alpha": 0.75}),
            "trained, controlled": (controlled.s, {"color": INK, "histtype": "step"}),
        }
        heights = [
            ax.hist(s, bins, density=True, label=label, **style)[0].max()
            for label, (s, style) in layers.items()
        ]
        if splits[f"{role}_published"] < bins[-1]:
            ax.axvline(splits[f"{role}_published"], color=INK, linestyle="--", linewidth=1)
        ax.set(ylim=(0, 1.1 * max(heights[1:])), ylabel="density")
        ax.set_title(title, loc="left")
    axes[0].legend()
    axes[1].set_xlabel("squared norm of the feature's direction")
    return figure


def against(histories: Mapping[str, pd.DataFrame], x: str, xlabel: str) -> Figure:
    """Squared norm against `x`, a column that is positive or 0, one panel per role, logarithmic;
    a line of medians, and grey: norms at the start."""
    figure, axes = plt.subplots(2, 1, figsize=(WIDTH, 4.8), sharex=True, sharey=True)
    for ax, (role, title) in zip(axes, ROLES.items(), strict=True):
        features = histories[role][["s", "start", x]]
        ends = features.start.min(), features.start.max()
        ax.axhspan(*ends, color=COLOURS["random"], alpha=0.4, linewidth=0)
        seen = features.assign(x=features[x].clip(lower=features[x][features[x] > 0].min() / 2))
        ax.plot("x", "s", ".", data=sample(seen), color=COLOURS[role], markersize=3)
        bins = min(20, len(seen))
        groups = pd.qcut(features[x].rank(method="first"), bins, labels=False)
        ax.plot("x", "s", data=seen.groupby(groups)[["x", "s"]].median(), color=INK)
        ax.set(xscale="log", yscale="log", ylabel="squared norm")
        ax.yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_minor_formatter(NullFormatter())
        ax.set_title(title, loc="left")
    axes[1].set_xlabel(xlabel)
    return figure


def journeys(histories: Mapping[str, pd.DataFrame]) -> Axes:
    """How far directions turned from where they began, by number of updates."""
    _, ax = plt.subplots()
    for role, title in ROLES.items():
        seen = sample(histories[role])
        dots = {"color": COLOURS[role], "markersize": 3, "label": title}
        ax.plot(seen.updates.clip(lower=0.5), seen.cosine, ".", **dots)
    ax.set(xscale="log", ylabel="cosine with its start")
    ax.set_xlabel("training tokens on which the feature was active")
    ax.axhline(1, color=INK, linewidth=0.8)
    # inside it would lie on the line at 1
    ax.legend(markerscale=4, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return ax


def violins(trained: pd.DataFrame, drawn: pd.DataFrame, split: float) -> Axes:
    """Shares of the weight norms for low- and high-norm features: trained above each line, freshly
    drawn integration weights below it; both with `geometry.weight_shares`' columns."""
    _, ax = plt.subplots(figsize=(WIDTH, 4.6))
    both = pd.concat({"trained": trained, "drawn anew": drawn}, names=["weights"])
    both = both.assign(group=np.where(both.s < split, "low", "high")).reset_index("weights")
    long = both.melt(["weights", "group"], list(SHARES), "share", "value")
    long = long.assign(row=long.share.map(SHARES) + ", " + long.group, value=100 * long.value)
    rows = [f"{share}, {group}" for share in SHARES.values() for group in ("low", "high")]
    how = {"data": long, "x": "value", "y": "row", "order": rows, "hue": "weights", "ax": ax}
    sns.violinplot(**how, **VIOLIN, split=True, palette=WEIGHTS)
    medians = {"estimator": "median", "errorbar": None, "linestyle": "none", "marker": "|"}
    sns.pointplot(**how, **medians, dodge=0.3, palette=[INK, INK], markersize=9)
    ax.set_yticks(range(len(rows)), [r + " (none)" * (r not in set(long.row)) for r in rows])
    ax.set(xlabel="share of weight norms, %", ylabel="")
    ax.grid(axis="y", visible=False)
    ax.get_legend().remove()
    handles = [Patch(color=colour, label=name) for name, colour in WEIGHTS.items()]
    ax.figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return ax


def scatters(trained: pd.DataFrame, drawn: pd.DataFrame) -> Figure:
    """Squared norm against each share, trained and with integration weights drawn anew, with both
    rank correlations."""
    figure, axes = plt.subplots(2, 2, figsize=(WIDTH, 4.8), sharex=True)
    for ax, (share, name) in zip(axes.flat, SHARES.items(), strict=True):
        for frame, colour in ((drawn, COLOURS["random"]), (trained, COLOURS["joint"])):
            seen = sample(frame)
            ax.plot(seen.s, 100 * seen[share], ".", color=colour, markersize=3)
        r, null = (number(f.s.corr(f[share], method="spearman"), ".2f") for f in (trained, drawn))
        ax.set_title(f"{name}\nr = {r}, null {null}", fontsize=10)
    figure.supxlabel("squared norm", fontsize=11)
    figure.supylabel("share of weight norms, %", fontsize=11)
    dot = {"marker": "o", "linestyle": ""}
    handles = [Line2D([], [], color=c, label=name, **dot) for name, c in WEIGHTS.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure


def spectra(shares: Mapping[str, np.ndarray]) -> Figure:
    """Share of each leading component, and the cumulative share of all, of decoders and of the
    directions before training (`random`); dashed as published."""
    figure, axes = plt.subplots(2, 1, figsize=(WIDTH, 5.2))
    for model, share in shares.items():
        role = model.removesuffix("_published")
        label = {"sae": "SAE", "joint": "joint", "random": "before training"}[role]
        line, label = ("-", label) if role == model else ("--", f"{label}, as published")
        component, style = np.arange(1, len(share) + 1), {"color": COLOURS[role]}
        first = max(2, round(len(share) * 50 / 3200))
        axes[0].plot(component[:first], 100 * share[:first], line, label=label, **style)
        axes[1].plot(component, 100 * share.cumsum(), line, **style)
    axes[0].set_ylabel("variance, %")
    axes[1].set(ylabel="cumulative, %", xlabel="component")
    axes[1].axhline(90, color=INK, linewidth=0.8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def ridges(histories: Mapping[str, pd.DataFrame]) -> Axes:
    """Squared norms in units of the mean initial one, one violin per setting of the sweep, on a
    logarithmic axis."""
    _, ax = plt.subplots(figsize=(WIDTH, 0.8 + 0.5 * len(histories)))
    growth = {name.replace(", ", ",\n"): h.s / h.start.mean() for name, h in histories.items()}
    sns.violinplot(growth, orient="y", log_scale=True, color=COLOURS["joint"], ax=ax, **VIOLIN)
    ax.axvline(1, color=INK, linewidth=0.8)
    ax.xaxis.set(major_formatter="{x:g}", minor_formatter=NullFormatter())
    ax.set_xlabel("squared norm / initial one")
    ax.grid(axis="y", visible=False)
    return ax


def pile(start: np.ndarray, end: np.ndarray) -> Axes:
    """Histograms of squared norms over each other: before training in grey, its peak cut off, and
    after."""
    _, ax = plt.subplots()
    bins = np.linspace(0, max(start.max(), end.max()) * 1.02, 51)
    ax.hist(start, bins, color=COLOURS["random"], alpha=0.75, label="before training")
    heights, *_ = ax.hist(end, bins, color=COLOURS["sae"], alpha=0.75, label="after")
    ax.set(xlabel="squared norm of the feature's direction", ylabel="features")
    ax.set_ylim(0, 1.15 * heights.max())
    ax.legend()
    return ax
