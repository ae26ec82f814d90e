"""A full disk, folders that take nothing, a changed bit, little memory: the right result or one clear message, and nothing lost."""

import errno
import json
import random
import shutil

import pytest
from steps import STEPS, TORTURE, state

MEMORY = 4 * 2**30


def told(ended: dict) -> None:
    """One clear message, not from deep inside."""
    assert ended["codes"] == [2], ended["said"]
    assert "Traceback" not in ended["said"]


def drafts(folder) -> list[str]:
    """What is half-written, but for what a step goes on from."""
    return [f.name for f in folder.rglob(".*")]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EROFS, errno.EACCES], ids=errno.errorcode.get
)
def test_a_disk_that_takes_no_more(number, step, worker, ready, cases):
    """From the n-th change of a file on, each is refused; the step goes on once there is space, or the right to write."""
    moments = random.Random(number)
    changes = ready(step)[2]
    for n in [1, *(moments.randint(1, changes) for _ in range(2 if TORTURE else 1))]:
        folder, expected, *_ = ready(step)
        ended = worker.run(step, folder, fail=n, errno=number)
        if ended["codes"] != [0]:  # else only removals came after it
            told(ended)
            assert ("disk is full" if number == errno.ENOSPC else "takes no files") in ended[
                "said"
            ] or "Errno" in ended["said"]
            cases()
        worker.finish(step, folder)
        assert state(folder) == expected
        assert drafts(folder) == []
        shutil.rmtree(folder)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("most", [0, 1000, 20_000])
def test_a_file_that_may_not_grow(most, step, worker, ready, cases):
    """As on a disk that is full in the middle of a file: `ulimit -f`."""
    folder, expected, *_ = ready(step)
    ended = worker.run(step, folder, limits={"RLIMIT_FSIZE": most})
    if ended["codes"] != [0]:
        told(ended)
        cases()
    worker.finish(step, folder)
    assert state(folder) == expected
    assert drafts(folder) == []


@pytest.mark.parametrize(
    "befalls",
    [{"one_core": True}, {"forbidden": ["/dev/shm"]}, {"limits": {"RLIMIT_AS": MEMORY}}],
    ids=["one core", "no /dev/shm", "4 GiB"],
)
@pytest.mark.parametrize("step", STEPS if TORTURE else ["harvest", "train"])
def test_a_small_machine_comes_to_the_same_end(step, befalls, worker, ready):
    folder, expected, *_ = ready(step)
    worker.finish(step, folder, **befalls)
    assert state(folder) == expected


@pytest.fixture(scope="module")
def made(worker, ready):
    """A folder with everything that the steps store; the models' last checkpoints, too."""
    folder, *_ = ready("atlas")
    return folder


FLIPS = 60 if TORTURE else 10


def test_a_changed_bit_or_a_lost_end_is_noticed(made, worker, cases):
    """In each kind of file that the store and the results hold. What is read is as it was, or its file is named."""
    files = [
        f
        for f in sorted(made.rglob("*"))
        if f.is_file() and f.suffix not in (".lock", ".ipynb") and "kernels" not in f.parts
    ]
    of_kind = {(f.name if not f.parent.name == "tiny" else "results"): f for f in files}
    expected, which = state(made), random.Random(0)
    for i in range(max(FLIPS, len(of_kind))):
        file = list(of_kind.values())[i % len(of_kind)]
        whole = file.read_bytes()
        bent = bytearray(whole)
        at = which.randrange(8 * len(bent))
        bent[at // 8] ^= 1 << at % 8
        file.write_bytes(bent if i % 4 else whole[: at // 8])
        ended = worker.run("read", made)
        if ended["codes"] != [0]:
            told(ended)
            assert file.name in ended["said"] or str(file.parent) in ended["said"], ended["said"]
        else:
            assert harmless(file, whole), f"{file}: byte {at // 8}, bit {at % 8}"
        file.write_bytes(whole)
        cases()
    assert state(made) == expected


def harmless(file, whole: bytes) -> bool:
    """Whether what was changed is read by nobody here (the atlas), or says the same (a space), or has lost the very name of its sha256."""
    if file.name == "atlas.json":
        return True
    if file.suffix != ".json":
        return False
    now, then = json.loads(file.read_text(encoding="utf-8")), json.loads(whole)
    return now == then or "sha256" not in now
