"""The figure of the chapter that tunes."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from companion import plots
from companion.plots import COLOURS, WIDTH


def tuning(trials: pd.DataFrame, words: dict[str, str]) -> Axes:
    """Validation FVU of every trial by family: columns family, fvu, chosen (filled); `words` says
    what a family is called.

    The axis ends where a trial is worse than the median by five times as much as the best is
    better; beyond, an arrow stands at the edge.
    """
    families = list(dict.fromkeys(trials["family"]))
    _, ax = plt.subplots(figsize=(WIDTH, 0.9 + 0.45 * len(families)))
    median, best = trials["fvu"].median(), trials["fvu"].min()
    edge = median + 5 * (median - best) if median > best else float("inf")
    for trial in trials.itertuples():
        colour, marker = COLOURS[plots.role(trial.family)], ">" if trial.fvu > edge else "o"
        at = min(trial.fvu, edge), families.index(trial.family)
        ax.plot(*at, marker, color=colour, markerfacecolor=colour if trial.chosen else "none")
    ax.set_yticks(range(len(families)), [words[family] for family in families])
    ax.invert_yaxis()
    ax.set_xlabel("validation FVU")
    return ax
