"""Exercises say right to the solutions and why not to what is wrong; the solution notebooks run."""

import re

import nbformat
import numpy as np
import papermill
import pytest

from companion import exercises, notebook
from companion.exercises import EXERCISES

SOLUTIONS = sorted((notebook.FOLDER / "solutions").glob("*.ipynb"))
FUNCTIONS = [name for name, exercise in EXERCISES.items() if "cases" in exercise]


def code(file) -> list:
    return [cell for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "code"]


def asked(file) -> set[str]:
    """The exercises that a notebook checks, in code or in a box."""
    text = file.read_text(encoding="utf-8").replace('\\"', '"')
    return set(re.findall(r'exercises\.check\("([\w-]+)"', text)) | set(
        re.findall(r"\{check\} ([\w-]+)", text)
    )


@pytest.mark.parametrize("file", SOLUTIONS, ids=lambda f: f.stem)
def test_every_solution_is_right(file, capsys):
    names = {}
    for cell in code(file):
        exec(cell.source, names)
    page = notebook.FOLDER / file.name
    said = capsys.readouterr().out.splitlines()
    assert asked(file) == asked(page) and said == ["Right."] * len(asked(file))
    assert asked(page) & set(FUNCTIONS), "an exercise is to be solved in code"


@pytest.mark.slow
@pytest.mark.parametrize("file", SOLUTIONS, ids=lambda f: f.stem)
def test_solution_notebooks_run_with_their_hints(file, tmp_path):
    out = papermill.execute_notebook(
        file, tmp_path / "o.ipynb", {"hints": True}, kernel_name="python3"
    )
    said = "".join(o.get("text", "") for c in out.cells for o in c.get("outputs", []))
    assert said.count("Right.") == len(asked(file)) and "Not yet" not in said
    assert all(hint in said for name in asked(file) for hint in EXERCISES[name]["hints"])


def test_every_exercise_is_asked_and_solved():
    assert set(EXERCISES) == set.union(*map(asked, SOLUTIONS))


@pytest.mark.parametrize("name", EXERCISES)
def test_each_wrong_answer_gets_its_own_reason(name, capsys):
    exercise = EXERCISES[name]
    for wrong, why in exercise["wrong"]:
        exercises.check(name, wrong)
        assert capsys.readouterr().out == f"Not yet: {why}\n"
    assert len(exercise["hints"]) >= 2


@pytest.mark.parametrize("name", sorted(set(EXERCISES) - set(FUNCTIONS)))
def test_a_number_may_be_off_by_the_tolerance(name, capsys):
    right = exercises.numbers(name, EXERCISES[name]["right"])
    allowed = EXERCISES[name]["tolerance"] * np.abs(right)
    for shift, said in ((0.5, "Right."), (-0.5, "Right."), (1.5, "large"), (-1.5, "small")):
        exercises.check(name, right + shift * allowed)
        assert said in capsys.readouterr().out
    exercises.check(name, None)
    assert f"exercises.hint('{name}')" in capsys.readouterr().out


def test_functions_are_called_with_every_case_and_all_numbers_count(capsys):
    shares = exercises.numbers("norm-share", EXERCISES["norm-share"]["right"])
    for answer, said in {
        (lambda *_: None): "Nothing is answered yet; exercises.hint('norm-share') helps.",
        (lambda *_: shares): "Right.",
        (lambda *_: shares + [0, 0, 1e-3, 0, 0]): "Not yet: number 3 is too large.",
        (lambda *_: shares - [0, 0, 0, 0, 1e-3]): "Not yet: number 5 is too small.",
        (lambda *_: shares[:3]): "Not yet: 5 numbers are asked for, and the answer holds 3.",
    }.items():
        exercises.check("norm-share", answer)
        assert capsys.readouterr().out == f"{said}\n"


def test_hints_come_one_at_a_time(capsys):
    for number, hint in enumerate(EXERCISES["fm-cost"]["hints"], 1):
        exercises.hint("fm-cost", number)
        assert capsys.readouterr().out == f"{hint}\n"
