"""What the tests of faults share: generated cases that are the same in every run, their number, and steps of the flow to be disturbed."""

import json
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import nbformat
import pytest
from hypothesis import HealthCheck, settings
from steps import STEPS, Worker, state

from companion import places
from featint import store

settings.register_profile(
    "ci",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=40,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("ci")


@pytest.fixture(autouse=True)
def cases(request, record_property):
    """A function that counts one more case of this test; the report holds their number."""
    n = Counter()
    yield lambda: n.update(cases=1)
    record_property("cases", n["cases"] or 1)


@pytest.fixture(scope="session")
def worker(lm_folder, corpus_file):
    made = Worker(lm_folder, corpus_file)
    yield made
    made.process.communicate()


@pytest.fixture(scope="session")
def ready(worker, tmp_path_factory):
    """A function that makes a folder in which a step can begin, and what the folder holds when the step has ended well."""
    home, known = tmp_path_factory.mktemp("steps"), {}

    def prepared(step: str) -> Path:
        if step not in known:
            base, whole = home / f"{step}-base", home / f"{step}-whole"
            (base / "results").mkdir(parents=True)
            shutil.copytree(places.PUBLISHED / "laptop", base / "results" / "tiny")
            (base / "results" / "tiny" / "ledger.json").unlink()
            for file in (base / "results" / "tiny").iterdir():  # as they are written today
                content = json.loads(file.read_text(encoding="utf-8"))
                content.pop("sha256", None)
                store.write_json(file, content | {"sha256": store.digest(content)})
            (base / "notebooks").mkdir()
            draft = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("sum(range(9))")])
            draft.metadata["kernelspec"] = {
                "name": "python3",
                "language": "python",
                "display_name": "p",
            }
            nbformat.write(draft, base / "notebooks" / "draft.ipynb")
            for before in STEPS[step]:
                worker.finish(before, base)
            shutil.copytree(base, whole)
            ended = worker.finish(step, whole)
            known[step] = base, state(whole), ended["changes"], ended["seconds"]
        return known[step]

    def begin(step: str):
        base, *more = prepared(step)
        folder = Path(tempfile.mkdtemp(dir=home))
        shutil.copytree(base, folder, dirs_exist_ok=True)
        return folder, *more

    return begin
