"""The figures and tables of the page Performance show the benchmark's numbers, and say honestly what was reached."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from companion.figures import performance


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_bars_of_the_race_are_thousands_of_tokens_in_rising_order():
    rows = [("4-2-8", "sae", 3000.0), ("4-2-8", "saelens", 1000.0), ("8-2-8", "joint", 500.0)]
    first, second = performance.race(pd.DataFrame(rows, columns=["size", "model", "value"])).axes
    assert [bar.get_width() for bar in first.patches] == [1.0, 3.0]
    assert [label.get_text() for label in first.get_yticklabels()] == ["SAELens", "SAE"]
    assert [bar.get_width() for bar in second.patches] == [0.5]
    assert first.get_title(loc="left") == "4 features, k = 2, batch 8"


def test_targets_say_what_was_missed():
    rules = [
        ("speed", "faster", 2.5, None),
        ("cost", "dearer", None, 1.4),
        ("loss", "same", 0.9, 1.1),
    ]
    measured = pd.DataFrame({
        "quantity": ["speed", "loss", "speed", "cost", "other"], "size": ["4-2-8", None, "8-2-8", "4-2-8", None],
        "value": [2.5, 1.2, 2.4, 1.5, 0.0], "n": [10, 1, 9, 10, 1], "model": [None, "sae", None, None, "sae"],
    })  # fmt: skip
    columns = ["quantity", "what", "low", "high"]
    table = performance.targets(measured, pd.DataFrame(rules, columns=columns))
    assert table.columns.tolist() == [
        "what",
        "features / k / batch",
        "measured",
        "to reach",
        "reached",
        "n",
    ]
    assert table.drop(columns="features / k / batch").to_numpy().tolist() == [
        ["faster", 2.5, "at least 2.5", "yes", 10],
        ["faster", 2.4, "at least 2.5", "no", 9],
        ["dearer", 1.5, "at most 1.4", "no", 10],
        ["same, sae", 1.2, "0.9 to 1.1", "no", 1],
    ]
    sizes = table["features / k / batch"]
    assert sizes.tolist()[:3] == ["4 / 2 / 8", "8 / 2 / 8", "4 / 2 / 8"] and pd.isna(sizes[3])


def test_phases_stack_up_to_the_step_from_the_top():
    phases = list(performance.PHASES)
    rows = [(model, phase, i + 1.0) for model in ("sae", "joint") for i, phase in enumerate(phases)]
    ax = performance.phases(pd.DataFrame(rows, columns=["model", "phase", "value"]), floor=4.0)
    ends = [bar.get_x() + bar.get_width() for bar in ax.patches]
    assert max(ends) == pytest.approx(1 + 2 + 3 + 4 + 5 + 6)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["SAE", "joint"]
    assert ax.yaxis_inverted() and ax.lines[0].get_xdata()[0] == 4


def test_growth_has_a_line_per_model_and_a_panel_per_size():
    rows = [
        ("k", 8, "sae", 1.0),
        ("k", 16, "sae", 2.0),
        ("k", 8, "joint", 3.0),
        ("d_sae", 4, "sae", 4.0),
    ]
    first, second = performance.growth(
        pd.DataFrame(rows, columns=["axis", "x", "model", "value"])
    ).axes
    assert [ax.get_xlabel() for ax in (first, second)] == ["k", "d_sae"]
    drawn = [line.get_ydata() for line in first.lines if len(line.get_xdata())]
    assert any(np.array_equal(y, [1, 2]) for y in drawn) and any(
        np.array_equal(y, [3]) for y in drawn
    )
    assert first.get_yscale() == first.get_xscale() == "log"
