"""A process that has imported everything, computed nothing, and forks one step of the flow after another: `featint STEP --profile tiny`, on a
tiny model and text, in a folder of its own, with what is to befall it. One JSON object per line in, one out."""

import errno
import json
import os
import resource
import signal
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

import torch

from companion import atlas, cli, ledger, notebook, places, profiles, variants
from featint import activations, harvest, runs, store, train
from featint.config import CorpusConfig, HarvestConfig, LMConfig, NFMConfig, SAEConfig, TrainConfig

CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree")
MODELS = ["joint", "sequential"]


def tiny(lm: str, corpus: str):
    """The profile of tests/conftest.py, with more places in a harvest and a training at which it can end."""
    text = CorpusConfig(name=corpus, seq_len=16, validation_fraction=0.1, test_fraction=0.2)
    reading = HarvestConfig(
        lm=LMConfig(name=lm), corpus=text, hook_point="blocks.1.hook_resid_post", dtype="float32"
    )
    return replace(
        profiles.smoke(),
        name="tiny",
        d_in=32,
        harvest=reading,
        sae=SAEConfig(d_sae=64, k=4),
        nfm=NFMConfig(d_factor=3),
        train=TrainConfig(n_tokens=64 * 20, batch_tokens=64, lr=1e-2, dead_after_tokens=1000),
    )


def read(profile) -> None:
    """Open all that there is."""
    for site in (profile.harvest, profile.mlp_site):
        for split in ("train", "validation", "test"):
            activations.load(site, split)
    harvest.windows(profile.harvest)
    for name in ("sae", *MODELS):  # the first is what `sequential` stands on
        runs.get(variants.get(name, profile))
    from companion import results

    results.load(results.folder(profile))


def befall(job: dict) -> None:
    """Set up what is to befall this process: `kill` or `fail` at its n-th change of a file below the folder, or after so much of its time;
    limits; one core; a clock that runs backwards; folders that are not there."""
    seen, root = [0], job["folder"] + "/"

    def hook(event: str, arguments: tuple) -> None:
        if event not in CHANGES and event != "open":
            return
        path, *more = arguments
        path = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        if path.startswith(tuple(job.get("forbidden", ()))):
            raise OSError(errno.EACCES, "forbidden", path)
        writes = event in CHANGES[:2] or event == "open" and more[-1] & (os.O_WRONLY | os.O_RDWR)
        if not path.startswith(root) or not (writes or event in CHANGES):
            return
        seen[0] += 1
        if seen[0] == job.get("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        if writes and "fail" in job and seen[0] >= job["fail"]:
            raise OSError(job["errno"], os.strerror(job["errno"]), path)

    sys.addaudithook(hook)
    job["seen"] = seen
    for name, most in job.get("limits", {}).items():
        kind = getattr(resource, name)
        resource.setrlimit(kind, (most, resource.getrlimit(kind)[1]))
    if "seconds" in job:  # of this process; the kernel ends it, and nothing in it can catch that
        signal.setitimer(signal.ITIMER_PROF, job["seconds"])
    if job.get("one_core"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if job.get("backwards"):
        time.time = backwards(
            time.time
        )  # nobody can set back the monotonic clock, on which asyncio waits


def backwards(clock):
    """A clock that runs the other way."""
    began = clock()
    return lambda: 2 * began - clock()


def step(job: dict) -> int:
    """What the forked process does; its exit status."""
    folder = Path(job["folder"])
    os.environ["FEATINT_CACHE"] = str(folder / "cache")
    places.BUILD, places.RESULTS = folder / "build", folder / "results"
    notebook.FOLDER = folder / "notebooks"
    profile = tiny(job["lm"], job["corpus"])
    profiles.PROFILES["tiny"] = lambda: profile
    harvest.SHARD_WINDOWS, train.CHECKPOINT_SECONDS = 8, job.get("every", -1)
    befall(job)
    try:
        if job["step"] == "read":
            read(profile)
            return 0
        words = {
            "train": ["--model", *MODELS],
            "notebook": ["draft", "--out", str(folder / "out.ipynb")],
        }
        return cli.main([job["step"], "--profile", "tiny", *words.get(job["step"], [])])
    except (store.StoreError, ValueError) as e:
        print(e, file=sys.stderr)
        return 2
    except BaseException:
        traceback.print_exc()
        return 1


def fork(job: dict) -> tuple[int, int]:
    """Begin a step; the number of its process, and a pipe with what it says, in the end what it did. A pipe takes all, whatever the disk."""
    said, mouth = os.pipe()
    if pid := os.fork():
        os.close(mouth)
        os.set_blocking(said, False)  # what it began may hold the pipe open
        return pid, said
    os.dup2(mouth, 1)
    os.dup2(mouth, 2)
    code = step(job)
    sys.stdout.flush()
    sys.stderr.flush()
    told = {"changes": job["seen"][0], "seconds": time.process_time()}
    os.write(1, f"\n{json.dumps(told)}".encode())
    os._exit(code)


def heard(said: int) -> str:
    """What came through a pipe."""
    try:
        return os.read(said, 1 << 20).decode(errors="replace")
    except BlockingIOError:  # nothing, from what still lives
        return ""
    finally:
        os.close(said)


if __name__ == "__main__":
    torch.set_num_threads(1)
    assert atlas and ledger
    for line in sys.stdin:
        job = json.loads(line)
        begun = [fork(job) for _ in range(job.get("at_once", 1))]
        if "stop" in job:
            time.sleep(job["stop"] / 10)
            os.kill(begun[0][0], signal.SIGSTOP)
            time.sleep(job["stop"])
            os.kill(begun[0][0], signal.SIGCONT)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid, _ in begun]
        texts = [heard(said) for _, said in begun]
        more = json.loads(texts[0].rpartition("\n")[2]) if codes[0] in (0, 1, 2) else {}
        print(json.dumps({"codes": codes, "said": "\n".join(texts)} | more), flush=True)
