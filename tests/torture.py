"""Kills, faults and hostile input in numbers: `make torture`, at most half an hour, writes `data/results/bench/torture.json`.

The same tests as the slice of them in `make test`, with more cases. What a part of it has found is kept in `_build`, and a run that was cut
short goes on after it; one of another commit begins anew."""

import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path

from companion import places
from featint import store

FILE = places.PUBLISHED / "bench" / "torture.json"
DRAFT = places.BUILD / "torture.json"
PARTS = {
    "input": [
        "tests/faults/test_input.py",
        "tests/browser/test_hostile_text.py::test_text_of_a_corpus_stays_text_in_the_browser",
    ],
    "faults": [
        "tests/faults/test_faults.py",
        "tests/test_assets.py",  # what is downloaded
        "tests/test_notebooks.py::TestBeforeTheWork",  # closed folders
        "tests/test_kernels.py::test_a_compiler_that_fails_in_its_own_way_is_noted",
    ],
    "kills": ["tests/faults/test_kills.py"],
}


def rows(report: Path, kind: str) -> list[dict]:
    """One row per test and step that it does it to: kind, what, part, cases, and how many of them held."""
    found = {}
    for test in ET.parse(report).iter("testcase"):
        if test.find("skipped") is not None:
            continue
        name, _, of = test.get("name").partition("[")
        what = name.removeprefix("test_").replace("_", " ")
        part = of.rpartition("-")[2].rstrip("]") if kind == "kills" else ""
        row = found.setdefault((what, part), {"kind": kind, "what": what, "part": part})
        told = [int(p.get("value")) for p in test.iter("property") if p.get("name") == "cases"]
        held = test.find("failure") is None and test.find("error") is None
        row["cases"] = row.get("cases", 0) + sum(told or [1])
        row["held"] = row.get("held", 0) + held * sum(told or [1])
    return list(found.values())


def run(kind: str, tests: list[str]) -> list[dict]:
    """The rows of a part, from its tests."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        words = ["--numprocesses", "2", "--dist", "load", "-m", "not slow"]
        words += [f"--junitxml={report}", "-o", "junit_family=xunit1"]
        command = [sys.executable, "-m", "pytest", *tests, *words]
        subprocess.run(command, cwd=places.PROJECT, env=os.environ | {"TORTURE": "1"})
        return rows(report, kind)


def unfinished() -> dict:
    """The parts that an earlier run of the same commit has done."""
    if DRAFT.exists():
        draft = store.read_json(DRAFT, "delete it")
        if draft["commit"] == store.commit() and "+" not in draft["commit"]:
            return draft["parts"]
    return {}


def clocks() -> dict[str, float]:
    """Seconds that have passed, and seconds of processors' time that went into tests which have ended."""
    now = os.times()
    return {
        "minutes": time.monotonic(),
        "processor_minutes": now.children_user + now.children_system,
    }


def main() -> int:
    done = unfinished()
    for kind, tests in PARTS.items():
        if kind in done:
            print(f"{kind}: done before, {done[kind]['minutes']} minutes")
            continue
        began = clocks()
        done[kind] = {"rows": run(kind, tests)}
        spent = {name: now - began[name] for name, now in clocks().items()}
        done[kind] |= {name: round(seconds / 60, 1) for name, seconds in spent.items()}
        store.write_json(DRAFT, {"commit": store.commit(), "parts": done})
    found = [row for part in done.values() for row in part["rows"]]
    spent = {name: round(sum(part[name] for part in done.values()), 1) for name in clocks()}
    store.write_json(FILE, {"provenance": store.provenance(**spent), "rows": found})
    DRAFT.unlink()
    print(f"written to {FILE}, after {spent['minutes']} minutes")
    return int(any(row["held"] < row["cases"] for row in found))


if __name__ == "__main__":
    sys.exit(main())
