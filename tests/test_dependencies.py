"""The flow's picture of what depends on what, against Python's own: the modules that an import really loads."""

import json
import subprocess
import sys

import nbformat
import pytest

from companion import dependencies, places


@pytest.mark.parametrize(
    "module",
    [
        "featint.runs",
        "featint.metrics",
        "companion.results",
        "companion.figures.behaviour",
        "companion.ledger",
    ],
)
def test_closure_is_what_python_loads(module):
    loaded = "[m.__file__ for name, m in sys.modules.items() if name.startswith(('featint.', 'companion.'))]"
    code = f"import sys, json, {module}; print(json.dumps({loaded}))"
    loaded = set(
        json.loads(
            subprocess.run(
                [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True
            ).stdout
        )
    )
    listed = {str(f) for f in dependencies.closure([module]) if f.suffix == ".py"}
    assert loaded <= listed
    assert listed - loaded <= {
        str(f) for n, f in dependencies.FILES.items() if "kernels" in n
    }  # may be imported inside a function


def test_a_models_key_stands_for_its_config_but_not_for_its_code():
    watched = {f.name for f in dependencies.of_stage("featint.runs")}
    assert {"sae.py", "nfm.py", "joint.py", "train.py", "sparse.py", "loops.cpp"} <= watched
    assert not {"config.py", "profiles.py", "plots.py", "lm.py"} & watched


def test_a_notebook_is_touched_by_what_it_imports(tmp_path):
    file = tmp_path / "a.ipynb"
    cells = [
        nbformat.v4.new_code_cell(
            "from companion import verdicts\nfrom featint.metrics import fvu"
        ),
        nbformat.v4.new_markdown_cell("from featint import lm"),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), file)
    touched = {str(f.relative_to(places.PROJECT)) for f in dependencies.of_notebook(file)}
    assert touched == {"companion/verdicts.py", "companion/estimates.py", "featint/metrics.py"}


def test_what_names_models_depends_on_their_descriptions():
    touched = dependencies.closure(["companion.variants"])
    assert places.DATA / "models.toml" in touched and all(f.is_file() for f in touched)


def test_a_module_in_a_room_depends_on_the_room_itself():
    code = "from companion.figures import behaviour as figures_behaviour"
    assert (
        dependencies.imported(code)
        == dependencies.imported("import companion.figures.behaviour")
        == {"companion.figures", "companion.figures.behaviour"}
    )
    assert dependencies.imported("from companion.figures import intervals") == {"companion.figures"}
    assert dependencies.imported(
        "from companion.figures.behaviour import boxes\nfrom featint import figures"
    ) == {"companion.figures", "companion.figures.behaviour"}
    assert dependencies.imported("import featint, numpy") == set()
    with pytest.raises(KeyError):
        dependencies.closure(["figures.nothing"])
