"""What the machine can do, and whether anyone else is using it."""

import os
import time
from pathlib import Path

import torch

SHARE = 0.12
"""A sample counts as clean if other processes used at most this share of one core while it was taken."""


def busy_seconds() -> float | None:
    """Seconds of all cores that were spent on anything since the start, or stolen by the host; None where the system does not say."""
    if not Path("/proc/stat").exists():
        return None
    user, nice, system, _, _, irq, softirq, steal, *_ = map(
        int, Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0].split()[1:]
    )
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def process_seconds(pid: int) -> float:
    """Seconds of all cores that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Busy(Exception):
    """Somebody else uses the machine: what is measured now would say little."""


def wait_until_idle(tries: int = 3, seconds: float = 5) -> None:
    """Look for some seconds, a few times, what others do. Raises Busy if they never leave the machine alone."""
    for _ in range(tries):
        watch = Watch(os.getpid())
        time.sleep(seconds)
        if watch.clean():
            return
    raise Busy(f"other processes use more than {SHARE:.0%} of a core, {tries} times in a row")


class Watch:
    """Measures a stretch of time and what processes other than `pid` did in it."""

    def __init__(self, pid: int):
        self.pid = pid
        self.start = self.now()

    def now(self):
        busy = busy_seconds()
        return time.perf_counter(), busy, process_seconds(self.pid) if busy is not None else None

    def clean(self) -> bool:
        """Whether the others used no more than `SHARE` of a core since the start."""
        (began, busy, own), (ended, busy_now, own_now) = self.start, self.now()
        if busy is None:
            return True
        # both counters move in hundredths of a second
        return (busy_now - busy) - (own_now - own) <= SHARE * (ended - began) + 0.02


def limits() -> dict[str, float]:
    """Best of ten: GFLOP/s of matrix products in float32 and bfloat16, GB/s of a copy in memory, GB/s of writing fresh memory."""
    n, size = 3072, 2**28
    wide, out, half = torch.randn(n, n), torch.empty(n, n), torch.randn(n, n).bfloat16()
    half_out, source, target = torch.empty_like(half), torch.ones(size // 4), torch.empty(size // 4)

    def best(f) -> float:
        seconds = []
        for _ in range(10):
            began = time.perf_counter()
            f()
            seconds.append(time.perf_counter() - began)
        return min(seconds)

    return {
        "float32_gflops": 2 * n**3 / best(lambda: torch.mm(wide, wide, out=out)) / 1e9,
        "bfloat16_gflops": 2 * n**3 / best(lambda: torch.mm(half, half, out=half_out)) / 1e9,
        "copy_gb_per_s": 2 * size / best(lambda: target.copy_(source)) / 1e9,
        "fresh_gb_per_s": size / best(lambda: torch.ones(size // 4)) / 1e9,
    }
