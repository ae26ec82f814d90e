"""Exercises that say whether an answer is right. What is expected is computed: it stands in
`data/exercises.toml`, as expressions over what the pages use, with tolerance and hints."""

import importlib
import tomllib

import numpy as np

from companion import places

with open(places.DATA / "exercises.toml", "rb") as _file:
    EXERCISES = tomllib.load(_file)


def numbers(name: str, answer) -> np.ndarray:
    """An answer as an array: of text, an expression, its value; of a function what it returns for
    each of the exercise's `cases`. Raises KeyError for an exercise that there is not."""
    exercise = EXERCISES[name]
    names = {short: importlib.import_module(module) for short, module in exercise["uses"].items()}
    answer = eval(answer, names) if isinstance(answer, str) else answer
    found = [answer(*x) for x in eval(exercise["cases"], names)] if callable(answer) else [answer]
    return np.concatenate([np.ravel(x).astype(float) for x in found])


def check(name: str, answer) -> None:
    """Print that an answer is right, or why not. Each number may be off by the exercise's
    `tolerance`, a share of the largest that is expected."""
    given, exercise = numbers(name, answer), EXERCISES[name]
    right = numbers(name, exercise["expected"])
    for expression, said in {exercise["expected"]: "Right.", **exercise["wrong"]}.items():
        known = numbers(name, expression)
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
