"""The steps of the flow on a tiny model and text: what runs them, and what they leave."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat

from companion import places
from featint import store

TORTURE = "TORTURE" in os.environ
"""Whether this is `make torture`, or the slice of it in the normal tests."""
STEPS = {
    "windows": [],
    "harvest": [],
    "train": ["harvest"],
    "atlas": ["harvest", "train"],
    "ledger": [],
    "notebook": [],
}
"""The steps that are killed, with those that come before them."""


class Worker:
    """Runs steps on the tiny model and text."""

    def __init__(self, lm: Path, corpus: Path):
        self.about = {"lm": str(lm), "corpus": str(corpus)}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("worker.py"))],
            env=os.environ | {"PYTHONPATH": str(places.PROJECT), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )

    def run(self, step: str, folder: Path, **befalls) -> dict:
        """How a step ended: the exit status of its process, or of several at once, and what it said."""
        job = self.about | {"step": step, "folder": str(folder)} | befalls
        print(json.dumps(job), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def finish(self, step: str, folder: Path, **befalls) -> dict:
        """As `run`; fails unless all went well."""
        ended = self.run(step, folder, **befalls)
        assert set(ended["codes"]) == {0}, ended["said"]
        return ended


def state(folder: Path) -> dict:
    """What lies below a folder, by name, without stamps; nothing is left out but locks, which nobody holds, and compiled kernels."""
    found = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_dir():
            found[name] = "folder"
        elif file.name == store.MANIFEST:
            manifest = json.loads(file.read_text(encoding="utf-8"))
            manifest["meta"].pop("seconds", None)
            found[name] = {k: manifest[k] for k in ("kind", "config", "files", "meta")}
        elif file.suffix == ".ipynb":
            cells = nbformat.read(file, 4).cells
            found[name] = [(c.source, [o.get("data") for o in c.outputs]) for c in cells]
        elif file.name == "atlas.json":
            content = json.loads(file.read_text(encoding="utf-8"))
            del content["about"]["provenance"]
            found[name] = content
        elif file.suffix != ".lock":
            found[name] = store.sha256(file, file.stat().st_mtime_ns)
    return {name: content for name, content in found.items() if "/kernels" not in name}
