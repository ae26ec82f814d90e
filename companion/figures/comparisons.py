"""Models against each other: under one switch of the protocol after another, by size, by trial."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from companion import figures, plots
from companion.estimates import number
from companion.plots import COLOURS, INK, WIDTH


def waterfall(bars: pd.DataFrame, xlabel: str) -> Figure:
    """A bar with its figure and interval per protocol, a panel per order of the switches.

    `bars`: columns order, label, value, lo, hi; of each order the first row is as published and the
    last controlled. Between them a thin line carries a bar's length over to the next.
    """
    orders = figures.grouped(bars.astype({"value": float}), "order")
    height = 0.9 + (0.7 + 0.33 * len(bars)) / len(orders)
    figure, panels = figures.panels(orders, height, sharex=True)
    for ax, steps in panels:
        values, places = steps["value"], range(len(steps))
        roles = ["published", *["random"] * (len(steps) - 2), "controlled"]
        ax.barh(places, values, 0.62, color=[COLOURS[role] for role in roles])
        ax.errorbar(values, places, xerr=figures.arms(steps), **figures.ARMS)
        for place, value, end in zip(places, values, steps["hi"], strict=True):
            text = number(value, ".1f" if abs(value) >= 1 else ".2f")
            beside = {"textcoords": "offset points", "va": "center", "fontsize": 10}
            ax.annotate(text, (max(0.0, end), place), (5, 0), **beside)
            if place < places[-1]:
                ax.plot([value] * 2, [place, place + 1], color=INK, linewidth=0.8)
        figures.name_rows(ax, steps["label"])
        ax.axvline(0, color=INK, linewidth=0.8)
    ax.margins(x=0.12)  # room for the figures
    ax.set_xlabel(xlabel)
    return figure


def worth(curve: pd.DataFrame, y: str, ylabel: str) -> Axes:
    """A loss against the number of parameters, a line per share of them in the interaction path:
    columns share (%), parameters and `y`."""
    shares = sorted(curve["share"].unique())
    words = {share: f"{share:g} % interaction" if share else "SAE alone" for share in shares}
    lines = curve.assign(kind=curve["share"].map(words), millions=curve["parameters"] / 1e6)
    colours = [COLOURS[r] for r in ("sae", "sequential", "linear", "joint", "interaction")]
    order = {"hue_order": words.values(), "style_order": words.values(), "palette": colours}
    marks = {"markers": list("osD^v"), "dashes": False, "markersize": 7, "markeredgewidth": 0}
    _, ax = plt.subplots(figsize=(WIDTH, 3.8))
    sns.lineplot(lines, x="millions", y=y, hue="kind", style="kind", **order, **marks, ax=ax)
    ax.set(xscale="log", xlabel="parameters, millions", ylabel=ylabel)
    figures.log_ticks(ax.xaxis)
    ax.legend()
    return ax


def tuning(trials: pd.DataFrame, words: dict[str, str]) -> Axes:
    """Validation FVU of every trial by family: columns family, fvu, chosen (filled); `words` names
    families. The axis ends where a trial is worse than the median by five times as much as the best
    is better; beyond, an arrow stands at the edge."""
    place, families = pd.factorize(trials["family"])
    _, ax = plt.subplots(figsize=(WIDTH, 0.9 + 0.45 * len(families)))
    median, best = trials["fvu"].median(), trials["fvu"].min()
    edge = median + 5 * (median - best) if median > best else float("inf")
    for trial, y in zip(trials.itertuples(), place, strict=True):
        colour, marker = plots.colour(trial.family), ">" if trial.fvu > edge else "o"
        filled = colour if trial.chosen else "none"
        ax.plot(min(trial.fvu, edge), y, marker, color=colour, markerfacecolor=filled)
    figures.name_rows(ax, families.map(words))
    ax.set_xlabel("validation FVU")
    return ax
