"""Kills, faults and hostile input in numbers: `make torture`, at most half an hour, writes `data/results/bench/torture.json`.

The same tests as the slice of them in `make test`, with more cases. Resumes nothing and leaves nothing but that file."""

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
TESTS = ("tests/faults", "tests/browser/test_hostile_text.py")
KINDS = {"test_kills": "kills", "test_faults": "faults", "test_hostile_text": "input"}
"""What a file of tests is about; the others, in `tests/faults`, are about input."""


def rows(report: Path) -> list[dict]:
    """One row per test and thing that it does it to: kind, what, cases, and how many of them held."""
    found = {}
    for test in ET.parse(report).iter("testcase"):
        if test.find("skipped") is not None:
            continue
        kind = KINDS.get(test.get("classname").rpartition(".")[2], "input")
        name, _, of = test.get("name").partition("[")
        what = name.removeprefix("test_").replace("_", " ")
        part = of.rpartition("-")[2].rstrip("]") if kind == "kills" else ""
        row = found.setdefault((kind, what, part), {"kind": kind, "what": what, "part": part})
        told = [int(p.get("value")) for p in test.iter("property") if p.get("name") == "cases"]
        held = test.find("failure") is None and test.find("error") is None
        row["cases"] = row.get("cases", 0) + sum(told or [1])
        row["held"] = row.get("held", 0) + held * sum(told or [1])
    return list(found.values())


def main() -> int:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        words = [
            "--numprocesses",
            "2",
            "--dist",
            "load",
            f"--junitxml={report}",
            "-o",
            "junit_family=xunit1",
        ]
        run = [sys.executable, "-m", "pytest", *TESTS, *words, "-m", "not slow"]
        code = subprocess.run(run, cwd=places.PROJECT, env=os.environ | {"TORTURE": "1"}).returncode
        if not report.exists():
            return code
        minutes = round((time.monotonic() - began) / 60, 1)
        store.write_json(
            FILE, {"provenance": store.provenance(minutes=minutes), "rows": rows(report)}
        )
    print(f"written to {FILE}, after {minutes} minutes")
    return code


if __name__ == "__main__":
    sys.exit(main())
