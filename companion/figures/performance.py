"""Figures and tables of the page Performance, from the rows of `data/results/bench/speed.json`."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from companion import plots
from companion.plots import COLOURS, INK, WIDTH

NAMES = {
    "sae": "SAE",
    "sequential": "sequential",
    "joint": "joint",
    "sae-plain": "SAE, no compiler",
    "joint-plain": "joint, no compiler",
    "naive-joint": "joint, dense formula",
    "saelens": "SAELens",
    "saelens-sparse": "SAELens, sparse codes",
    "dictionary_learning": "dictionary_learning",
    "sparsify": "sparsify",
    "sparsify-adam": "sparsify, Adam",
    "product": "encoder product alone",
}
PALETTE = {name: COLOURS[plots.role(model.replace("-", "_"))] for model, name in NAMES.items()}
PALETTE[NAMES["naive-joint"]] = COLOURS["published"]
PHASES = {
    "encode": "sae",
    "decode and loss": "joint",
    "gradients": "sequential",
    "clip": "linear",
    "Adam": "interaction",
    "counts": "random",
}


def size_label(size: str) -> str:
    """`8192-64-1024` in words."""
    d_sae, k, batch = map(int, size.split("-"))
    return f"{d_sae:,} features, k = {k}, batch {batch:,}"


def race(speeds: pd.DataFrame) -> Figure:
    """Thousands of tokens per second of every contestant, one panel per size: columns size, model,
    value, in tokens per second."""
    speeds = speeds.assign(model=speeds["model"].map(NAMES), value=speeds["value"] / 1000)
    panels = speeds.sort_values("value").groupby("size", sort=False)
    sizes = list(speeds["size"].unique())
    shape = {"figsize": (WIDTH, 3.1 * len(sizes)), "squeeze": False}
    figure, axes = plt.subplots(len(sizes), 1, **shape)
    for ax, size in zip(axes[:, 0], sizes, strict=True):
        rows = panels.get_group(size)
        ax.barh(rows["model"], rows["value"], color=rows["model"].map(PALETTE))
        ax.set_title(size_label(size), loc="left")
        ax.grid(axis="y", visible=False)
    axes[-1, 0].set_xlabel("thousand tokens per second")
    return figure


def phases(spent: pd.DataFrame, floor: float) -> Axes:
    """Milliseconds of each phase of a step, stacked, one bar per model, from the top in the rows'
    order: columns model, phase, value; a line marks the floor, in ms."""
    spent = spent.assign(model=spent["model"].map(NAMES))
    bars = spent.pivot(index="model", columns="phase", values="value")
    bars = bars.loc[spent["model"].unique(), list(PHASES)].astype(float)
    colours = [COLOURS[role] for role in PHASES.values()]
    ax = bars.plot.barh(stacked=True, color=colours, width=0.8, figsize=(WIDTH, 3.4))
    ax.axvline(floor, color=INK, linewidth=1, linestyle="--")
    ax.invert_yaxis()
    ax.set(xlabel="ms per step", ylabel=None)
    ax.grid(axis="y", visible=False)
    ax.legend(loc="upper center", bbox_to_anchor=(0.4, -0.25), ncols=3)
    return ax


def growth(cost: pd.DataFrame) -> Figure:
    """Milliseconds of a step against one size each, both axes logarithmic, a panel per size:
    columns axis, x, model, value."""
    panels = cost.assign(model=cost["model"].map(NAMES)).groupby("axis", sort=False)
    shape = {"figsize": (WIDTH, 2.6 * len(panels)), "squeeze": False, "sharey": True}
    figure, axes = plt.subplots(len(panels), 1, **shape)
    for ax, (name, rows) in zip(axes[:, 0], panels, strict=True):
        style = {"palette": PALETTE, "marker": "o", "markersize": 5, "markeredgewidth": 0, "ax": ax}
        sns.lineplot(rows, x="x", y="value", hue="model", legend=ax is axes[0, 0], **style)
        ax.set_xscale("log", base=2)
        ax.set(yscale="log", xlabel=name, ylabel="ms per step")
        ax.xaxis.set_major_formatter("{x:,.0f}")
    axes[0, 0].legend()
    return figure


def targets(measured: pd.DataFrame, rules: pd.DataFrame) -> pd.DataFrame:
    """What was set out to be reached, and whether it was: a row per measured row of each rule.

    `rules` has the columns quantity, what, low and high, the bounds, NaN where there is none;
    `measured` has quantity, model, size (None where there is none), value and n.
    """
    found = rules.merge(measured, on="quantity")
    of_model = found["what"] + ", " + found["model"]
    found["what"] = of_model.fillna(found["what"])
    low, high = found["low"].fillna(-np.inf), found["high"].fillna(np.inf)
    inside = (low <= found["value"]) & (found["value"] <= high)
    found["features / k / batch"] = found["size"].str.replace("-", " / ")
    found["measured"], found["reached"] = (
        found["value"].astype(float),
        np.where(inside, "yes", "no"),
    )
    found["to reach"] = [bounds(*ends) for ends in zip(found["low"], found["high"], strict=True)]
    return found[["what", "features / k / batch", "measured", "to reach", "reached", "n"]]


def bounds(low: float, high: float) -> str:
    """A range in words."""
    if np.isnan(low):
        return f"at most {high:g}"
    return f"at least {low:g}" if np.isnan(high) else f"{low:g} to {high:g}"
