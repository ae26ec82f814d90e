"""`featint`: one clear line and exit status 2 for a user's mistake; places of outputs otherwise."""

import errno
import os
import re
import subprocess
import sys

import pytest

from companion import cli, ledger, places
from companion.places import PROJECT
from featint import store


@pytest.mark.parametrize(
    "words, complaint",
    [
        (
            "train --model joint --profile huge",
            "profile = 'huge' is not known; allowed: 'smoke', 'laptop', 'full', 'paper'",
        ),
        ("train --model joints --profile smoke", "model = 'joints' is not known; allowed: 'sae'"),
        ("notebook nothing --profile smoke", "notebook = 'nothing' is not known; there are "),
        (
            "notebook reconstruction --profile smoke -p kk=3",
            "reconstruction has no parameter 'kk'; it has profile, seed, k",
        ),
        ("notebook reconstruction --profile smoke -p k", "--parameter 'k' must be name=value"),
        (
            "notebook reconstruction --profile smoke -p k=true",
            "k = 'true' (str) must be a whole number of at least 1, or None for the default",
        ),
        (
            "notebook superposition --profile smoke -p seed=-1",
            "seed = '-1' (str) must be a whole number from 0 to 4294967295",
        ),
        ("train --model sae --profile smoke --seed -1", "seed = -1 must be a finite number of at"),
        ("doctor --profile huge", "profile = 'huge' is not known"),
    ],
)
def test_mistakes_are_one_line_and_status_2(words, complaint, capsys):
    assert cli.main(words.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and complaint in err and err.count("\n") == 1


def test_a_full_disk_is_one_line_too(monkeypatch, capsys):
    def full(_):
        with store.refuse_full_disk(store.cache()):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ledger, "write", full)
    assert cli.main(["ledger", "--profile", "smoke"]) == 2
    assert "the disk is full" in capsys.readouterr().err


def test_an_unexpected_error_is_not_hidden(monkeypatch):
    def bug():
        raise ZeroDivisionError

    monkeypatch.setattr(store, "provenance", bug)
    with pytest.raises(ZeroDivisionError):
        cli.main(["doctor"])


@pytest.mark.parametrize(
    "chosen, place", [("mine", PROJECT / "mine"), ("", PROJECT / "cache"), ("/x/y", "/x/y")]
)
def test_a_relative_cache_is_one_place_from_any_folder(chosen, place, tmp_path):
    """Commands, and the kernels that they start in another folder, which inherit it."""
    code = "import os, companion; from featint import store; os.chdir('/'); print(store.cache(), os.environ['FEATINT_CACHE'])"
    environment = os.environ | {"FEATINT_CACHE": chosen, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", code]
    said = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8"
    )
    assert said.stdout == f"{place} {place}\n"


def test_doctor_says_what_is_missing(capsys):
    assert cli.main(["doctor", "--profile", "smoke"]) == 0
    out = capsys.readouterr().out
    assert "activations: missing" in out and "joint: 0 of 1 seeds trained" in out
    assert re.search(r"\d+ GB of disk, \d+\.\d GB of memory free", out) and "took" not in out


def test_doctor_says_what_a_book_takes_that_was_timed(capsys):
    assert cli.main(["doctor", "--profile", "laptop"]) == 0
    timed = store.read_json(places.PUBLISHED / "bench" / "whole_book_laptop.json", "")["provenance"]
    took = f"took {timed['seconds'] / 60:.0f} min and {timed['gb']:.1f} GB of memory"
    assert f"{took} on a machine with {timed['machine']}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", ["doctor --profile smoke", "compare data/results/laptop data/results/full", "--help"]
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_who_closes_the_pipe_ends_it_quietly(words, unbuffered):
    """With Python's buffer the pipe is found closed at the end, without it at the first line."""
    command = [sys.executable, "-m", "companion.cli", *words.split()]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        command, stdout=write, stderr=subprocess.PIPE, cwd=PROJECT, env=environment
    )
    os.close(write)
    assert done.stderr.decode() == "" and done.returncode in (0, 1)
