"""The results chapters on a language model and a text that this book does not know: tiny ones, with all that can be set set at once."""

import os
import random
import subprocess

import nbformat
import own
import papermill
import pytest

from companion import notebook, results, variants
from featint import store

SIZES = {"d_sae": 256, "k": 8, "d_factor": 8, "n_tokens": 10_240, "first_position": "keep"}
AT = {"llama": "blocks.0.hook_resid_post", "gpt2": "blocks.1.hook_resid_pre"}
EVERY = [("llama", chapter) for chapter in variants.CHAPTERS]
EVERY += [("gpt2", "interactions")]
SLICE = random.Random(store.commit().removesuffix("+changes")).sample(EVERY, 1)
"""What `make smoke` runs: another for each commit."""
EVERY += [
    ("llama with an SAE", chapter)
    for chapter in variants.CHAPTERS
    if "sae" in papermill.inspect_notebook(notebook.FOLDER / f"{chapter}.ipynb")
]


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """A folder with the texts, both models, of which one knows no word as one token, and a cache."""
    folder = tmp_path_factory.mktemp("stranger")
    own.texts(folder / "texts")
    own.model(folder / "llama", own.LLAMA, knows_words=True)
    own.model(folder / "gpt2", own.GPT2, knows_words=False)
    own.sae(folder / "sae", AT["llama"])
    (folder / "cache").mkdir()
    (folder / "cache" / "kernels").symlink_to(store.cache() / "kernels")
    return folder


@pytest.mark.parametrize(
    "lm, chapter",
    [
        pytest.param(*at, marks=[pytest.mark.slow] + [pytest.mark.smoke] * (at in SLICE))
        for at in EVERY
    ],
)
def test_a_results_chapter_runs_on_another_model_and_text(lm, chapter, copy, stranger):
    lm, sae, _ = lm.partition(" with an SAE")
    given = {"lm": stranger / lm, "corpus": stranger / "texts", "hook_point": AT[lm]} | SIZES
    if sae:
        del given["d_sae"]  # all are as wide as it is
        given["sae"] = stranger / "sae"
    known = papermill.inspect_notebook(notebook.FOLDER / f"{chapter}.ipynb")
    given = {name: value for name, value in given.items() if name in known}
    words = [word for name, value in given.items() for word in ("-p", f"{name}={value}")]
    done = subprocess.run(
        [
            ".venv/bin/python",
            "-m",
            "companion.cli",
            "notebook",
            chapter,
            "--profile",
            "smoke",
            *words,
        ],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(copy), "FEATINT_CACHE": str(stranger / "cache")},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    (executed,) = copy.glob(f"_build/executed/custom/*/notebooks/{chapter}.ipynb")
    if chapter != "reading_a_splice":  # which stores none
        found = results.table(copy / "results" / "custom" / executed.parts[-3] / f"{chapter}.json")
        assert found.value.notna().mean() > 0.5
        assert not found.index.str.startswith("clamp").any() or (lm, chapter) == (
            "llama",
            "interactions",
        )
    said = "Left out, as said above." in str(nbformat.read(executed, as_version=4))
    assert said == ((lm, chapter) == ("gpt2", "interactions"))
