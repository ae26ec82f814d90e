"""Sweeps: what a file asks for, what is refused before the first job, and the trends of what cells found."""

import json

import nbformat
import pandas as pd
import pytest

from companion import notebook, places, results
from sweeps import grid, trends

K = {"notebook": "reconstruction", "grid": {"k": [8, 16]}, "show": ["joint/*"]}


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A function that writes a sweep's file; pages and results of sweeps lie apart."""
    monkeypatch.setattr(places, "BUILD", tmp_path / "build")
    monkeypatch.setattr(places, "RESULTS", tmp_path / "results")

    def write(content):
        file = tmp_path / "mine.yaml"
        text = content if isinstance(content, str) else json.dumps(content)  # which is YAML
        file.write_text(text, encoding="utf-8")
        return file

    return write


def test_cells_are_the_grid_times_the_seeds(written):
    asked = K | {"grid": {"k": [8, "16"], "lr": [0.1]}, "seeds": [0, 1]}
    sweep = grid.read(written(asked), "smoke")
    points = [cell.parameters for cell in sweep.cells]
    assert points == [{"k": k, "lr": 0.1, "seed": seed} for k in (8, 16) for seed in (0, 1)]
    assert str(sweep.cells[0]) == "k = 8, lr = 0.1, seed = 0"
    assert sweep.cells[0].executed.name == "k-8_lr-0.1_seed-0.ipynb"
    assert {cell.profile.sae.k for cell in sweep.cells} == {8, 16}
    assert len({sweep.results(cell) for cell in sweep.cells}) == 4


@pytest.mark.parametrize(
    "name, own", [("waterfall", {"text": "test articles", "k": 8}), ("norms", {"sweep": False})]
)
def test_a_cell_looks_for_results_where_its_notebook_puts_them(written, name, own):
    """Its own first cell says where, in what its kernel has run."""
    asked = {"notebook": name, "grid": {k: [v] for k, v in own.items()}, "show": ["*"]}
    (cell,) = grid.read(written(asked), "smoke").cells
    cells = nbformat.read(notebook.FOLDER / f"{name}.ipynb", as_version=4).cells
    (first,) = [c.source for c in cells if "parameters" in c.metadata.get("tags", [])]
    given = "# Parameters\n" + "\n".join(
        f"{k} = {v!r}" for k, v in {"profile": "smoke", **own}.items()
    )
    kernel = {"In": ["", first, given]}
    exec(first, kernel)
    exec(given, kernel)
    assert notebook.start(kernel).label == cell.profile.label


@pytest.mark.parametrize(
    "change, said",
    [
        ({"grid": {"kk": [8]}}, "has no parameter 'kk'; it has profile, seed"),
        ({"grid": {"k": []}}, r"k = \[\] has no value"),
        ({"grid": {"k": None}}, "k = None has no value"),
        ({"grid": {"k": [8, None]}}, "has no value"),
        ({"grid": {"k": 8}}, "k = 8 has no value; it takes a list"),
        ({"grid": {}}, "grid is empty"),
        ({"seeds": []}, r"seed = \[\] has no value"),
        ({"grid": {"k": [8, 1025]}}, "k = 1025 must lie between 1 and d_sae = 1024"),
        ({"grid": {"k": ["eight"]}}, "k = 'eight' .*whole number"),
        ({"grid": {"k": [8, 8.0]}}, "k = 8 and k = 8 are the same run"),
        ({"grid": {"k": [8], "seed": [1]}, "seeds": [1]}, "name them once"),
        ({"notebook": "superposition", "grid": {"n_features": [30]}}, "stores no results"),
        ({"notebook": "nowhere"}, "notebook = 'nowhere' is not known"),
        ({"notebook": None}, "notebook = None must be a str"),
        ({"show": []}, "show is empty"),
        ({"profile": "smoke"}, "holds notebook, grid, seeds, show and nothing else"),
    ],
)
def test_what_cannot_run_is_refused_before_the_first_job(written, change, said):
    with pytest.raises(ValueError, match=f"mine.yaml.*{said}"):
        grid.read(written(K | change), "smoke")


@pytest.mark.parametrize("text", ["k: [", "- 1", ""])
def test_a_file_that_is_no_sweep_is_named(written, text, capsys, monkeypatch):
    file = written(text)
    monkeypatch.setattr("sys.argv", ["grid", str(file), "smoke"])
    assert grid.main() == 2
    assert f"{file} is not a sweep" in capsys.readouterr().err


@pytest.fixture
def found(written):
    """A sweep over k from two seeds; each cell that was done has a value that rises with k and one
    that falls from seed 0 and turns from seed 1. The last cell failed."""
    sweep = grid.read(
        written(K | {"grid": {"k": [8, 16, 32]}, "seeds": [0, 1], "show": ["joint/*"]}), "smoke"
    )
    other = {0: [3.0, 2.0, 1.0], 1: [1.0, 2.0, 0.0]}
    for cell in sweep.cells[:-1]:
        k, seed = cell.parameters["k"], cell.parameters["seed"]
        values = [
            {"model": "joint", "quantity": "mse", "value": k / 10 + seed, "lo": 0.0, "hi": 9.0},
            {"model": "joint", "quantity": "l0", "value": other[seed][[8, 16, 32].index(k)]},
            {"model": "sae", "quantity": "mse", "value": 1.0},
            {"model": "joint", "quantity": "shares", "value": [1.0, 2.0]},
        ]
        results.save(
            cell.profile,
            sweep.notebook,
            pd.DataFrame(values).assign(n=7, of="articles", unit="MSE"),
            seed,
        )
        cell.executed.parent.mkdir(parents=True, exist_ok=True)
        cell.executed.write_text("{}", encoding="utf-8")
    error = {"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": []}
    copy = {"cells": [{"outputs": [error]}, {}]}
    sweep.cells[-1].failed.write_text(json.dumps(copy), encoding="utf-8")
    return sweep


def test_trends_by_hand(found):
    """Of the series from seed 1, k = 32 is missing."""
    cells = trends.frame(found)
    assert set(cells["id"]) == {"joint/mse/controlled", "joint/l0/controlled"} and len(cells) == 10
    table = trends.table(cells, found).set_index(["value", "with"])
    assert list(table.loc[("joint/mse/controlled", "k")]) == pytest.approx([1.3, 3.2, 2, 0, 0])
    assert list(table.loc[("joint/l0/controlled", "k")]) == pytest.approx([2.0, 1.0, 1, 1, 0])
    assert len(table) == 2  # another seed is no trend


def test_a_failed_cell_is_named_with_its_error(found):
    table = trends.missing(found)
    assert table.to_dict("records") == [
        {"cell": "k = 32, seed = 1", "what happened": "ValueError: no"}
    ]
    found.cells[-1].failed.unlink()
    assert trends.missing(found)["what happened"].tolist() == ["did not run to its end"]


def test_a_figure_shows_every_cell(found):
    figure = trends.draw(trends.frame(found), found, "k")
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        "joint/mse/controlled",
        "joint/l0/controlled",
    ]
    lines = [[list(bars[0].get_ydata()) for bars in ax.containers] for ax in figure.axes]
    assert lines == [[[0.8, 1.6, 3.2], [1.8, 2.6]], [[3.0, 2.0, 1.0], [1.0, 2.0]]]


def test_no_cell_done_is_said(written):
    with pytest.raises(ValueError, match="no cell of mine has a number like joint/"):
        trends.frame(grid.read(written(K), "smoke"))
