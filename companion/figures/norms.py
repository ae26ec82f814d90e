"""Figures of the chapter on norms and of its walkthrough."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from companion.plots import COLOURS, INK, WIDTH

SHARES = {
    "nfm": "whole NFM",
    "linear": "linear path",
    "interaction": "interaction path",
    "decoder": "decoder",
}
DRAWN = 500
"""Dots of a scatter plot; more would only grow the file."""


def sample(frame: pd.DataFrame) -> pd.DataFrame:
    """The features that scatter plots show, drawn at random but always the same."""
    return frame if len(frame) <= DRAWN else frame.sample(DRAWN, random_state=0)


def histograms(
    published: Mapping[str, pd.DataFrame],
    controlled: Mapping[str, pd.DataFrame],
    split: Mapping[str, float],
) -> Figure:
    """Squared norms of each role, `sae` and `joint`: as published filled, controlled as an outline, and at the start of training; the split dashed."""
    figure, axes = plt.subplots(
        len(published), 1, figsize=(WIDTH, 2.4 * len(published)), sharex=True
    )
    top = max(np.quantile(t.s, 0.995) for t in [*published.values(), *controlled.values()])
    bins = np.linspace(0, 1.05 * top, 61)
    for ax, (role, table) in zip(np.atleast_1d(axes), published.items(), strict=True):
        ax.hist(
            table.start,
            bins,
            density=True,
            color=COLOURS["random"],
            alpha=0.6,
            label="at the start",
        )
        ax.hist(
            table.s,
            bins,
            density=True,
            color=COLOURS[role],
            alpha=0.75,
            label="trained, as published",
        )
        ax.hist(
            controlled[role].s,
            bins,
            density=True,
            histtype="step",
            color=INK,
            label="trained, controlled",
        )
        ax.set_ylim(
            0,
            1.1
            * max(
                np.histogram(t.s, bins, density=True)[0].max() for t in (table, controlled[role])
            ),
        )
        if split[role] < bins[-1]:
            ax.axvline(split[role], color=INK, linestyle="--", linewidth=1)
        ax.set_title({"sae": "SAE alone", "joint": "joint model"}[role], loc="left")
        ax.set_ylabel("density")
    np.atleast_1d(axes)[0].legend()
    np.atleast_1d(axes)[-1].set_xlabel("squared norm of the feature's direction")
    return figure


def against(tables: Mapping[str, pd.DataFrame], x: str, xlabel: str) -> Figure:
    """Squared norm against `x`, a column that is positive or 0 and drawn on a logarithmic axis, one panel per role; grey: norms at the start."""
    figure, axes = plt.subplots(
        len(tables), 1, figsize=(WIDTH, 2.4 * len(tables)), sharex=True, sharey=True
    )
    for ax, (role, table) in zip(np.atleast_1d(axes), tables.items(), strict=True):
        least = table[x][table[x] > 0].min() / 2
        ax.axhspan(
            table.start.min(), table.start.max(), color=COLOURS["random"], alpha=0.4, linewidth=0
        )
        shown = sample(table)
        ax.plot(shown[x].clip(lower=least), shown.s, ".", color=COLOURS[role], markersize=3)
        groups = pd.qcut(table[x].rank(method="first"), min(20, len(table)), labels=False)
        medians = table.groupby(groups)[[x, "s"]].median()
        ax.plot(medians[x].clip(lower=least), medians.s, color=INK)
        ax.set(xscale="log", yscale="log", ylabel="squared norm")
        ax.yaxis.set(
            major_locator=LogLocator(subs=(1, 2, 5)),
            major_formatter="{x:g}",
            minor_formatter=NullFormatter(),
        )
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_title({"sae": "SAE alone", "joint": "joint model"}[role], loc="left")
    np.atleast_1d(axes)[-1].set_xlabel(xlabel)
    return figure


def journeys(tables: Mapping[str, pd.DataFrame]) -> Axes:
    """How far directions turned from where they began, by number of updates."""
    figure, ax = plt.subplots()
    for role, table in tables.items():
        shown = sample(table)
        ax.plot(
            shown.updates.clip(lower=0.5),
            shown.cosine,
            ".",
            color=COLOURS[role],
            markersize=3,
            label={"sae": "SAE alone", "joint": "joint model"}[role],
        )
    ax.set(
        xscale="log",
        xlabel="training tokens on which the feature was active",
        ylabel="cosine with its start",
    )
    ax.axhline(1, color=INK, linewidth=0.8)
    ax.legend(
        markerscale=4, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2
    )  # inside it would lie on the line at 1
    return ax


def violins(ratios: pd.DataFrame, null: pd.DataFrame, split: float) -> Axes:
    """Shares of the weight norms for low- and high-norm features: trained above each line, freshly drawn integration weights below it."""
    figure, ax = plt.subplots(figsize=(WIDTH, 4.6))
    place, labels = 0, []
    for share, name in SHARES.items():
        for group, chosen in (("low", ratios.s < split), ("high", ratios.s >= split)):
            for frame, side, colour in (
                (ratios, "high", COLOURS["joint"]),
                (null, "low", COLOURS["random"]),
            ):
                values = 100 * frame[share][chosen.to_numpy()].to_numpy(dtype=float)
                if np.ptp(values) > 0 if len(values) > 1 else False:
                    drawn = ax.violinplot(
                        values,
                        [-place],
                        orientation="horizontal",
                        widths=0.9,
                        side=side,
                        showmedians=True,
                        showextrema=False,
                    )
                    drawn["bodies"][0].set(facecolor=colour, alpha=0.8)
                    drawn["cmedians"].set(color=INK, linewidth=1.2)
            labels.append(f"{name}, {group}" + ("" if chosen.any() else " (none)"))
            place += 1
    ax.set_yticks(-np.arange(place), labels)
    ax.set_xlabel("share of weight norms, %")
    ax.grid(axis="y", visible=False)
    handles = [
        Patch(color=COLOURS["joint"], label="trained"),
        Patch(color=COLOURS["random"], label="drawn anew"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return ax


def scatters(ratios: pd.DataFrame, null: pd.DataFrame, spearman: pd.DataFrame) -> Figure:
    """Squared norm against each share, trained and with integration weights drawn anew, with both rank correlations."""
    figure, axes = plt.subplots(2, 2, figsize=(WIDTH, 4.8), sharex=True)
    for ax, (share, name) in zip(axes.flat, SHARES.items(), strict=True):
        for frame, colour in ((null, COLOURS["random"]), (ratios, COLOURS["joint"])):
            shown = sample(frame)
            ax.plot(shown.s, 100 * shown[share], ".", color=colour, markersize=3)
        measured, drawn = (
            f"{spearman[column][share]:.2f}".replace("-", "−") for column in ("measured", "drawn")
        )
        ax.set_title(f"{name}\nr = {measured}, null {drawn}", fontsize=10)
    figure.supxlabel("squared norm", fontsize=11)
    figure.supylabel("share of weight norms, %", fontsize=11)
    handles = [
        Line2D([], [], marker="o", linestyle="", color=COLOURS[c], label=n)
        for c, n in (("joint", "trained"), ("random", "drawn anew"))
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure


def spectra(shares: Mapping[str, np.ndarray]) -> Figure:
    """Share of each leading component, and the cumulative share of all, of decoders and of the directions before training (`random`)."""
    figure, axes = plt.subplots(2, 1, figsize=(WIDTH, 5.2))
    lines = {
        "sae_published": ("SAE, as published", "sae", "--"),
        "joint_published": ("joint, as published", "joint", "--"),
        "sae": ("SAE", "sae", "-"),
        "joint": ("joint", "joint", "-"),
        "random": ("before training", "random", "-"),
    }
    for name, share in shares.items():
        label, role, line = lines[name]
        first = max(2, round(len(share) * 50 / 3200))
        axes[0].plot(
            np.arange(1, first + 1), 100 * share[:first], line, color=COLOURS[role], label=label
        )
        axes[1].plot(np.arange(1, len(share) + 1), 100 * share.cumsum(), line, color=COLOURS[role])
    axes[0].set_ylabel("variance, %")
    axes[1].set(ylabel="cumulative, %", xlabel="component")
    axes[1].axhline(90, color=INK, linewidth=0.8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def ridges(tables: Mapping[str, pd.DataFrame]) -> Axes:
    """Squared norms in units of the mean initial one, one violin per setting of the sweep, on a logarithmic axis."""
    figure, ax = plt.subplots(figsize=(WIDTH, 0.8 + 0.5 * len(tables)))
    for place, table in enumerate(tables.values()):
        body = ax.violinplot(
            np.log10(table.s / table.start.mean()),
            [-place],
            orientation="horizontal",
            widths=0.9,
            showextrema=False,
        )["bodies"][0]
        body.set(facecolor=COLOURS["joint"], alpha=0.8)
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.set_yticks(-np.arange(len(tables)), [name.replace(", ", ",\n") for name in tables])
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.xaxis.set_major_formatter(lambda x, _: f"{round(10**x, 2 if x < 1 else 0):g}")
    ax.set_xlabel("squared norm / initial one")
    ax.grid(axis="y", visible=False)
    return ax


def growth(norms: pd.DataFrame) -> Axes:
    """Squared norms over training, one line per column; the index is the step."""
    figure, ax = plt.subplots()
    for name, role, line in zip(norms, ("sae", "joint", "linear"), ("-", "--", ":"), strict=False):
        ax.plot(norms.index, norms[name], line, color=COLOURS[role], label=name)
    ax.set(xlabel="training step", ylabel="squared norm")
    ax.legend()
    return ax


def pile(tables: Mapping[str, np.ndarray]) -> Axes:
    """Histograms of squared norms over each other: name -> values; the first is drawn in grey."""
    figure, ax = plt.subplots()
    bins = np.linspace(0, max(np.max(v) for v in tables.values()) * 1.02, 51)
    for (name, s), role in zip(tables.items(), ("random", "sae", "joint"), strict=False):
        ax.hist(s, bins, color=COLOURS[role], alpha=0.75, label=name)
    heights = sorted(np.histogram(s, bins)[0].max() for s in tables.values())
    ax.set_ylim(0, 1.15 * heights[-2])
    ax.set(xlabel="squared norm of the feature's direction", ylabel="features")
    ax.legend()
    return ax
