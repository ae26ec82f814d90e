"""The smoke flow and a sweep on a SLURM cluster of this one machine (`make slurm`): during the sweep one job is killed, then the
flow itself; it is started again, every job must end, and all results must be those of a local run, to the last digit.

Needs Debian and root, and makes both runs from nothing but the packages that `make smoke` has fetched. What was computed lies in
_build/slurm; what is there already is not computed again, so delete that folder to begin anew. The record is
data/results/bench/slurm.json.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from companion import notebook, places
from featint import store
from sweeps import grid

FOLDER = places.BUILD / "slurm"
NOTEBOOKS = "_build/executed/smoke/notebooks"
RECORD = places.PUBLISHED / "bench" / "slurm.json"
SWEEP = "tests/slurm/sweep.yaml"
CORES = str(os.cpu_count())
# One thread each, as the local flow has on two cores: the same sums in the same order.
LOCAL = [
    "--cores",
    CORES,
    "--set-threads",
    "harvest=1",
    "train=1",
    "execute=1",
    "atlas=1",
    "cell=1",
]
ON_SLURM = ["--workflow-profile", "profiles/slurm", *LOCAL[2:]]
ON_SLURM += ["--default-resources", "slurm_account=mine", "slurm_partition=batch", "nodes=1"]
ON_SLURM += ["--slurm-init-seconds-before-status-checks", "5", "--latency-wait", "5"]
SMALL = ["execute:mem_mb=3000", "cell:mem_mb=3000", "atlas:mem_mb=3000", "train:mem_mb=3000"]


def copy(name: str) -> Path:
    """A copy of the project with a cache of its own, which holds the fetched packages only."""
    folder = FOLDER / name
    if not folder.exists():
        left = shutil.ignore_patterns(".*", "_build", "cache", "results", "__pycache__")
        shutil.copytree(places.PROJECT, folder, ignore=left)
        shutil.copytree(places.PUBLISHED, folder / "data" / "results")
        (folder / ".venv").symlink_to(sys.prefix)
        (folder / "cache").mkdir()
        for part in ("assets", "lm", "kernels"):
            if (store.cache() / part).exists():
                shutil.copytree(store.cache() / part, folder / "cache" / part)
    return folder


def snakemake(folder: Path, *words: str) -> subprocess.Popen:
    """Start the flow in a copy, in a group of its own; it says what it does in flow.log there."""
    command = [sys.executable, "-m", "snakemake", "--scheduler", "greedy", "--keep-going"]
    command += ["--rerun-incomplete", "--rerun-triggers", "mtime", *words]
    environment = {"PYTHONPATH": str(folder), "FEATINT_CACHE": str(folder / "cache")}
    with open(folder / "flow.log", "a", encoding="utf-8") as log:
        how = {"cwd": folder, "stdout": log, "stderr": log, "start_new_session": True}
        return subprocess.Popen(command, env=os.environ | environment, **how)


def to_the_end(folder: Path, *words: str) -> None:
    """Run the flow in a copy to its end."""
    if snakemake(folder, *words).wait():
        sys.exit(f"the flow failed: {folder / 'flow.log'}")


def sweep_words(folder: Path, *on: str) -> list[str]:
    return [
        *on,
        "--set-resources",
        *SMALL,
        "--config",
        "profile=smoke",
        f"sweep={SWEEP}",
        "--",
        "sweep",
    ]


def queue(rule: str, state: str = "RUNNING") -> list[str]:
    """The numbers of SLURM's jobs of a rule in a state."""
    said = run("squeue", "--noheader", f"--states={state}", "--format=%i %k")
    return [line.split()[0] for line in said.splitlines() if f"rule_{rule}" in line]


def run(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, encoding="utf-8").stdout


def wait_until(happens, what: str, minutes: float = 30):
    until = time.monotonic() + 60 * minutes
    while time.monotonic() < until:
        if found := happens():
            return found
        time.sleep(1)
    sys.exit(f"gave up waiting until {what}")


def disturbed_sweep(folder: Path) -> dict:
    """The sweep through SLURM: its first running job is killed, and once two cells are done the
    flow itself; started again, it goes to its end."""
    words = sweep_words(folder, *ON_SLURM)
    shutil.rmtree(folder / "_build/sweeps", ignore_errors=True)  # there is something to kill

    def done():
        return [f for f in folder.glob("_build/sweeps/*/*/*.ipynb") if ".failed" not in f.name]

    flow = snakemake(folder, *words)
    (job, *_) = wait_until(lambda: queue("cell"), "a cell runs")
    time.sleep(5)  # in its midst
    run("scancel", "--signal=KILL", "--full", job)
    wait_until(lambda: len(done()) >= 2, "two cells are done")
    os.killpg(flow.pid, signal.SIGKILL)
    flow.wait()
    before = len(done())
    left = queue("cell") + queue("cell", "PENDING")
    run("scancel", "--me", "--state=PENDING")  # the next flow hands them in again
    to_the_end(folder, *words)
    return {
        "killed_job": job,
        "cells_done_when_the_flow_was_killed": before,
        "jobs_left_when_the_flow_was_killed": len(left),
        "cells_done": len(done()),
    }


def refused(folder: Path) -> dict[str, str]:
    """What is said of a partition, an account and a graphics card that are not there; no job may
    come of them."""
    target, before, said = folder / NOTEBOOKS / "superposition.ipynb", jobs(), {}
    for setting in ("slurm_partition=nowhere", "slurm_account=nobody", "gpu=1"):
        words = [
            "--forcerun",
            "execute",
            "--retries",
            "0",
            "--set-resources",
            f"execute:{setting}",
            *SMALL,
        ]
        start = snakemake(folder, *ON_SLURM, *words, "--config", "profile=smoke", "--", str(target))
        if not start.wait():
            sys.exit(f"{setting} was taken")
        log = (folder / "flow.log").read_text(encoding="utf-8")
        said[setting] = re.findall(r"sbatch: error: [^'\n]*|The given account .*", log)[-1]
    if jobs() != before:
        sys.exit(f"jobs ran: {jobs()}")
    return said


def differences(local: Path, cluster: Path, files: list[Path]) -> dict:
    """How many values two copies' results have, and which differ in any digit."""
    n, differ = 0, []
    for file in files:
        a, b = (
            json.loads((home / file).read_text(encoding="utf-8"))["values"]
            for home in (local, cluster)
        )
        n += len(a)
        differ += [f"{file}: {name}" for name in a.keys() | b.keys() if a.get(name) != b.get(name)]
    return {"files": len(files), "values": n, "differ": sorted(differ)}


def jobs() -> dict[str, int]:
    """How SLURM's own accounts say that all jobs ended."""
    lines = run(
        "sacct", "--allocations", "--noheader", "--parsable2", "--format=State"
    ).splitlines()
    states = [line.split()[0] for line in lines]
    return {state: states.count(state) for state in sorted(set(states))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--chapters", nargs="+", default=notebook.names(), help="default: all, and the ledger"
    )
    chapters, stamp = parser.parse_args().chapters, store.provenance()
    cluster_sh = ["bash", Path(__file__).with_name("cluster.sh")]
    subprocess.run([*cluster_sh, "up", FOLDER / "cluster"], check=True)
    try:
        local, slurm = copy("local"), copy("slurm")
        targets = [f"{NOTEBOOKS}/{name}.ipynb" for name in chapters]
        targets += ["_build/executed/smoke/ledger.done"] * (set(chapters) == set(notebook.names()))
        said = refused(slurm)
        config = ["--set-resources", *SMALL, "--config", "profile=smoke", "--"]
        to_the_end(local, *LOCAL, *config, *(str(local / t) for t in targets))
        to_the_end(slurm, *ON_SLURM, *config, *(str(slurm / t) for t in targets))
        to_the_end(local, *sweep_words(local, *LOCAL))
        sweep = disturbed_sweep(slurm)
        cells = grid.read(Path(SWEEP), "smoke").cells
        made = [
            f.relative_to(local)
            for f in sorted(local.glob("results/smoke/*.json"))
            if f.stem in chapters
        ]
        swept = [f.relative_to(local) for f in sorted(local.glob("results/custom/*/*.json"))]
        record = {
            "provenance": stamp,
            "slurm": run("sinfo", "--version").split()[-1],
            "chapters": chapters,
            "refused": said,
            "jobs": jobs(),
            "sweep": {"file": SWEEP, "cells": len(cells), **sweep},
            "flow_against_local": differences(local, slurm, made),
            "sweep_against_local": differences(local, slurm, swept),
        }
        store.write_json(RECORD, record)
        print(json.dumps(record, indent=1))
        differ = [*record["flow_against_local"]["differ"], *record["sweep_against_local"]["differ"]]
        if differ or sweep["cells_done"] < len(cells):
            sys.exit("results differ, or cells are missing")
    finally:
        subprocess.run([*cluster_sh, "down", FOLDER / "cluster"], check=True)


if __name__ == "__main__":
    main()
