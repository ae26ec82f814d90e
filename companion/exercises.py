"""Exercises that say whether an answer is right; what is right stands in
`notebooks/solutions/exercises.py`, with tolerance, wrong answers and hints."""

import runpy

import numpy as np

from companion import places

FILE = places.PROJECT / "notebooks" / "solutions" / "exercises.py"
EXERCISES = runpy.run_path(str(FILE))["EXERCISES"]


def numbers(name: str, answer) -> np.ndarray:
    """An answer as an array; of a function what it returns for each of the exercise's `cases`.
    Raises KeyError for an exercise that there is not."""
    exercise = EXERCISES[name]
    found = [answer(*x) for x in exercise["cases"]] if callable(answer) else [answer]
    return np.concatenate([np.ravel(x).astype(float) for x in found])


def check(name: str, answer) -> None:
    """Print that an answer is right, or why not. Each number may be off by the exercise's
    `tolerance`, a share of the largest that is expected."""
    given, exercise = numbers(name, answer), EXERCISES[name]
    right = numbers(name, exercise["right"])
    wrong = [(numbers(name, answer), f"Not yet: {why}") for answer, why in exercise["wrong"]]
    for known, said in [(right, "Right."), *wrong]:
        allowed = exercise["tolerance"] * np.abs(known).max()
        if known.shape == given.shape and np.abs(given - known).max() <= allowed:
            return print(said)
    if np.isnan(given).all():
        print(f"Nothing is answered yet; exercises.hint({name!r}) helps.")
    elif given.shape != right.shape:
        print(f"Not yet: {right.size} numbers are asked for, and the answer holds {given.size}.")
    else:
        i = np.abs(given - right).argmax()
        print(f"Not yet: number {i + 1} is too {'large' if given[i] > right[i] else 'small'}.")


def hint(name: str, number: int = 1) -> None:
    """Print one of an exercise's hints; the first says the least."""
    print(EXERCISES[name]["hints"][number - 1])
