"""Figures of the chapter on behaviour, and of the walkthrough on one splice."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from companion.plots import COLOURS, INK, WIDTH

FLOOR = 1e-5  # nats; smaller KL is drawn here, since a logarithm has no zero
ROLES = {
    "sae": "sae",
    "sequential": "sequential",
    "joint": "joint",
    "joint_no_interaction": "linear",
    "joint_own_path": "published",
    "joint_linear": "linear",
    "joint_interaction": "interaction",
    "sae_matched": "sae",
    "sae_tuned": "sae",
    "sequential_linear": "linear",
    "sequential_interaction": "interaction",
}
"""Which colour of `plots.COLOURS` a condition has."""


def boxes(rows: pd.DataFrame, labels: dict[str, str]) -> Axes:
    """KL per token, a box per condition and below it, grey, its random twin: columns condition, draw, kl; `labels` says which, top to bottom.

    The box holds the middle half, the line is the median, the dot the mean, whiskers reach from the 5th to the 95th percentile.
    """
    figure, ax = plt.subplots(figsize=(WIDTH, 0.9 + 0.62 * len(labels)))
    for place, condition in enumerate(labels):
        own = rows["condition"] == condition
        for shift, part, role in (
            (-0.18, rows["draw"] < 0, ROLES[condition]),
            (0.18, rows["draw"] >= 0, "random"),
        ):
            kl = rows.loc[own & part, "kl"].clip(lower=FLOOR)
            line = {"color": COLOURS[role], "linewidth": 1.4}
            ax.boxplot(
                kl,
                positions=[place + shift],
                widths=0.3,
                whis=(5, 95),
                orientation="horizontal",
                showfliers=False,
                manage_ticks=False,
                boxprops=line,
                whiskerprops=line,
                capprops=line,
                medianprops=line | {"linewidth": 2.4},
            )
            ax.plot(kl.mean(), place + shift, "o", color=COLOURS[role], markersize=5)
    ax.set_yticks(range(len(labels)), labels.values())
    ax.invert_yaxis()
    ax.set_xscale("log")
    ax.set_xlabel("KL per token, nats")
    ax.grid(axis="y", visible=False)
    return ax


def histograms(rows: pd.DataFrame, labels: dict[str, str]) -> Figure:
    """KL per token of some conditions, a panel each, over the grey histogram of its random twins: columns condition, draw, kl.

    Solid lines mark the means, dotted ones the medians.
    """
    figure, axes = plt.subplots(
        len(labels), 1, figsize=(WIDTH, 0.7 + 1.35 * len(labels)), sharex=True, squeeze=False
    )
    bins = np.geomspace(FLOOR, max(1.0, rows["kl"].max()), 41)
    for ax, (condition, label) in zip(axes[:, 0], labels.items(), strict=True):
        own = rows[rows["condition"] == condition]
        for part, role in ((own["draw"] >= 0, "random"), (own["draw"] < 0, ROLES[condition])):
            kl = own.loc[part, "kl"].clip(lower=FLOOR)
            ax.hist(
                kl,
                bins,
                weights=np.full(len(kl), 100 / max(1, len(kl))),
                histtype="step",
                color=COLOURS[role],
                linewidth=1.5,
            )
            ax.axvline(kl.mean(), color=COLOURS[role], linewidth=1.2)
            ax.axvline(kl.median(), color=COLOURS[role], linewidth=1.2, linestyle=":")
        ax.set_title(label, loc="left")
        ax.set_ylabel("tokens, %")
    axes[-1, 0].set_xscale("log")
    axes[-1, 0].set_xlabel("KL per token, nats")
    return figure


def by_position(frame: pd.DataFrame, labels: dict[str, str]) -> Figure:
    """Mean KL against position in the window, a panel per protocol: columns protocol, condition, position (first of its bin), kl."""
    figure, axes = plt.subplots(2, 1, figsize=(WIDTH, 5.0), sharex=True)
    for ax, (protocol, rows) in zip(axes, frame.groupby("protocol", sort=True), strict=True):
        for condition, curve in rows.groupby("condition"):
            ax.plot(
                curve["position"].clip(lower=0.5),
                curve["kl"],
                "o-",
                markersize=4,
                color=COLOURS[ROLES[condition]],
                label=labels[condition],
            )
        ax.set_title(protocol, loc="left")
        ax.set_ylabel("mean KL, nats")
        ax.set_ylim(bottom=0)
        ax.legend(fontsize=9, ncols=2)
    places = sorted(frame["position"].unique())
    axes[-1].set_xscale("log", base=2)
    axes[-1].set_xticks([max(0.5, place) for place in places], places)
    axes[-1].minorticks_off()
    axes[-1].set_xlabel("position in the window (first of its bin)")
    return figure


def norm_curve(table: pd.DataFrame, labels: dict[str, str]) -> Figure:
    """Mean KL against mean error norm: `table` by condition, columns error_norm, kl, kl_random.

    Above, the grey curve joins the random twins of all conditions, the thin blue one the SAE's own error and its shrunk copies. Below, the
    surroundings of the SAE, with that blue curve carried on as a power law.
    """
    figure, (ax, near) = plt.subplots(2, 1, figsize=(WIDTH, 6.6), height_ratios=(3, 2))
    random = table.sort_values("error_norm")
    ax.plot(
        random["error_norm"],
        random["kl_random"],
        ".-",
        color=COLOURS["random"],
        label="random direction",
    )
    own = table[(table.index == "sae") | table.index.str.startswith("sae_error")].sort_values(
        "error_norm"
    )
    ax.plot(
        own["error_norm"],
        own["kl"],
        "x-",
        color=COLOURS["sae"],
        linewidth=1,
        label="SAE's error, shrunk",
    )
    norms, marks = table.loc[list(labels), "error_norm"], iter("osD^vPX*<>h")
    close = norms[(norms / norms["sae"]).between(0.9, 1.1)]
    for condition, label in labels.items():
        row, mark = table.loc[condition], next(marks)
        ax.plot(row["error_norm"], row["kl"], mark, color=COLOURS[ROLES[condition]], label=label)
        if condition in close:
            near.plot(
                row["error_norm"], row["kl"], mark, color=COLOURS[ROLES[condition]], markersize=8
            )
    slope = np.diff(np.log(own["kl"].iloc[-2:])) / np.diff(np.log(own["error_norm"].iloc[-2:]))
    x = np.linspace(close.min(), close.max(), 20)
    near.plot(
        x,
        own["kl"].iloc[-1] * (x / own["error_norm"].iloc[-1]) ** slope,
        color=COLOURS["sae"],
        linewidth=1,
    )
    for axis in (ax.xaxis, ax.yaxis):
        (ax.set_xscale if axis is ax.xaxis else ax.set_yscale)("log")
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    ax.set_xticks(
        [
            t
            for t in (10, 15, 20, 25, 30, 40, 50, 60, 80, 100, 150)
            if random["error_norm"].min() <= t <= random["error_norm"].max()
        ]
    )
    near.set_title("near the SAE", loc="left")
    near.set_xlabel("mean length of the error")
    for each in (ax, near):
        each.set_ylabel("mean KL, nats")
    figure.legend(*ax.get_legend_handles_labels(), fontsize=9, loc="outside lower center", ncols=2)
    return figure


def contributions(frame: pd.DataFrame) -> Figure:
    """What each path takes off the KL without either, a panel per model: columns model, path, kind (alone, last, shapley), value, lo, hi."""
    figure, axes = plt.subplots(frame["model"].nunique(), 1, figsize=(WIDTH, 4.4), squeeze=False)
    kinds = {"alone": "added first", "last": "added last", "shapley": "mean (Shapley)"}
    for ax, (model, rows) in zip(axes[:, 0], frame.groupby("model", sort=False), strict=True):
        for shift, path in ((-0.13, "linear"), (0.13, "interaction")):
            part = rows[rows["path"] == path].set_index("kind").loc[list(kinds)]
            places = np.arange(len(kinds)) + shift
            if part["lo"].notna().all():
                ax.hlines(places, part["lo"], part["hi"], color=COLOURS[path])
            ax.plot(part["value"], places, "o", color=COLOURS[path], label=path)
        ax.set_yticks(range(len(kinds)), kinds.values())
        ax.set_ylim(len(kinds) - 0.5, -0.5)
        ax.axvline(0, color=INK, linewidth=0.8)
        ax.grid(axis="y", visible=False)
        ax.set_title(model, loc="left")
        ax.set_xlabel("KL removed, % of the KL without the paths")
    axes[0, 0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    return figure


def strip(frame: pd.DataFrame) -> Axes:
    """KL token by token: a row per token (the index, in order), a column per reconstruction, colour and number for the KL in nats."""
    figure, ax = plt.subplots(figsize=(WIDTH, 1.0 + 0.3 * len(frame)))
    kl = frame.to_numpy(dtype=float)
    top = max(kl.max(), FLOOR)
    ax.pcolormesh(np.sqrt(kl / top), vmin=0, vmax=1)
    for (row, column), x in np.ndenumerate(kl):
        ax.text(
            column + 0.5,
            row + 0.5,
            f"{x:.2f}",
            ha="center",
            va="center",
            fontsize=10,
            color="#ffffff" if x < top / 4 else "#101010",
        )
    ax.set_xticks(np.arange(frame.shape[1]) + 0.5, frame.columns)
    ax.set_yticks(np.arange(len(frame)) + 0.5, frame.index)
    ax.xaxis.tick_top()
    ax.invert_yaxis()
    ax.grid(visible=False)
    ax.tick_params(length=0)
    return ax


def top_predictions(frame: pd.DataFrame) -> Figure:
    """Probabilities of the likeliest next tokens, a panel per row of the model: columns panel, token, probability, role."""
    figure, axes = plt.subplots(
        frame["panel"].nunique(),
        1,
        figsize=(WIDTH, 0.5 + 0.3 * len(frame) + 0.4 * frame["panel"].nunique()),
        sharex=True,
    )
    for ax, (panel, rows) in zip(
        np.atleast_1d(axes), frame.groupby("panel", sort=False), strict=True
    ):
        places = np.arange(len(rows))
        ax.barh(places, rows["probability"], color=COLOURS[rows["role"].iloc[0]])
        ax.set_yticks(places, rows["token"])
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
        ax.set_title(panel, loc="left")
    np.atleast_1d(axes)[-1].set_xlabel("probability")
    return figure
