"""The figure of the chapter on what parameters are worth."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from companion.plots import COLOURS, WIDTH


def worth(curve: pd.DataFrame, y: str, ylabel: str) -> Axes:
    """A loss against the number of parameters, a line per share of them in the interaction path:
    columns share (%), parameters and `y`."""
    _, ax = plt.subplots(figsize=(WIDTH, 3.8))
    shares = sorted(curve["share"].unique())
    words = [f"{share:g} % interaction" if share else "SAE alone" for share in shares]
    kinds = curve["share"].map(dict(zip(shares, words, strict=True)))
    sns.lineplot(
        x=curve["parameters"] / 1e6,
        y=curve[y],
        hue=kinds,
        style=kinds,
        hue_order=words,
        style_order=words,
        palette=[COLOURS[r] for r in ("sae", "sequential", "linear", "joint", "interaction")],
        markers=list("osD^v"),
        dashes=False,
        markersize=7,
        markeredgewidth=0,
        ax=ax,
    )
    ax.set(xscale="log", xlabel="parameters, millions", ylabel=ylabel)
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter("")
    ax.legend()
    return ax
