"""The walkthrough's simulations, run as its cells stand: planted effects are found, and rates are those that theory predicts."""

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from scipy import stats as st

from companion import notebook


@pytest.fixture(scope="module")
def names():
    """What the walkthrough's visible cells leave behind, with seed 1 and 400 topics."""
    cells = nbformat.read(notebook.FOLDER / "factorial_designs.ipynb", as_version=4).cells
    names = {"seed": 1, "n_topics": 400}
    with plt.rc_context():
        for cell in cells:
            tags = cell.metadata.get("tags", [])
            if cell.cell_type == "code" and not {"parameters", "remove-input"} & set(tags):
                exec(cell.source, names)
        yield names
    plt.close("all")


def test_the_table_has_the_three_effects(names):
    """Register 11/2 - 3/2, mood 10/2 - 4/2, and (8 - 3) - (2 - 1)."""
    assert names["effects"]["size"].tolist() == [4, 3, 4]


def test_a_sample_has_the_planted_effects(names):
    """Cells 1, 2, 3, 4.8. Standard error of the interaction: 2 x 0.7 / sqrt(400) = 0.07; of a main
    effect 0.035."""
    table = names["anova"].set_index("effect")
    for effect, (size, error) in {
        "register": (2.4, 0.035),
        "mood": (1.4, 0.035),
        "register x mood": (0.8, 0.07),
    }.items():
        assert table.estimate[effect] == pytest.approx(size, abs=4 * error)
        assert table.F[effect] == pytest.approx((size / error) ** 2, rel=0.35)
    level = names["activation"].mean(axis=1)
    assert level.std() == pytest.approx(2, rel=0.15)


def test_pseudo_replication_inflates_as_theory_says(names):
    """With equal cells the naive t is too large by sqrt((r s² + 1) / (s² + 1)), nearly: its level is the
    tail beyond the deflated threshold. A rate of 5 % in 500 experiments is known to ±1 %."""
    rates = names["false_positives"].set_index(["panel", "x"])
    assert len(rates) == 20
    assert rates.topics.mean() == pytest.approx(0.05, abs=0.01)
    assert rates.topics.to_numpy() == pytest.approx(np.full(20, 0.05), abs=0.04)
    still, wide = (rates["every sentence"].loc[f"topics differ by {sd}"] for sd in (0, 1))
    assert still.mean() == pytest.approx(0.05, abs=0.02)
    for r in (8, 16):
        expected = 2 * st.norm.sf(1.96 / np.sqrt((r + 1) / 2))
        assert wide[r] == pytest.approx(expected, abs=0.06)


def test_double_dipping_shrinks_to_nothing(names):
    """d of n topics has standard deviation 1/sqrt(n), so one feature's |d| is sqrt(2 / (pi n)) on
    average, and the largest of a hundred normal ones 2.5 standard deviations and more."""
    table = names["dipped"].set_index(["panel", "x"])
    for n in (16, 32, 64):
        of = table.loc[f"{n} topics a half"]
        assert abs(of["other half"]).max() < 4 / np.sqrt(n * 200)
        assert of["where chosen"][1] == pytest.approx(np.sqrt(2 / np.pi / n), rel=0.2)
        assert of["where chosen"][100] > 2.5 / np.sqrt(n)


def test_small_multiples_share_their_lines(names):
    figure, frame = names["drawn"], names["dipped"]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["where chosen", "other half"]
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == [f"{n} topics a half" for n in (8, 16, 32, 64)]
    assert figure.axes[1].lines[0].get_ydata().tolist() == frame["where chosen"][4:8].tolist()
