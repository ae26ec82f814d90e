"""What `make book` takes from nothing: seconds, processor time and memory of each of its steps.

    python -m benchmarks.whole_book [PROFILE] [FOLDER]

Clones this commit into FOLDER (by default a new one in the temporary folder), runs `make book`
there with an empty cache, and looks at every process of the run once a second. Memory is the
proportional set size, in which what processes share counts once. Writes
`data/results/bench/whole_book_PROFILE.json`; the page *How to* shows the default profile's.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from companion import places
from featint import store

MINE = "the flow itself"
INSTALL = "installation"


def step(words: list[str]) -> str | None:
    """What a process of the flow does, from its command line; None where a parent's says it."""
    words = [w for w in words if w]
    if "companion.cli" in words:
        said = words[words.index("companion.cli") + 1 :]
        drop = {i + j for i, w in enumerate(said) if w == "--profile" for j in (0, 1)}
        plain = [w for i, w in enumerate(said) if i not in drop]
        return " ".join(w for w in plain if not w.startswith("--"))
    if "companion.flow" in words:
        return "pages"
    program = " ".join(Path(w).name for w in words[:3])
    if "snakemake" in program:
        return MINE
    return INSTALL if "pip" in program.split() or "venv" in program.split() else None


def proportional(process: psutil.Process) -> int:
    """Proportional set size in bytes."""
    rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii")
    return 1024 * next(int(x.split()[1]) for x in rollup.splitlines() if x.startswith("Pss:"))


def look(make: psutil.Process, steps: dict, processes: dict) -> int:
    """Add one moment of the run to what is known of its steps, and return its memory in bytes.

    A process belongs to the step that its own command line names, or else its nearest ancestor's.
    """
    of, now, moment = {make.pid: INSTALL}, {}, time.monotonic()
    for process in make.children(recursive=True):  # parents come before their children
        try:
            of[process.pid] = name = step(process.cmdline()) or of.get(process.ppid(), MINE)
            used, size = process.cpu_times(), proportional(process)
        except (psutil.Error, OSError, StopIteration):  # it has just ended
            continue
        processes[process.pid, process.create_time()] = name, used.user + used.system
        now[name] = now.get(name, 0) + size
    for name, size in now.items():
        known = steps.setdefault(name, {"began": moment, "bytes": 0})
        known |= {"ended": moment, "bytes": max(known["bytes"], size)}
    return sum(now.values())


def main(profile: str = "laptop", folder: str | None = None) -> int:
    clone = Path(folder or tempfile.mkdtemp(), "featint")
    subprocess.run(["git", "clone", "-q", places.PROJECT, clone], check=True)
    commit = store.commit().removesuffix(
        "+changes"
    )  # what was cloned, whatever is committed meanwhile
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("FEATINT", "PYTHONPATH"))
    }
    log = clone.parent / "make_book.log"
    print(f"make book PROFILE={profile} in {clone}; what it says is in {log}", flush=True)
    began, steps, processes, peak = time.monotonic(), {}, {}, 0
    with log.open("w", encoding="utf-8") as out:
        run = ["make", "book", f"PROFILE={profile}"]
        make = psutil.Popen(run, cwd=clone, env=environment, stdout=out, stderr=out)
        while make.poll() is None:
            peak = max(peak, look(make, steps, processes))
            time.sleep(1)
    if make.returncode:
        print(f"it failed; the end of {log} says why", file=sys.stderr)
        return make.returncode
    seconds = time.monotonic() - began
    rows = [
        {
            "step": name,
            "began": round(known["began"] - began),
            "seconds": round(known["ended"] - known["began"]),
            "processor_seconds": round(sum(s for n, s in processes.values() if n == name)),
            "gb": round(known["bytes"] / 1e9, 2),
        }
        for name, known in sorted(steps.items(), key=lambda item: item[1]["began"])
    ]
    again = time.monotonic()
    subprocess.run(run, cwd=clone, env=environment, check=True, capture_output=True)
    whole = {"seconds": round(seconds), "gb": round(peak / 1e9, 2)}
    whole |= {"second_run_seconds": round(time.monotonic() - again, 1)}
    file = places.PUBLISHED / "bench" / f"whole_book_{profile}.json"
    store.write_json(
        file,
        {
            "provenance": store.provenance(profile=profile, **whole) | {"commit": commit},
            "rows": rows,
        },
    )
    print(f"{seconds / 60:.1f} minutes, {peak / 1e9:.1f} GB at the most; written to {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
