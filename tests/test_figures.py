"""The figures that several chapters share."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from companion import estimates, figures, plots


@pytest.fixture(autouse=True)
def style():
    with plt.rc_context():
        plots.setup()
        yield
    plt.close("all")


def rows(*models, **more):
    values = [
        {"model": model, "quantity": "gain", "value": i, "lo": i - 0.5, "hi": i + 0.5}
        for i, model in enumerate(models)
    ]
    return estimates.tidy(values, **more)


def test_short_labels_stand_beside_their_rows():
    ax = figures.intervals(rows("one", "two"), "x", zero=True)
    assert (
        [label.get_text() for label in ax.get_yticklabels()] == ["one", "two"]
        and not ax.texts
        and ax.yaxis_inverted()
    )
    assert [list(line.get_xdata()) for line in ax.lines] == [[0], [1], [0, 0]]
    ends = [c.get_segments()[0].tolist() for c in ax.collections]
    assert ends == [[[-0.5, 0], [0.5, 0]], [[0.5, 1], [1.5, 1]]]


def test_long_labels_stand_above_their_rows_and_leave_the_width_to_the_data():
    long = "one model by its long name"
    frame = rows("short", long).assign(baseline=["", "another one"])
    ax = figures.intervals(frame, "x", zero=True)
    assert [text.get_text() for text in ax.texts] == [
        "short",
        f"{long}\nover another one",
    ] and not len(ax.get_yticks())
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
    assert [plots.cell(x) for x in (1069.8, 999.4, 0.00123456)] == ["1070", "999", "0.00123"]
    assert plots.cell(0.355, ".1%") == "35.5 %" and plots.cell(-0.02, ".0%") == "−2 %"


def test_a_panel_per_entry_carries_its_name_and_its_content():
    frame = pd.DataFrame({"model": ["b", "a", "b"], "value": [1, 2, 3]})
    figure, panels = figures.panels(figures.grouped(frame, "model"), 2, more=0.5, columns=2)
    assert [ax.get_title(loc="left") for ax, _ in panels] == ["b", "a"]
    assert [rows["value"].tolist() for _, rows in panels] == [[1, 3], [2]]
    assert figure.get_size_inches().tolist() == [plots.WIDTH, 2.5]
    figure, panels = figures.panels({"a": 1, "b": 2, "c": 3}, 2, columns=2)
    assert [ax.get_visible() for ax in figure.axes] == [True] * 3 + [False] and len(panels) == 3


def test_models_go_by_their_words():
    frame = rows("joint", "sae_tuned").assign(baseline=["joint_no_interaction", ""])
    assert [figures.label(row) for row in frame.itertuples()] == [
        "joint model\nover joint model without interactions",
        "tuned SAE",
    ]
    _, panels = figures.panels({"sequential": 1, "of one's own": 2}, 2)
    assert [ax.get_title(loc="left") for ax, _ in panels] == ["SAE, then NFM", "of one's own"]
    ax = figures.protocol_bars(rows("joint").assign(part="interaction"), "gain")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["interaction\nin joint model"]


def test_arms_reach_from_the_value_to_the_ends_of_its_interval():
    frame = pd.DataFrame({"value": [1, 5], "lo": [-1, None], "hi": [4, None]}, dtype=object)
    assert figures.arms(frame).tolist() == [[2, 0], [3, 0]]


def test_bars_stand_side_by_side_with_their_intervals():
    published = rows("joint", "sequential", protocol="as published")
    frame = pd.concat([published, rows("joint", "sequential").assign(value=[0.25, 1.25])])
    ax = figures.protocol_bars(frame, "gain")
    words = ["joint model", "SAE, then NFM"]
    assert [label.get_text() for label in ax.get_xticklabels()] == words
    as_published, controlled = (c for c in ax.containers if hasattr(c, "datavalues"))
    assert list(as_published.datavalues) == [0, 1] and list(controlled.datavalues) == [0.25, 1.25]
    segments = [segment for c in ax.collections for segment in c.get_segments()]
    for bar, segment in zip([*as_published, *controlled], segments, strict=True):
        assert segment[0][0] == pytest.approx(bar.get_x() + bar.get_width() / 2)
    assert [segment[:, 1].tolist() for segment in segments][2:] == [[-0.5, 0.5], [0.5, 1.5]]
