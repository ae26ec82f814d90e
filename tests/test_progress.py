"""What `make book` says while it works, of a flow whose clock is set by hand."""

import io
import logging
import os
import subprocess
import sys

import pytest

from companion import progress
from companion.places import PROJECT

NAMES = {1: "harvest", 2: "train joint 0", 3: "notebook norms"}
SECONDS = {"harvest": 100, "train joint 0": 60, "notebook norms": 40}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def flow(monkeypatch):
    """A flow of three steps; `flow.at(seconds)` sets its clock, `flow.tell(event, ...)` is Snakemake's log."""
    clock = {"now": 0.0}
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock["now"])

    def begin(expected=SECONDS, stream=None):
        told = progress.Progress(expected, lambda rule, wildcards: rule, stream or io.StringIO())
        told.steps, told.reused = list(NAMES.values()), 4
        return told

    begin.at = lambda seconds: clock.update(now=seconds)
    return begin


def tell(told, event, level=logging.INFO, **more):
    told.handle(logging.makeLogRecord({"levelno": level, "event": event} | more))


def start(told, job):
    tell(told, "job_info", jobid=job, rule_name=NAMES[job], wildcards={})


def test_the_line_counts_what_is_done_runs_and_is_left(flow):
    told = flow()
    start(told, 1)
    flow.at(50)
    # 200 s in all, 50 of the 100 for harvest gone: 150 s by one at a time, 75 by two
    assert told.line() == "0 of 3 steps · harvest (50 s) · about 75 s left"
    flow.at(200)  # half as fast as where it was timed
    tell(told, "job_finished", job_id=1)
    start(told, 2)
    start(told, 3)
    flow.at(260)
    # of 2 x (60 + 40) s, two times 60 are gone: 80 s, 40 by two at a time
    assert (
        told.line()
        == "1 of 3 steps · train joint 0 (60 s), notebook norms (60 s) · about 40 s left"
    )


def test_a_step_that_takes_longer_than_thought_is_not_below_nothing(flow):
    told = flow()
    start(told, 1)
    flow.at(10_000)
    assert told.left() == 50  # the two others


def test_without_a_timing_of_every_step_nothing_is_said_of_what_is_left(flow):
    told = flow({"harvest": 100})
    start(told, 1)
    flow.at(90)
    assert told.line() == "0 of 3 steps · harvest (2 min)"


def test_the_end_tells_what_took_longest_and_what_was_reused(flow):
    told = flow()
    for job, seconds in ((1, 7200), (2, 7300), (3, 7310)):
        start(told, job)
        flow.at(seconds)
        tell(told, "job_finished", job_id=job)
    told.end()
    said = "3 steps in 2 h 02 min (harvest 2 h 00 min, train joint 0 2 min, notebook norms 10 s); 4 reused\n"
    assert told.stream.getvalue() == said


def test_a_failure_shows_the_command_and_the_end_of_the_log(flow, tmp_path):
    told, log = flow(), tmp_path / "notebook norms.log"
    log.write_text("\n".join(f"line {i}" for i in range(100)), encoding="utf-8")
    start(told, 3)
    more = {"jobid": 3, "shellcmd": "exec python -m x", "log": [str(log), "gone.log"]}
    tell(told, "job_error", logging.ERROR, **more)
    said = told.stream.getvalue()
    assert "notebook norms failed" in said and "exec python -m x" in said and str(log) in said
    assert "line 80\n" in said and "line 99\n" in said and "line 79" not in said
    assert told.running == {}


def test_on_a_terminal_one_line_is_rewritten(monkeypatch):
    stream = Terminal()
    told = progress.Progress({}, lambda *_: "", stream)
    waits = iter([False, False, True])
    monkeypatch.setattr(told.over, "wait", lambda seconds: next(waits))
    monkeypatch.setattr(progress.threading.Thread, "start", lambda self: self.run())
    told.start(["harvest"], 1)
    assert stream.getvalue() == "\r\033[K0 of 1 steps" * 2


@pytest.mark.parametrize(
    ("level", "event", "text", "said"),
    [
        (logging.INFO, "job_info", "", False),
        (logging.WARNING, "", "Your conda is old.", True),
        (logging.ERROR, "error", "MissingInputException in rule book", True),
        (logging.ERROR, "error", "CalledProcessError in file Snakefile: Command ...", False),
        (logging.ERROR, "job_error", "", False),
    ],
)
def test_snakemake_itself_speaks_where_something_is_wrong(level, event, text, said):
    record = logging.makeLogRecord({"levelno": level, "event": event, "msg": text})
    assert progress.only_problems(record) is said


SNAKEFILE = """
from snakemake.logging import logger
from companion import progress
TOLD = progress.Progress({}, lambda rule, wildcards: " ".join([rule, *wildcards.values()]))
for handler in logger.handlers:
    handler.addFilter(progress.only_problems)
logger.addHandler(TOLD)
onstart:
    TOLD.start([j.rule.name for j in workflow.dag.jobs], 2 + len(list(workflow.dag.jobs)))
onsuccess:
    TOLD.end()
rule both:
    input: "one.txt", "two.txt"
rule write:
    output: "{name}.txt"
    shell: "touch {output}"
"""


def test_it_hears_of_every_step_of_a_real_flow(tmp_path):
    """Under the options that `make` gives, some of which have Snakemake log less."""
    (tmp_path / "Snakefile").write_text(SNAKEFILE, encoding="utf-8")
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    (line,) = (x for x in makefile.splitlines() if x.startswith("SNAKEMAKE := "))
    options = line.rpartition("--cores all)")[2].split()
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "1", *options],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    (said,) = done.stderr.splitlines()
    assert said.startswith("3 steps in ") and "write one" in said and said.endswith("; 2 reused")
