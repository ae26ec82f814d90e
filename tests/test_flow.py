"""The flow itself, in a copy of the project whose folder has a space and an apostrophe in its name."""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from companion.places import PROJECT


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Code is copied, because it looks for the project beside itself; the rest is linked."""
    folder = tmp_path_factory.mktemp("My Projects") / "it's"
    folder.mkdir()
    for name in ("featint", "companion"):
        shutil.copytree(PROJECT / name, folder / name)
    for name in "Snakefile Makefile _config.yml _toc.yml data notebooks book".split():
        (folder / name).symlink_to(PROJECT / name)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


@pytest.fixture
def start(project):
    """Start Snakemake in the project; what still runs in the end is killed."""
    begun = []

    def run(*words, **environment):
        python = project / ".venv" / "bin" / "python"
        snakemake = [python, "-m", "snakemake", "--config", "profile=smoke", "--cores", "1"]
        begun.append(
            subprocess.Popen(
                [*snakemake, *words],
                cwd=project,
                env=os.environ | {"PYTHONPATH": str(project)} | environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                start_new_session=True,
            )
        )
        return begun[-1]

    yield run
    for process in begun:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def test_every_command_survives_a_folder_with_a_space(project, start):
    said, _ = start("--dry-run", "--printshellcmds").communicate()
    commands = [line.partition("Shell command: ")[2] for line in said.splitlines()]
    steps = [shlex.split(command) for command in commands if "companion.cli" in command]
    assert len(steps) > 10, said
    assert {words[0] for words in steps} == {str(project / ".venv/bin/python")}
    (build,) = (shlex.split(command) for command in commands if "jupyter-book" in command)
    assert build[1] == str(project / ".venv/bin/jupyter-book")
    html = str(project / "_build/smoke/_build/html/book/intro.html")
    assert build[build.index("--path-output") + 1] == str(project / "_build/smoke")
    assert build[-1] == html


def test_make_names_the_first_chapters_as_the_flow_does(project):
    """The targets that `make book` puts first, as the shell hands them on."""
    made = subprocess.run(
        ["make", "--dry-run", "book", "--old-file=.venv/installed"],
        cwd=project,
        capture_output=True,
        encoding="utf-8",
    )
    line = next(line for line in made.stdout.splitlines() if "--prioritize" in line)
    words = line.partition("--prioritize")[2].partition("--config")[0]
    handed = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {words}"], cwd=project, capture_output=True, encoding="utf-8"
    )
    files = [Path(name) for name in handed.stdout.splitlines()]
    assert {f.parent for f in files} == {project / "_build/executed/laptop/notebooks"}


def test_a_killed_flow_goes_on_by_itself_and_a_living_one_is_left_alone(project, start):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # an index that never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        first = start("fetch", PIP_INDEX_URL=url, PIP_CONFIG_FILE="/dev/null")
        while not list(project.glob(".snakemake/locks/*")) and first.poll() is None:
            time.sleep(0.05)
        said, _ = start("fetch").communicate()
        assert "Another run of this flow is alive" in said and "cannot be locked" in said
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()
    assert list(project.glob(".snakemake/locks/*")), "the killed flow left its lock"
    said, _ = start("fetch", PIP_NO_INDEX="1").communicate()
    assert "could not download" in said and "cannot be locked" not in said
