"""The flow itself, in a copy of the project whose folder has a space and an apostrophe in its name."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import kubernetes_validate
import psutil
import pytest

from companion.places import PROJECT


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Code is copied, because it looks for the project beside itself; the rest is linked."""
    folder = tmp_path_factory.mktemp("My Projects") / "it's"
    folder.mkdir()
    for name in ("featint", "companion"):
        shutil.copytree(PROJECT / name, folder / name)
    for (
        name
    ) in "Snakefile Makefile _config.yml _toc.yml data notebooks book profiles sweeps".split():
        (folder / name).symlink_to(PROJECT / name)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def heed():
    """A shell that starts the tests in its background has them ignore these two."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def start(project):
    """Start Snakemake in the project; what still runs in the end is killed."""
    begun = []

    def run(*words, on=("--cores", "1"), **environment):
        python = project / ".venv" / "bin" / "python"
        snakemake = [python, "-m", "snakemake", "--config", "profile=smoke", "--show-failed-logs"]
        begun.append(
            subprocess.Popen(
                [*snakemake, *on, *words],
                cwd=project,
                env=os.environ | {"PYTHONPATH": str(project)} | environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                start_new_session=True,
                preexec_fn=heed,
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
    python = str(project / ".venv/bin/python")
    assert {tuple(words[:2]) for words in steps} == {("exec", python)}
    (build,) = (shlex.split(command) for command in commands if "jupyter-book" in command)
    assert build[:3] == ["PROFILE=smoke", "exec", python]
    assert build[5] == str(project / ".venv/bin/jupyter-book")
    assert build[build.index("--path-output") + 1] == str(project / "_build/smoke")


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


FOLLOWER = """
import os, signal, subprocess, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
job = [sys.executable, "-m", "companion.flow", sys.executable, "-c", "import time; print('works', flush=True); time.sleep(60)"]
os.environ["FEATINT_FLOW"] = str(os.getpid())
subprocess.run(job)
"""


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("to", ["everything", "the flow", "its job"])
def test_a_step_ends_with_its_flow_and_by_signals(number, to):
    """The pipe ends when the last of the processes that write to it has."""
    if (number, to) == (signal.SIGKILL, "its job"):
        pytest.skip("whoever kills one job without leave to clean up ends what it started, too")
    with subprocess.Popen(
        [sys.executable, "-c", FOLLOWER],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
        preexec_fn=heed,
    ) as first:
        assert first.stdout.readline() == "works\n"
        if to == "everything":
            os.killpg(first.pid, number)
        else:
            job = psutil.Process(first.pid).children()[0].pid
            os.kill(first.pid if to == "the flow" else job, number)
        began = time.monotonic()
        assert first.stdout.read() == ""
        assert time.monotonic() - began < 20


def interrupted(project) -> str:
    """What the step that fetches said, once it has said that it was interrupted: it may outlive the flow by half a second."""
    log, end = project / "_build/logs/smoke/fetch.log", time.monotonic() + 30
    while "featint fetch: interrupted" not in (said := log.read_text(encoding="utf-8")):
        assert time.monotonic() < end, said
        time.sleep(0.1)
    return said


@contextmanager
def silent_index():
    """What pip needs to ask an index that never answers, and a function that waits until it does."""
    with socket.create_server(("127.0.0.1", 0)) as server, ExitStack() as connections:
        server.settimeout(60)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        environment = {"PIP_INDEX_URL": url, "PIP_CONFIG_FILE": "/dev/null"}
        yield environment, lambda: connections.enter_context(server.accept()[0])


@pytest.mark.parametrize(
    "number, to",
    [
        pytest.param(signal.SIGINT, os.killpg, marks=pytest.mark.smoke),
        pytest.param(signal.SIGHUP, os.killpg, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, os.kill, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, os.kill, marks=pytest.mark.smoke),
        pytest.param(signal.SIGKILL, os.kill, marks=pytest.mark.slow),
    ],
)
def test_after_a_signal_nothing_lives_on_and_the_next_flow_starts(
    project, start, number, to, tmp_path
):
    own = {"FEATINT_CACHE": str(tmp_path)}
    with silent_index() as (environment, wait):
        first = start("fetch", **environment | own)
        wait()  # the job runs
        to(first.pid, number)
        first.communicate(timeout=30)
        assert "Traceback" not in interrupted(project)
    said, _ = start("fetch", PIP_NO_INDEX="1", **own).communicate()
    assert "could not download" in said and "cannot be locked" not in said


@pytest.mark.parametrize(
    "stage, file",
    [
        pytest.param("atlas", "_build/atlas/smoke/atlas.json", marks=pytest.mark.slow),
        pytest.param("ledger", "results/smoke/ledger.json", marks=pytest.mark.slow),
    ],
)
def test_a_stage_that_is_killed_leaves_what_was_there_and_runs_again(project, stage, file):
    """A signal each at a fifth, two, three and four fifths of its time."""

    def start():
        return subprocess.Popen(
            [project / ".venv/bin/python", "-m", "companion.cli", stage, "--profile", "smoke"],
            cwd=project,
            env=os.environ | {"PYTHONPATH": str(project)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    began = time.monotonic()
    assert start().wait() == 0
    seconds = time.monotonic() - began
    whole, folder = (project / file).read_bytes(), (project / file).parent
    signals = signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGKILL
    for fifths, number in enumerate(signals, start=1):
        with start() as killed:
            time.sleep(fifths / 5 * seconds)
            killed.send_signal(number)
        assert (project / file).read_bytes() == whole
    assert start().wait() == 0
    assert (project / file).read_bytes() == whole
    assert [f.name for f in folder.iterdir()] == [Path(file).name]


def test_the_flow_ends_with_its_make(project):
    with (
        silent_index() as (environment, wait),
        subprocess.Popen(
            ["make", "book", "PROFILE=smoke", "--old-file=.venv/installed"],
            cwd=project,
            env=os.environ | {"PYTHONPATH": str(project)} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as make,
    ):
        wait()
        make.kill()
        make.communicate(timeout=30)
        interrupted(project)


@pytest.fixture
def cluster(tmp_path):
    """The environment in which a scheduler's commands are stand-ins, and the file of what they
    were told. Jobs are handed in and, as the scheduler says, killed."""
    folder, told = tmp_path / "bin", tmp_path / "told"
    folder.mkdir()
    for name, body in {
        "qsub": "echo 17.cluster",
        "qstat": "echo 'job_state = F'; echo 'Exit_status = 271'",
        "kubectl": 'case $1 in create) cat > "$TOLD.json";; get) printf "Job /1";; esac',
    }.items():
        script = f'#!/bin/sh\necho {name} "$@" >> "$TOLD"\n{body}\n'
        (folder / name).write_text(script, encoding="utf-8")
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "TOLD": str(told)}, told


class TestCluster:
    """Jobs handed to a scheduler, with `--jobs` alone: no number of cores."""

    @pytest.fixture
    def hand_in(self, project, start):
        def run(profile, *words, **environment):
            notebook = project / "_build/executed/smoke/notebooks/superposition.ipynb"
            on = ["--workflow-profile", f"profiles/{profile}", "--retries", "0"]
            flow = start(*words, "--", notebook, on=[*on, "--latency-wait", "0"], **environment)
            return flow.communicate(timeout=120)[0]

        return run

    def test_a_job_asks_for_what_its_rule_declares(self, hand_in, cluster):
        environment, told = cluster
        said = hand_in("generic", "--set-resources", "execute:gpu=1", **environment)
        assert "external jobid '17.cluster'" in said and "Error in rule execute" in said, said
        asked, status = told.read_text(encoding="utf-8").splitlines()[:2]
        select = r"walltime=(\d+):00 -l select=1:ncpus=(\d+):mem=(\d+)mb:ngpus=(\d) \S"
        minutes, threads, memory, gpus = map(int, re.search(select, asked).groups())
        assert (threads, gpus) == (4, 1) and minutes >= 60 and 4000 < memory < 8000
        assert status == "qstat -x -f 17.cluster"

    @pytest.mark.slow
    def test_slurm_reads_its_profile(self, hand_in):
        said = hand_in("slurm", "--dry-run")
        assert "mem_mb=4" in said and "runtime=" in said and "nodes=1" in said, said

    def submit(self, environment, gpus):
        return subprocess.run(
            [sys.executable, "profiles/kubernetes/submit.py", "4", "4800", "120", gpus, "job.sh"],
            cwd=PROJECT,
            env=os.environ | environment,
            capture_output=True,
            encoding="utf-8",
        )

    @pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # the schema's
    @pytest.mark.parametrize("gpus", ["0", "2"])
    def test_a_job_on_kubernetes_is_one_by_its_schema(self, cluster, gpus):
        environment, told = cluster
        names = {"FEATINT_IMAGE": "python:3.11", "FEATINT_CLAIM": "shared", "FEATINT_CACHE": "/a b"}
        done = self.submit(environment | names | {"FEATINT_MOUNT": str(PROJECT.parent)}, gpus)
        job = json.loads(told.with_suffix(".json").read_text(encoding="utf-8"))
        assert done.stdout.strip() == job["metadata"]["name"], done.stderr
        kubernetes_validate.validate(job, "1.31", strict=True)
        (container,) = job["spec"]["template"]["spec"]["containers"]
        assert container["workingDir"] == str(PROJECT)
        assert {"name": "FEATINT_CACHE", "value": "/a b"} in container["env"]
        cards = {} if gpus == "0" else {"nvidia.com/gpu": "2"}
        assert container["resources"]["limits"] == {"cpu": "4", "memory": "4800M"} | cards

    @pytest.mark.parametrize(
        "names, said",
        [
            ({"FEATINT_MOUNT": "/elsewhere"}, "is not on the shared volume, /elsewhere"),
            ({"FEATINT_MOUNT": str(PROJECT), "FEATINT_CLAIM": ""}, "FEATINT_CLAIM not set"),
        ],
    )
    def test_what_kubernetes_would_not_find_is_refused(self, cluster, names, said):
        environment, told = cluster
        named = {"FEATINT_IMAGE": "python:3.11", "FEATINT_CLAIM": "shared"} | names
        done = self.submit(environment | named, "0")
        assert done.returncode and said in done.stderr
        assert not told.exists()


@pytest.mark.slow
def test_a_sweep_names_the_cell_that_fails_and_compares_the_others(project):
    """A reference that there is not is known to the notebook alone."""
    file, cells = project / "mine.yaml", project / "_build/sweeps/smoke/mine"
    file.write_text(
        "{notebook: waterfall, grid: {reference: [sae, nothing]}, show: ['joint/*']}",
        encoding="utf-8",
    )

    def make():
        done = subprocess.run(
            ["make", "sweep", "PROFILE=smoke", f"SWEEP={file.name}", "--old-file=.venv/installed"],
            cwd=project,
            env=os.environ | {"PYTHONPATH": str(project)},
            capture_output=True,
            encoding="utf-8",
        )
        assert "The comparison: " in done.stdout, done.stderr
        page = Path(done.stdout.rpartition("The comparison: ")[2].partition("\n")[0])
        assert "1 of 2 cells are done" in page.read_text(encoding="utf-8")
        assert done.returncode and "FAILED reference = nothing: ValueError" in done.stderr, (
            done.stderr
        )
        return (cells / "reference-sae.ipynb").stat().st_mtime_ns

    assert make() == make(), "what is done is not done again"
