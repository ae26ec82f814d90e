"""What `make book` says while it works: one line, rewritten on a terminal, once a minute in a log.

A handler of Snakemake's log, whose own words are let through only where something is wrong.
"""

import logging
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from companion import places
from featint import store

LAST_LINES = 20
"""So many lines of the log of a step that failed are shown."""


def timed(profile: str) -> dict | None:
    """What was published of a `make book` of this profile from nothing; None without a timing."""
    file = places.PUBLISHED / "bench" / f"whole_book_{profile}.json"
    remedy = f"`git checkout {file}` brings it back"
    return store.read_json(file, remedy, {"rows": list}) if file.exists() else None


def timings(profile: str) -> dict[str, float]:
    """Seconds that each step took when this profile was timed; none if it never was."""
    return {row["step"]: row["seconds"] for row in (timed(profile) or {"rows": []})["rows"]}


def spell(seconds: float) -> str:
    """A duration as people say it: 45 s, 12 min, 2 h 05 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


class Progress(logging.Handler):
    """Follows a flow by Snakemake's events and tells of it on `stream`.

    `expected` are the seconds that steps took elsewhere; `name` gives a step's name by its rule and
    wildcards.
    """

    def __init__(self, expected: dict[str, float], name: Callable[..., str], stream=sys.stderr):
        super().__init__(logging.INFO)
        self.expected, self.name, self.stream = expected, name, stream
        self.steps, self.reused, self.began = [], 0, time.monotonic()
        self.of_job, self.running, self.took = {}, {}, {}
        self.over = threading.Event()

    def start(self, steps: list[str], n_all: int) -> None:
        """These steps of all begin: write the line every second on a terminal, every minute into a
        log."""
        self.steps, self.reused = steps, n_all - len(steps)

        def write():
            while not self.over.wait(1 if self.stream.isatty() else 60):
                self.write(f"\r\033[K{self.line()}" if self.stream.isatty() else f"{self.line()}\n")

        threading.Thread(target=write, daemon=True).start()

    def write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()

    def emit(self, record: logging.LogRecord) -> None:
        event, now = str(getattr(record, "event", "")), time.monotonic()
        if event == "job_info":
            self.of_job[record.jobid] = self.name(record.rule_name, record.wildcards)
            self.running[self.of_job[record.jobid]] = now
        elif event == "job_finished":
            step = self.of_job[record.job_id]
            self.took[step] = now - self.running.pop(step)
        elif event == "job_error":
            step = self.of_job[record.jobid]
            self.running.pop(step, None)
            self.write(failure(step, record.shellcmd, record.log))

    def left(self) -> float | None:
        """Seconds until the end, two steps at a time: what the others took elsewhere, at the speed
        of here. None if one of them was never timed."""
        if not set(self.steps) <= set(self.expected):
            return None
        elsewhere = sum(self.expected[step] for step in self.took)
        speed = sum(self.took.values()) / elsewhere if elsewhere > 30 else 1
        left = speed * (sum(self.expected[step] for step in self.steps) - elsewhere)
        now = time.monotonic()
        for step, began in self.running.items():
            left -= min(now - began, speed * self.expected[step])
        return left / 2

    def line(self) -> str:
        """How far, what runs and since when, how long still."""
        now, left = time.monotonic(), self.left()
        runs = [f"{step} ({spell(now - began)})" for step, began in self.running.items()]
        still = [] if left is None else [f"about {spell(left)} left"]
        far = f"{len(self.took)} of {len(self.steps)} steps"
        return " · ".join([far, *([", ".join(runs)] if runs else []), *still])

    def end(self) -> None:
        """What was done in which time, and what most of it went to."""
        self.over.set()
        longest = sorted(self.took, key=self.took.get, reverse=True)[:3]
        most = ", ".join(f"{step} {spell(self.took[step])}" for step in longest)
        took = spell(time.monotonic() - self.began)
        clear = "\r\033[K" if self.stream.isatty() else ""
        self.write(f"{clear}{len(self.took)} steps in {took} ({most}); {self.reused} reused\n")


def failure(step: str, command: str, logs: list[str]) -> str:
    """What failed: the step, its command, the end of its log, and where that lies."""
    said = [f"\n{step} failed. Its command:", f"    {command}"]
    for log in filter(Path.exists, map(Path, logs)):
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
        said += [f"The end of {log}:", *(f"    {line}" for line in lines)]
    return "\n".join(said) + "\n"


def only_problems(record: logging.LogRecord) -> bool:
    """Whether Snakemake itself is to say it: something is wrong, other than that a step failed."""
    of_step = str(getattr(record, "event", "")) == "job_error"
    return (
        record.levelno >= logging.WARNING
        and not of_step
        and "CalledProcessError" not in record.getMessage()
    )
