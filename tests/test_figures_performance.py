"""The figures and tables of the page Performance show the benchmark's numbers, and say honestly what was reached."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from companion.figures import performance


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def value(x: float, n: int = 10) -> dict:
    return {"value": x, "n": n}


def test_names_are_split_into_columns():
    found = performance.frame(
        {
            "phase/4-2-8/sae/encode": value(1.5),
            "phase/4-2-8/sae/Adam": value(0.5),
            "other": value(0),
        },
        "phase/4-2-8",
        ["model", "phase"],
    )
    assert found.to_dict("list") == {
        "model": ["sae", "sae"],
        "phase": ["encode", "Adam"],
        "value": [1.5, 0.5],
        "n": [10, 10],
    }


def test_bars_of_the_race_are_thousands_of_tokens_in_rising_order():
    speeds = pd.DataFrame(
        {
            "size": ["4-2-8"] * 2 + ["8-2-8"],
            "model": ["sae", "saelens", "joint"],
            "value": [3000.0, 1000.0, 500.0],
        }
    )
    first, second = performance.race(speeds).axes
    assert [bar.get_width() for bar in first.patches] == [1.0, 3.0] and [
        bar.get_width() for bar in second.patches
    ] == [0.5]
    assert first.get_title(loc="left") == "4 features, k = 2, batch 8"


def test_targets_say_what_was_missed():
    names = {
        "sae_vs_fastest_peer/4-2-8": 2.6,
        "joint_vs_sae/4-2-8": 1.5,
        "harvest_vs_trunk": 1.7,
        "held_out_loss_vs_dense/sae": 0.9995,
    }
    table = performance.targets({name: value(x) for name, x in names.items()}).set_index("what")
    assert table["reached"].tolist() == ["yes", "no", "no", "yes"]
    assert table["to reach"].tolist() == [
        "at least 2.5",
        "at most 1.4",
        "at least 2",
        "0.999 to 1.001",
    ]
    assert (
        table["features / k / batch"].tolist()[:2] == ["4 / 2 / 8"] * 2
        and table["features / k / batch"].isna().sum() == 2
    )


def test_phases_stack_up_to_the_step():
    spent = pd.DataFrame(
        [("sae", phase, i + 1.0) for i, phase in enumerate(performance.PHASES)],
        columns=["model", "phase", "value"],
    )
    ax = performance.phases(spent, floor=4.0)
    assert max(bar.get_x() + bar.get_width() for bar in ax.patches) == pytest.approx(
        spent.value.sum()
    )
