"""Simulated designs: arithmetic by hand, and the rates that theory predicts."""

import numpy as np
import pytest
from scipy import stats as st

from companion import factorial
from companion.figures import interactions as figures_interactions
from companion.toys import designs as toy_designs


def test_the_table_and_its_effects_by_hand():
    table = toy_designs.table([1, 2, 3, 8])
    assert table.loc["casual"].tolist() == [1, 2, 1.5] and table.loc["mean"].tolist() == [2, 5, 3.5]
    assert toy_designs.effects([1, 2, 3, 8]) == {
        "register": 4.0,
        "mood": 3.0,
        "register x mood": 4.0,
    }


def test_a_sample_has_the_planted_effects():
    design, values = toy_designs.sample([0, 0, 0, 2], 400, topic_sd=3, noise_sd=0.5, seed=0)
    found = factorial.rm_anova(design, values, toy_designs.FACTORS).set_index("effect")
    assert found.estimate["register x mood"] == pytest.approx(
        2, abs=0.2
    )  # 3 standard errors of 2 x 0.5 / sqrt(400) = 0.05 and more
    assert found.p["register x mood"] < 1e-6


def test_pseudo_replication_inflates_as_theory_says():
    """With equal cells the naive t is too large by sqrt((r s^2 + 1) / (s^2 + 1)), nearly: its level is the tail beyond the deflated threshold."""
    panel = toy_designs.pseudo_replication([0.0, 1.0], sentences=(1, 8), draws=2000, seed=1)
    still = panel["topics differ by 0"]
    for column in ("every sentence", "topics"):
        assert np.allclose(still[column], 0.05, atol=0.02)
    wide = panel["topics differ by 1"].set_index("x")
    expected = 2 * st.norm.sf(1.96 / np.sqrt((8 + 1) / 2))
    assert wide["every sentence"][8] == pytest.approx(expected, abs=0.04)
    assert wide["topics"][8] == pytest.approx(0.05, abs=0.02)


def test_double_dipping_shrinks_to_nothing():
    panel = toy_designs.double_dipping([16], n_features=(1, 100), draws=400, seed=2)[
        "16 topics a half"
    ].set_index("x")
    assert abs(panel["other half"]).max() < 4 * 0.25 / np.sqrt(
        400
    )  # d has standard deviation 1 / sqrt(16)
    alone = np.sqrt(2 / np.pi) / 4
    assert (
        panel["where chosen"][1] == pytest.approx(alone, rel=0.15)
        and panel["where chosen"][100] > 2.5 * alone
    )


def test_small_multiples_share_their_lines():
    figure = figures_interactions.small_multiples(
        toy_designs.double_dipping([8, 16], n_features=(1, 10), draws=5),
        "features",
        "d",
        nominal=0.0,
    )
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["where chosen", "other half"]
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        "8 topics a half",
        "16 topics a half",
    ]
