"""Figures of these chapters show the numbers they are given."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from companion.figures import gain as figures_gain


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_split_curves_draw_both_kinds_and_the_trained_model():
    splits = np.array([0.0, 0.5, 1.0])
    frame = pd.concat(
        [
            pd.DataFrame({"model": m, "split": splits, "gain": g, "closed_form": g})
            for m, g in (("sae", splits), ("joint", 2 * splits))
        ]
    )
    ax = figures_gain.split_curves(frame, 41.3, (0.5, 1.0))
    assert [list(line.get_ydata()) for line in ax.lines[:4]] == [[0, 0.5, 1]] * 2 + [[0, 1, 2]] * 2
    assert list(ax.lines[4].get_ydata()) == [41.3, 41.3] and list(ax.lines[5].get_xdata()) == [0.5]


def test_conservation_draws_decoder_and_difference_for_each_kind():
    frame = pd.DataFrame(
        {
            "sees": ["all", "all", "half", "half"],
            "step": [1, 2, 1, 2],
            "difference": [1e-14, 2e-14, 1.0, 2.0],
            "decoder": [1.0] * 4,
        }
    )
    ax = figures_gain.conservation(frame)
    assert (
        list(ax.lines[1].get_ydata()) == [1e-14, 2e-14]
        and ax.get_yscale() == "log"
        and len(ax.lines) == 4
    )
