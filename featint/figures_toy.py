"""Figures of the toy walkthroughs."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from featint.plots import COLOURS, INK

ARROWS = {"true": (INK, "--"), "principal": (COLOURS["linear"], "-"), "learned": (COLOURS["joint"], "-")}


def plane(points: np.ndarray, arrows: Mapping[str, np.ndarray]) -> Axes:
    """Points (n, 2) in the plane and sets of directions (m, 2), by a name in `ARROWS`."""
    figure, ax = plt.subplots(figsize=(4, 4))
    ax.plot(*np.asarray(points).T, ".", color=COLOURS["random"], markersize=3)
    for name, ends in arrows.items():
        colour, line = ARROWS[name]
        for i, (a, b) in enumerate(np.asarray(ends)):
            ax.plot([0, a], [0, b], line, color=colour, label=f"{name} directions" if i == 0 else None)
            ax.plot(a, b, "o", color=colour, markersize=4)
    ax.set_aspect("equal")
    ax.set_xlabel("first number")
    ax.set_ylabel("second number")
    ax.legend(loc="lower right")
    return ax


def recovery(cosines: Mapping[str, np.ndarray]) -> Axes:
    """Histograms of the best cosine of each true feature: `trained` and `chance`."""
    figure, ax = plt.subplots()
    for name, role in (("chance", "random"), ("trained", "sae")):
        ax.hist(np.asarray(cosines[name]), bins=np.linspace(0, 1, 31), color=COLOURS[role], alpha=0.8, label=name)
    ax.set_xlabel("largest cosine with a learned direction")
    ax.set_ylabel("true features")
    ax.legend(loc="upper left")
    return ax
