"""The flow's picture of what depends on what, against Python's own: the modules that an import really loads."""

import json
import subprocess
import sys

import nbformat
import pytest

from featint import sources


@pytest.mark.parametrize("module", ["runs", "metrics", "chapters.reconstruction", "figures.behaviour", "ledger"])
def test_closure_is_what_python_loads(module):
    loaded = "[m.__file__ for name, m in sys.modules.items() if name.startswith('featint.')]"
    code = f"import sys, json, featint.{module}; print(json.dumps({loaded}))"
    loaded = set(json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout))
    listed = {str(f) for f in sources.closure([module]) if f.suffix == ".py"}
    assert loaded <= listed
    assert listed - loaded <= {str(sources.FILES["kernels"])}  # may be imported inside a function


def test_a_models_key_stands_for_its_config_but_not_for_its_code():
    watched = {f.name for f in sources.of_stage("runs")}
    assert {"sae.py", "nfm.py", "joint.py", "train.py", "sparse.py", "_kernels.cpp"} <= watched
    assert not {"config.py", "profiles.py", "plots.py", "lm.py"} & watched


def test_a_notebook_is_touched_by_what_it_imports(tmp_path):
    file = tmp_path / "a.ipynb"
    cells = [
        nbformat.v4.new_code_cell("from featint.toys import features as toy\nfrom featint.metrics import fvu"),
        nbformat.v4.new_markdown_cell("from featint import lm"),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), file)
    touched = {str(f.relative_to(sources.PACKAGE)) for f in sources.of_notebook(file)}
    assert touched == {"toys/__init__.py", "toys/features.py", "metrics.py"}


def test_a_module_in_a_room_depends_on_the_room_itself():
    code = "from featint.figures import behaviour as figures_behaviour"
    assert sources.imported(code) == sources.imported("import featint.figures.behaviour") == {"figures", "figures.behaviour"}
    assert sources.imported("from featint.figures import intervals") == {"figures"}
    assert sources.imported("from featint.figures.behaviour import boxes\nfrom featint import figures") == {"figures", "figures.behaviour"}
    assert sources.imported("import featint, numpy") == set()
    with pytest.raises(KeyError):
        sources.closure(["figures.nothing"])
