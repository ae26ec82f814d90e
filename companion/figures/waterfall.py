"""One number under one protocol after another."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from companion.plots import COLOURS, INK, WIDTH


def waterfall(bars: pd.DataFrame, xlabel: str) -> Figure:
    """A bar with its figure and interval per protocol, a panel per order of the switches.

    `bars`: columns order, label, value, lo, hi; of each order the first row is as published and the
    last controlled. Between them a thin line carries a bar's length over to the next.
    """
    orders = list(bars.groupby("order", sort=False))
    height = 0.7 + sum(0.9 + 0.33 * len(steps) for _, steps in orders)
    figure, axes = plt.subplots(len(orders), figsize=(WIDTH, height), sharex=True)
    for ax, (title, steps) in zip(axes, orders, strict=True):
        values, places = steps["value"].astype(float), range(len(steps))
        roles = ["published", *["random"] * (len(steps) - 2), "controlled"]
        ax.barh(places, values, 0.62, color=[COLOURS[role] for role in roles])
        arms = [values - steps["lo"], steps["hi"] - values]
        ax.errorbar(values, places, xerr=arms, fmt="none", ecolor=INK, elinewidth=1.2, capsize=3)
        for place, value, end in zip(places, values, steps["hi"], strict=True):
            figures = f"{value:.1f}" if abs(value) >= 1 else f"{value:.2f}"
            beside = {"textcoords": "offset points", "va": "center", "fontsize": 10}
            ax.annotate(figures.replace("-", "−"), (max(0.0, end), place), (5, 0), **beside)
            if place < places[-1]:
                ax.plot([value] * 2, [place, place + 1], color=INK, linewidth=0.8)
        ax.set_yticks(places, steps["label"])
        ax.invert_yaxis()
        ax.axvline(0, color=INK, linewidth=0.8)
        ax.grid(axis="y", visible=False)
        ax.set_title(title, loc="left")
    axes[-1].margins(x=0.12)  # room for the figures
    axes[-1].set_xlabel(xlabel)
    return figure
