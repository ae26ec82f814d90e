"""Steps that are killed, stopped, run beside each other or under a clock that goes backwards: afterwards all is as if nothing had been."""

import random
import shutil
import signal

import pytest
from steps import STEPS, TORTURE, state

KILLS = {"windows": 30, "harvest": 20, "train": 22, "atlas": 8, "ledger": 32, "notebook": 6}
"""How often `make torture` kills each step."""


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_is_killed_goes_on_to_the_same_end(step, worker, ready, cases):
    """At a change of a file, by itself, and in between, after some of its time, by the kernel."""
    moments = random.Random(0)
    for i in range(KILLS[step] if TORTURE else 2):
        folder, expected, changes, seconds = ready(step)
        kill = {"kill": moments.randint(1, changes)}
        if i % 3 == 2:
            kill = {"seconds": max(0.001, moments.uniform(0, 0.95) * seconds)}
        ended = worker.run(step, folder, **kill)
        if ended["codes"] != [0]:  # of two runs one may be faster
            assert ended["codes"][0] in (-signal.SIGKILL, -signal.SIGPROF), ended["said"]
            cases()
        worker.finish(step, folder)
        assert state(folder) == expected, kill
        shutil.rmtree(folder)


@pytest.mark.parametrize("step", STEPS if TORTURE else ["train"])
@pytest.mark.parametrize("befalls", [{"stop": 2}, {"backwards": True}, {"at_once": 2}], ids=str)
def test_a_step_that_is_disturbed_comes_to_the_same_end(step, befalls, worker, ready):
    folder, expected, *_ = ready(step)
    worker.finish(step, folder, **befalls)
    assert state(folder) == expected
