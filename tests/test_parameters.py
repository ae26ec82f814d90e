"""Every parameter that a notebook advertises runs at a second value, and refuses a bad one before
any work, by name, value and what is allowed."""

import ast
import os
import random
import re
import subprocess

import nbformat
import papermill
import pytest

from companion import notebook, variants
from featint import runs, store, train

KNOBS = {  # a second value for the profile smoke; a bad one, and the words that refuse it
    "profile": ("smoke", "huge", "profile = 'huge' .*allowed: 'smoke', 'laptop'"),
    "seed": (1, -1, "seed = -1 .*from 0 to 4294967295"),
    "k": (8, 1025, "k = 1025 must lie between 1 and d_sae = 1024"),
    "d_sae": (512, 20, "k = 21 must lie between 1 and d_sae = 20"),
    "n_tokens": (10_240, 511, "n_tokens = 511 must be .* at least 512"),
    "d_factor": (27, 0, "d_factor = 0 .* at least 1"),
    "lr": (0.001, float("inf"), "lr = inf .* finite number of at least 0"),
    "lm": ("smollm2-135m-instruct", 5, r"lm = 5 \(int\) must be text"),
    "corpus": ("wikipedia-summaries", "nowhere", "corpus name = 'nowhere' .*allowed: 'wikipedia-"),
    "hook_point": ("blocks.5.hook_resid_post", 5, r"hook_point = 5 \(int\) must be text"),
    "sae": ("a folder of tests/test_foreign.py", 5, r"sae = 5 \(int\) must be text"),
    "first_position": ("keep", "x", "first_position = 'x' .*allowed: 'drop', 'keep'"),
    "draws": (2, 0, "draws = 0 .* at least 1"),
    "n_steps": (300, 0, "n_steps = 0 .* at least 1"),
}
OWN = {
    "author_data": {
        "folder": (None, 5, r"folder = 5 \(int\) must be text"),
        "feature": (1113, -1, "feature = -1 .*from 0 to"),
        "threshold": (0.05, -1.0, "threshold = -1.0 .* at least 0"),
        "window": (64, 0, "window = 0 .* at least 1"),
        "shuffles": (50, 0, "shuffles = 0 .* at least 1"),
    },
    "best_chance": {
        "own_lr": ([2.0], [], r"own_lr = \[\] .* numbers above 0"),
        "widths": ([2.0], [0], r"widths = \[0\] .* numbers above 0"),
    },
    "detection_limit": {
        "shares": ([5.0], [0], r"shares = \[0\] .* numbers above 0"),
        "n_pairs": (32, 0, "n_pairs = 0 .* at least 1"),
        "n_runs": (2, -1, "n_runs = -1 .* at least 1"),
        "small_features": (512, 0, "small_features = 0 .* at least 1"),
        "small_tokens": (10_240, 0, "small_tokens = 0 .* at least 1"),
    },
    "factorial_designs": {"n_topics": (72, 1, "n_topics = 1 must be .* at least 2")},
    "factorization_machines": {
        "n_users": (12, 0, "n_users = 0 .* at least 1"),
        "n_items": (12, 0, "n_items = 0 .* at least 1"),
    },
    "interactions": {"feature": (3, 1350, "feature = 1350 is out of range; .* 0 to 1349")},
    "joint_training": {
        "n_features": (20, 2, "n_active = 3 is more than n_features = 2"),
        "d_in": (16, 0, "d_in = 0 .* at least 1"),
        "n_active": (2, 1, "n_active = 1 must be .* at least 2"),
    },
    "norms": {
        "n_tokens": (10_240, 9_000, "n_tokens = 9000 must be .* at least 9216"),
        "sweep": (False, 2, r"sweep = 2 \(int\) must be True or False"),
    },
    "performance": {"size": ("16384-32-1024", "1-1-1", "size = '1-1-1' .*allowed: '8192-64-1024'")},
    "planted_truth": {
        "n_seeds": (2, 0, "n_seeds = 0 .* at least 1"),
        "n_features": (48, 5, "n_active = 6 is more than n_features = 5"),
        "d_in": (48, 0, "d_in = 0 .* at least 1"),
        "n_active": (4, 65, "n_active = 65 is more than n_features = 64"),
        "n_products": (8, 2017, "n_products = 2017 is more than the 2016 pairs of 64 features"),
        "strength": (0.5, 0.0, "strength = 0 plants nothing"),
        "noise": (0.1, -1.0, "noise = -1.0 .* at least 0"),
    },
    "reading_a_splice": {
        "sentence": ("The sea is blue.", 5, r"sentence = 5 \(int\) must be text"),
        "place": (3, 0, "place = 0 .* at least 1"),
    },
    "seeds_and_intervals": {
        "n_seeds": (3, 1, "n_seeds = 1 must be .* at least 2"),
        "seed_sd": (0.1, -1.0, "seed_sd = -1.0 .* at least 0"),
        "article_sd": (0.5, -1.0, "article_sd = -1.0 .* at least 0"),
        "worlds": (20, 0, "worlds = 0 .* at least 1"),
    },
    "superposition": {
        "n_features": (7, 0, "n_features = 0 .* at least 1"),
        "d_sae": (5, 0, "d_sae = 0 .* at least 1"),
    },
    "waterfall": {
        "reference": ("sae", "x", "reference = 'x' .*allowed: 'own path'"),
        "text": ("test articles", "x", "text = 'x' .*allowed: 'first training windows'"),
        "nfm_sees": ("all", "x", "nfm_sees = 'x' .*allowed: 'all', 'half'"),
    },
    "what_could_be_seen": {
        "n_topics": (12, 1, "n_topics = 1 must be .* at least 2"),
        "effect": (0.2, -1.0, "effect = -1.0 .* at least 0"),
        "worlds": (200, 0, "worlds = 0 .* at least 1"),
    },
    "what_a_norm_can_tell": {
        "batch_tokens": (256, 0, "batch_tokens = 0 .* at least 1"),
        "rare": (0.01, 0.0, "rare = 0.0 must be .* at least 1e-09"),
    },
}
"""What is a notebook's own, or another there."""

EVERY = {}
for _chapter in notebook.names():
    for _name in papermill.inspect_notebook(notebook.FOLDER / f"{_chapter}.ipynb"):
        EVERY[_chapter, _name] = OWN.get(_chapter, {}).get(_name) or KNOBS[_name]
SIZES = {"k", "d_sae", "d_factor", "n_tokens"}
SHARED = SIZES | {"lm", "corpus", "hook_point", "first_position"}
"""What every results chapter takes, but for the sizes that *Detection limit* has of its own;
tests/test_own_model.py runs each with all of them."""
ALONE = sorted(
    at for at in EVERY if at[1] not in SHARED | {"sae"} or at[0] not in variants.CHAPTERS
)
SLICE = random.Random(store.commit().removesuffix("+changes")).sample(ALONE, 2)
"""Those that `make smoke` runs: others for each commit."""


def test_no_row_of_the_table_is_stale():
    assert {(chapter, name) for chapter, of in OWN.items() for name in of} <= set(EVERY)
    assert set(KNOBS) <= {name for _, name in EVERY}


@pytest.mark.parametrize("chapter", variants.CHAPTERS)
def test_a_results_chapter_takes_what_all_take(chapter):
    assert {name for of, name in EVERY if of == chapter} >= SHARED - (
        SIZES if chapter == "detection_limit" else set()
    )


@pytest.mark.parametrize("chapter, name", sorted(EVERY))
def test_a_bad_value_is_refused_before_any_work(chapter, name, monkeypatch):
    for module in (runs, train):
        monkeypatch.setattr(module, "fit", lambda *_, **__: pytest.fail("something was trained"))
    cells = nbformat.read(notebook.FOLDER / f"{chapter}.ipynb", as_version=4).cells
    sources = [cell.source for cell in cells if cell.cell_type == "code"]
    whole = {line.target.id for line in ast.parse(sources[0]).body}
    values = ({"profile": "smoke"} if "profile" in whole else {}) | {name: EVERY[chapter, name][1]}
    lines = [f"{k} = {v!r}".replace("inf", "float('inf')") for k, v in values.items()]
    kernel = {"In": [""]}
    with pytest.raises(ValueError, match=EVERY[chapter, name][2]):
        for source in (sources[0], "\n".join(["# Parameters", *lines]), *sources[1:5]):
            kernel["In"].append(source)
            exec(source, kernel)


@pytest.mark.parametrize(
    "chapter, name",
    [
        pytest.param(*at, marks=[pytest.mark.slow] + [pytest.mark.smoke] * (at in SLICE))
        for at in ALONE
    ],
)
def test_a_second_value_runs_from_the_first_cell_to_the_last(chapter, name, copy):
    value, published = EVERY[chapter, name][0], copy / "data" / "results"
    before = {file: file.read_bytes() for file in published.rglob("*.json")}
    command = [".venv/bin/python", "-m", "companion.cli", "notebook", chapter, "--profile", "smoke"]
    done = subprocess.run(
        [*command, "-p", f"{name}={value}", "--out", "out.ipynb"],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(copy), "FEATINT_CACHE": str(copy / "cache")},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    cells = nbformat.read(copy / "out.ipynb", as_version=4).cells
    (passed,) = (c.source for c in cells if c.source.startswith("# Parameters\n"))
    assert re.search(rf"^{name} = ", passed, re.M)
    assert {file: file.read_bytes() for file in published.rglob("*.json")} == before
