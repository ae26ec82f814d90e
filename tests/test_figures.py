"""The figures that several chapters share."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from companion import figures, plots


@pytest.fixture(autouse=True)
def style():
    with plt.rc_context():
        plots.setup()
        yield
    plt.close("all")


def rows(*labels):
    return pd.DataFrame(
        [
            {"label": label, "value": i, "lo": i - 0.5, "hi": i + 0.5, "role": "sae"}
            for i, label in enumerate(labels)
        ]
    )


def test_short_labels_stand_beside_their_rows():
    ax = figures.intervals(rows("one", "two"), "x", zero=True)
    assert (
        [label.get_text() for label in ax.get_yticklabels()] == ["one", "two"]
        and not ax.texts
        and ax.yaxis_inverted()
    )
    assert [list(line.get_xdata()) for line in ax.lines] == [
        [-0.5, 0.5],
        [0],
        [0.5, 1.5],
        [1],
        [0, 0],
    ]


def test_long_labels_stand_above_their_rows_and_leave_the_width_to_the_data():
    long = "one model by its long name over\nanother one"
    ax = figures.intervals(rows("short", long), "x", zero=True)
    assert [text.get_text() for text in ax.texts] == ["short", long] and not len(ax.get_yticks())
    ax.figure.draw_without_rendering()
    dots = [line.get_window_extent() for line in ax.lines if line.get_marker() == "o"]
    for text, dot in zip(ax.texts, dots, strict=True):
        box = text.get_window_extent()
        assert (
            box.y0 > dot.y1
            and box.x0 > ax.get_window_extent().x0
            and box.x1 < ax.get_window_extent().x1
        )
    assert ax.texts[1].get_window_extent().y1 < dots[0].y0  # below the row before
    assert ax.get_window_extent().width > 0.9 * ax.figure.get_window_extent().width


def test_a_share_in_a_table_is_written_as_in_the_text():
    assert plots.cell(0.355, ".1%") == "35.5 %" and plots.cell(-0.02, ".0%") == "−2 %"
