"""Simulated designs: planted effects are found, and rates are those that theory predicts."""

import numpy as np
import pytest
from scipy import stats as st

from companion import designs
from companion.figures import interactions as figures_interactions
from companion.toys import designs as toy_designs


def test_a_sample_has_the_planted_effects():
    """Standard error of the interaction: 2 x 0.5 / sqrt(400) = 0.05; of a main effect 0.025."""
    design, values = toy_designs.sample([0, 0, 0, 2], 400, topic_sd=3, noise_sd=0.5, seed=0)
    table = designs.rm_anova(design, values, toy_designs.FACTORS).set_index("effect")
    for effect, (size, error) in {
        "register": (1, 0.025),
        "mood": (1, 0.025),
        "register x mood": (2, 0.05),
    }.items():
        assert table.estimate[effect] == pytest.approx(size, abs=4 * error)
    level = values.feature.groupby(design.topic).mean()
    assert level.std() == pytest.approx(3, rel=0.15)


def test_pseudo_replication_inflates_as_theory_says():
    """With equal cells the naive t is too large by sqrt((r s² + 1) / (s² + 1)), nearly: its level is the
    tail beyond the deflated threshold. 2,000 draws: a rate of 5 % is known to ±0.5 %."""
    frame = toy_designs.pseudo_replication([0.0, 1.0], sentences=(1, 8), draws=2000, seed=1)
    still, wide = (part.set_index("x") for _, part in frame.groupby("panel", sort=False))
    assert set(still.panel) == {"topics differ by 0"}
    assert still[["every sentence", "topics"]].to_numpy() == pytest.approx(
        np.full((2, 2), 0.05), abs=0.02
    )
    expected = 2 * st.norm.sf(1.96 / np.sqrt((8 + 1) / 2))
    assert wide["every sentence"][8] == pytest.approx(expected, abs=0.04)
    assert wide["topics"][8] == pytest.approx(0.05, abs=0.02)


def test_double_dipping_shrinks_to_nothing():
    """d of 16 topics has standard deviation 1/4, so one feature's |d| is sqrt(2 / pi) / 4 on average,
    and the largest of a hundred normal ones 2.5 standard deviations and more."""
    frame = toy_designs.double_dipping([16], n_features=(1, 100), draws=400, seed=2).set_index("x")
    assert abs(frame["other half"]).max() < 4 * 0.25 / np.sqrt(400)
    assert frame["where chosen"][1] == pytest.approx(np.sqrt(2 / np.pi) / 4, rel=0.15)
    assert frame["where chosen"][100] > 2.5 / 4


def test_small_multiples_share_their_lines():
    frame = toy_designs.double_dipping([8, 16], n_features=(1, 10), draws=5)
    figure = figures_interactions.small_multiples(frame, "features", "d", nominal=0.0)
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["where chosen", "other half"]
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["8 topics a half", "16 topics a half"]
    assert figure.axes[1].lines[0].get_ydata().tolist() == frame["where chosen"][2:].tolist()
