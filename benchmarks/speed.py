"""The benchmark: `python -m benchmarks.speed [STAGE ...]`. Without arguments it runs every stage that has not been measured with these
very sources, and writes `data/results/bench/speed.json`. Stages that are named are measured again. It wants a machine with nothing else to do."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from importlib import metadata

from benchmarks import machine, summary
from companion import places, results
from featint import store

SIZES = ((8192, 64, 1024), (16384, 32, 1024), (4096, 84, 4096))
ROUNDS = 10
SAMPLE_SECONDS = 0.4
OURS = ("sae", "sequential", "joint", "sae-plain", "joint-plain", "naive-joint", "product")
PEERS = ("saelens", "saelens-sparse", "dictionary_learning", "sparsify", "sparsify-adam")
GROWTH = {
    "d_sae": [(2**i, 64, 54) for i in range(10, 17)],
    "k": [(8192, 2**i, 54) for i in range(3, 10)],
    "d_factor": [(8192, 64, 2**i) for i in range(4, 10)],
}
SPEED = places.DATA / "results" / "bench" / "speed.json"
VENV = store.cache() / "bench-venv"


def environment() -> None:
    """Make the peers' environment if it is not there."""
    if (VENV / "installed").exists():
        return
    print(f"installing the peers in {VENV}", file=sys.stderr)
    shutil.rmtree(VENV, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    here = places.PROJECT / "benchmarks"
    for options in (
        ["-r", here / "requirements.txt"],
        ["--no-deps", "-r", here / "requirements-no-deps.txt"],
    ):
        subprocess.run([VENV / "bin" / "pip", "install", "--quiet", *options], check=True)
    (VENV / "installed").touch()


class Worker:
    """A contestant in a process of its own, which trains when it is told to and else waits."""

    def __init__(self, stack: ExitStack, name: str, *arguments):
        python = VENV / "bin" / "python" if name in PEERS else sys.executable
        env = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
        if name in OURS[:5]:
            env["OMP_WAIT_POLICY"] = (
                "passive"  # as `import featint` sets it; the others run as they ship
            )
        command = [str(python), "-m", "benchmarks.contestants", name, *map(str, arguments)]
        quiet = subprocess.DEVNULL
        self.name, self.samples, self.missed, self.per_order = name, [], 0, 1
        self.process = stack.enter_context(
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=quiet,
                encoding="utf-8",
                env=env,
                cwd=places.PROJECT,
            )
        )
        stack.callback(self.process.stdin.close)
        self.report()

    def report(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"the contestant {self.name} ended; run {' '.join(self.process.args)} by hand to see why"
            )
        return json.loads(line)

    def train(self, steps: int) -> dict:
        print(steps, file=self.process.stdin, flush=True)
        return self.report()

    def warm_up(self, steps: int = 3) -> None:
        seconds = self.train(steps)["seconds"]
        self.per_order = max(1, round(SAMPLE_SECONDS / min(seconds)))

    def sample(self) -> None:
        """Add the mean seconds of a step, unless someone else was using the machine; up to three tries.

        Raises Busy at the third time in vain, if that is more often than not."""
        for _ in range(3):
            watch = machine.Watch(self.process.pid)
            seconds = self.train(self.per_order)["seconds"]
            if watch.clean():
                self.samples.append(statistics.fmean(seconds))
                return
            time.sleep(0.5)
        self.missed += 1
        if self.missed >= 3 and self.missed > len(self.samples):
            raise machine.Busy(f"{self.missed} of {self.name}'s samples in vain")

    def enough(self) -> list[float]:
        """The clean samples. Raises Busy if there are fewer than three: the stage is better measured again."""
        if len(self.samples) < 3:
            raise machine.Busy(f"only {len(self.samples)} samples of {self.name} were clean")
        return self.samples


def race(d_sae: int, k: int, batch: int) -> dict:
    """Seconds of a step of every contestant: clean samples of `ROUNDS` rounds, every other one in reverse order."""
    environment()
    with ExitStack() as stack:
        workers = [Worker(stack, name, d_sae, k, batch) for name in (*OURS, *PEERS)]
        for worker in workers:
            worker.warm_up()
        for i in range(ROUNDS):
            for worker in workers if i % 2 else reversed(workers):
                worker.sample()
        return {worker.name: worker.enough() for worker in workers}


def growth(axis: str) -> list[dict]:
    """Median seconds of a step along one axis, batch 1,024, for our models and the naive one as far as it is bearable."""
    rows = []
    for d_sae, k, d_factor in GROWTH[axis]:
        for name in ("sae", "joint", "naive-joint"):
            if (name == "sae" and axis == "d_factor") or (name == "naive-joint" and d_sae > 16384):
                continue
            with ExitStack() as stack:
                worker = Worker(
                    stack,
                    name,
                    d_sae,
                    k,
                    1024,
                    *([] if name == "sae" else [f"d_factor={d_factor}"]),
                )
                worker.warm_up()
                for _ in range(5):
                    worker.sample()
                seconds = statistics.median(worker.enough())
            rows.append(
                {"model": name, "d_sae": d_sae, "k": k, "d_factor": d_factor, "seconds": seconds}
            )
    return rows


def memory(d_sae: int, k: int, batch: int) -> dict:
    """Peak memory of a joint training process beyond that of a tiny one, and what parameters, gradients and moments take, in bytes."""
    peaks = []
    for size in ((64, 1, 16), (d_sae, k, batch)):
        with ExitStack() as stack:
            worker = Worker(stack, "joint", *size)
            peaks.append(worker.train(4)["peak_bytes"])
    return {"peak": peaks[1] - peaks[0], "state": measured("state", d_sae, k)["bytes"]}


def measured(name: str, *arguments) -> dict:
    """A measurement of `benchmarks.stages`: the last line that it prints. Others tell of a download."""
    command = [sys.executable, "-m", "benchmarks.stages", name, *map(str, arguments)]
    env = os.environ | {"OMP_WAIT_POLICY": "passive"}
    found = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, encoding="utf-8", env=env, cwd=places.PROJECT
    ).stdout
    return json.loads(found.splitlines()[-1])


def phases(d_sae: int, k: int, batch: int) -> dict:
    return {
        f"{kind}{'-plain' * plain}": measured("phases", kind, d_sae, k, batch, plain)
        for kind in ("sae", "joint")
        for plain in (0, 1)
    }


def loss(kind: str) -> dict:
    return {
        way: measured("loss", kind, dense)["held_out_loss"]
        for dense, way in enumerate(("fast", "dense"))
    }


STAGES = (
    {"limits": lambda: measured("limits")}
    | {
        f"race/{label}": lambda size=size: race(*size)
        for size in SIZES
        for label in ["-".join(map(str, size))]
    }
    | {
        f"phases/{label}": lambda size=size: phases(*size)
        for size in SIZES
        for label in ["-".join(map(str, size))]
    }
    | {
        f"memory/{label}": lambda size=size: memory(*size)
        for size in SIZES
        for label in ["-".join(map(str, size))]
    }
    | {f"growth/{axis}": lambda axis=axis: growth(axis) for axis in GROWTH}
    | {
        f"harvest/{dtype}": lambda dtype=dtype: measured("harvest", dtype)
        for dtype in ("bfloat16", "float32")
    }
    | {f"loss/{kind}": lambda kind=kind: loss(kind) for kind in ("sae", "joint")}
)


def folder():
    """Where the stages' measurements lie, named by the sources that they are of."""
    timed = [*places.PROJECT.glob("benchmarks/*"), places.PROJECT / "featint/kernels/loops.cpp"]
    timed += [
        places.PROJECT / "featint" / f"{m}.py"
        for m in ("kernels/sparse", "kernels/loops", "sae", "nfm", "joint", "train", "lm")
    ]
    sources = {
        file.name: store.sha256(file)
        for file in sorted(timed)
        if file.is_file() and file.name != "summary.py"
    }
    return store.cache() / "bench" / store.key(sources)


def peer_versions() -> dict[str, str]:
    """Versions of the peers in their environment."""
    (site,) = (VENV / "lib").glob("python*/site-packages")
    found = {d.metadata["Name"]: d.version for d in metadata.distributions(path=[str(site)])}
    return {
        name: found[name] for name in ("sae-lens", "eai-sparsify", "dictionary-learning", "torch")
    }


def main(stages: list[str]) -> None:
    began = time.monotonic()
    if unknown := set(stages) - set(STAGES):
        sys.exit(f"unknown stages {', '.join(unknown)}; there are {', '.join(STAGES)}")
    for name, run in STAGES.items():
        file = folder() / f"{name.replace('/', '-')}.json"
        if name in stages or (not stages and not file.exists()):
            print(f"{name} ...", file=sys.stderr)
            try:
                machine.wait_until_idle()
                store.write_json(file, run())
            except machine.Busy as e:
                sys.exit(
                    f"{name}: {e}. Stop what else runs here, then run `make bench` again: finished stages are kept in {folder()}"
                )
    raw = {name: folder() / f"{name.replace('/', '-')}.json" for name in STAGES}
    missing = [name for name, file in raw.items() if not file.exists()]
    if missing:
        print(f"still to measure: {', '.join(missing)}")
        return
    found = {name: json.loads(file.read_text(encoding="utf-8")) for name, file in raw.items()}
    rows = [
        r | {"value": results.rounded(r["value"])} for r in summary.rows(found, peer_versions())
    ]
    stamp = store.provenance(seed=0, seconds=round(time.monotonic() - began, 1))
    content = {"chapter": "speed", "profile": "bench", "provenance": stamp, "values": rows}
    store.write_json(SPEED, content)
    print(SPEED)


if __name__ == "__main__":
    main(sys.argv[1:])
