# The flow from nothing to the book: fetch, windows, harvest, train, execute notebooks, build. Every rule's command also runs by hand.
#   snakemake --cores all                        the laptop profile
#   snakemake --cores all --config profile=smoke another one
#   snakemake --cores all --config sweep=sweeps/k.yaml -- sweep
#   snakemake --workflow-profile profiles/slurm  its jobs on a cluster: profiles/ says how, and what to mind
import fcntl
import os
import shlex
import shutil
import sys
from pathlib import Path

import psutil
from snakemake.logging import logger

from companion import flow, notebook, places, profiles, progress, dependencies, variants
from featint import store

# A flow that was killed leaves Snakemake's lock behind. Every flow (not the processes of its jobs) shares one more, which ends with
# its process: whoever gets it alone knows that no other flow is alive and takes what was left away.
PROFILE, TOLD = config.get("profile", "laptop"), None
if workflow.remote_exec:  # a job that a cluster runs: what it starts ends with this process of its own
    os.environ["FEATINT_FLOW"] = str(os.getpid())
elif os.environ.setdefault("FEATINT_FLOW", str(os.getpid())) == str(os.getpid()):
    os.makedirs(".snakemake", exist_ok=True)
    ALIVE = open(".snakemake/alive", "wb")
    try:
        fcntl.flock(ALIVE, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(".snakemake/locks", ignore_errors=True)
    except BlockingIOError:
        print("Another run of this flow is alive in this folder: wait until it ends, or end it.", file=sys.stderr)
    fcntl.flock(ALIVE, fcntl.LOCK_SH)
    if make := os.environ.pop("FEATINT_MAKE", None):
        flow.follow(int(make))
        TOLD = progress.Progress(progress.timings(PROFILE), lambda *job: label(*job))
        for handler in logger.handlers:
            handler.addFilter(progress.only_problems)
        logger.addHandler(TOLD)


def end(*_):
    """A signal to this process alone ends its jobs, too: Snakemake would wait for them, for half an hour in a harvest."""
    for job in psutil.Process().children():
        job.terminate()
    flow.stop()


onstart:
    flow.on_signals(end)  # by now Snakemake has set its own
    if TOLD:
        jobs = list(workflow.dag.jobs)
        TOLD.start([label(j.rule.name, j.wildcards_dict) for j in jobs if workflow.dag.needrun(j)], len(jobs))


onsuccess:
    if TOLD:
        TOLD.end()



profile = profiles.get(PROFILE)
# exec: the parent of a job is this process, with which it ends
STEP = f"exec {shlex.quote(sys.executable)} -m companion"
FEATINT = f"{STEP}.cli"
LOGS = places.BUILD / "logs" / PROFILE
JUPYTER_BOOK = f"{STEP}.flow {shlex.quote(str(Path(sys.executable).with_name('jupyter-book')))}"
MANIFEST = store.MANIFEST
PUBLISHED = sorted(places.PUBLISHED.glob("*/*.json"))

# What an artefact depends on besides its config, which is in its path.
READING, TRAINING = dependencies.of_stage("featint.harvest"), dependencies.of_stage("featint.runs")
PAGES = [str(f) for f in sorted(places.PROJECT.glob("book/**/*")) if f.is_file() and "__pycache__" not in f.parts]

ACTIVATIONS = [store.path("activations", config) / MANIFEST for config in (profile.harvest, profile.mlp_site)]
MODELS = {store.key(c): (name, seed, c) for name in variants.VARIANTS for seed in profile.seeds for c in [variants.get(name, profile, seed)]}
# Here two trainings or notebooks run at a time, each on half of the cores: much of a notebook runs on one core, and small products
# share two badly. A job of a cluster has a part of a machine to itself, as large as `--set-threads train=16` says.
ALL = (not workflow.remote_exec and workflow.resource_settings.cores) or 8
HALF = max(1, ALL // 2)
# What a job asks a cluster for; here it limits nothing. Minutes are many times what was measured; a training or harvest that meets
# its limit goes on where it was when it is tried again, with twice the memory should that have been too little. `--config gpu=1`
# asks for a graphics card wherever one is of use.
GPU = int(config.get("gpu", 0))
LM_BYTES, MODEL_BYTES = 1600 * profile.d_in**2, 40 * profile.sae.d_sae * (3 * profile.d_in + profile.nfm.d_factor)
MEMORY = 4000 + (LM_BYTES + MODEL_BYTES) // 10**6
MINUTES = {
    "harvest": 60 + profile.train.n_tokens // 5_000,
    "train": 60 + profile.train.n_tokens * MODEL_BYTES // 10**14,
    "execute": 60 + 60 * len(profile.seeds),
}
DAYS = 2 * 24 * 60  # no queue is sure to take more


def memory(wildcards, attempt):
    return attempt * MEMORY


def minutes(stage):
    return min(MINUTES[stage], DAYS)


localrules:  # seconds, a network, or files of every other job
    book, fetch, ledger,

HTML = places.BUILD / "html" if PROFILE == "laptop" else places.BUILD / PROFILE / "_build" / "html"


def manifest(model_config):
    return store.path("models", model_config) / MANIFEST


def label(rule, wildcards):
    """What a step is called while it runs, and in the published timings."""
    if rule == "train" and wildcards:
        name, seed, _ = MODELS[wildcards["key"]]
        return f"train {name} {seed}"
    return " ".join([{"execute": "notebook", "book": "pages"}.get(rule, rule), *wildcards.values()])


def models_of(chapter):
    return [manifest(config) for config in variants.of_chapter(chapter, profile)]


def shown(name):
    """The published results that a notebook shows beside its own: by name, or in its table of verdicts."""
    text = (notebook.FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
    signs = {"bench": ['\\"bench\\"'], profiles.PUBLISHED: ["profiles.PUBLISHED"], places.AUTHOR: ["places.AUTHOR"]}
    if PROFILE != profiles.PUBLISHED:
        signs[profiles.PUBLISHED].append("ledger.chapter(")
    return [f for f in PUBLISHED if any(sign in text for sign in signs.get(f.parent.name, ()))]


rule book:
    input:
        executed=[notebook.executed(name, PROFILE) for name in notebook.names()],
        ledger=places.BUILD / "executed" / PROFILE / "ledger.done",
        atlas=places.BUILD / "atlas" / PROFILE / "atlas.json",
        pages=["_config.yml", "_toc.yml", *PAGES, *PUBLISHED],
    output:
        touch(HTML / "book" / "intro.html"),
    log:
        LOGS / "pages.log",
    params:
        place="." if PROFILE == "laptop" else places.BUILD / PROFILE,
    threads: 1
    resources: mem_mb=2000, runtime=30
    shell:
        "PROFILE={PROFILE} {JUPYTER_BOOK} build . -W -n --keep-going --path-output {params.place:q} > {log:q} 2>&1"


rule fetch:
    input:
        "data/assets.txt", "featint/assets.py",
    output:
        touch(store.cache() / "assets" / "fetched"),
    log:
        LOGS / "fetch.log",
    threads: 1
    resources: mem_mb=2000, runtime=30
    shell:
        "{FEATINT} fetch > {log:q} 2>&1"


rule harvest:
    input:
        rules.fetch.output, READING,
    output:
        ACTIVATIONS,
    log:
        LOGS / "harvest.log",
    threads: ALL
    resources: mem_mb=memory, runtime=minutes("harvest"), gpu=GPU
    shell:
        "{FEATINT} harvest --profile {PROFILE} > {log:q} 2>&1"


if PROFILE == "smoke":  # a model takes a second and Python three to start: one job trains them all

    rule train:
        input:
            TRAINING, ACTIVATIONS,
        output:
            [manifest(config) for _, _, config in MODELS.values()],
        log:
            LOGS / "train.log",
        params:
            models=list(variants.VARIANTS),
        threads: ALL
        resources: mem_mb=memory, runtime=minutes("train"), gpu=GPU
        shell:
            "{FEATINT} train --profile {PROFILE} --model {params.models} > {log:q} 2>&1"

else:

    rule train:
        input:
            TRAINING, ACTIVATIONS,
            base=lambda w: [manifest(MODELS[w.key][2].base)] if MODELS[w.key][2].base else [],
        output:
            store.cache() / "models" / "{key}" / MANIFEST,
        log:
            LOGS / "train-{key}.log",
        params:
            model=lambda w: MODELS[w.key][0],
            seed=lambda w: MODELS[w.key][1],
        threads: HALF
        resources: mem_mb=memory, runtime=minutes("train"), gpu=GPU
        shell:
            "{FEATINT} train --profile {PROFILE} --model {params.model} --seed {params.seed} > {log:q} 2>&1"


rule execute:
    input:
        "notebooks/{name}.ipynb",
        lambda w: dependencies.of_notebook(notebook.FOLDER / f"{w.name}.ipynb"),
        lambda w: shown(w.name),
        models=lambda w: models_of(w.name),
    output:
        places.BUILD / "executed" / PROFILE / "notebooks" / "{name}.ipynb",
    log:
        LOGS / "notebook-{name}.log",
    threads: HALF
    resources: mem_mb=memory, runtime=minutes("execute"), gpu=GPU
    shell:
        "{FEATINT} notebook {wildcards.name} --profile {PROFILE} > {log:q} 2>&1"


rule ledger:
    input:
        "data/paper_values.json",
        "companion/ledger.py",
        [f for f in PUBLISHED if f.parent.name == places.AUTHOR],
        [notebook.executed(name, PROFILE) for name in variants.CHAPTERS],
    output:
        touch(places.BUILD / "executed" / PROFILE / "ledger.done"),
    log:
        LOGS / "ledger.log",
    threads: 1
    resources: mem_mb=2000, runtime=30
    shell:
        "{FEATINT} ledger --profile {PROFILE} > {log:q} 2>&1"


rule atlas:
    input:
        dependencies.closure(["companion.atlas"]),
        model=manifest(variants.get("joint", profile)),
    output:
        places.BUILD / "atlas" / PROFILE / "atlas.json",
    log:
        LOGS / "atlas.log",
    threads: HALF
    resources: mem_mb=memory, runtime=minutes("execute"), gpu=GPU
    shell:
        "{FEATINT} atlas --profile {PROFILE} > {log:q} 2>&1"


if "sweep" in config:  # a notebook at every point of a grid; `make sweep` makes a page of what is done
    sys.path.insert(0, str(places.PROJECT))
    from sweeps import grid

    SWEEP = grid.read(Path(config["sweep"]), PROFILE)
    CELLS = {cell.name: cell for cell in SWEEP.cells}

    rule sweep:
        input:
            [cell.executed for cell in SWEEP.cells],

    rule cell:
        input:
            f"notebooks/{SWEEP.notebook}.ipynb",
            dependencies.of_notebook(notebook.FOLDER / f"{SWEEP.notebook}.ipynb"),
            text=lambda w: ACTIVATIONS if CELLS[w.cell].profile.harvest == profile.harvest else rules.fetch.output,
            models=lambda w: [manifest(c) for c in variants.of_chapter(SWEEP.notebook, CELLS[w.cell].profile) if store.key(c) in MODELS],
        output:
            SWEEP.folder / "{cell}.ipynb",
        log:
            LOGS / "{cell}.log",
        params:
            given=lambda w: [f"-p{name}={value}" for name, value in CELLS[w.cell].parameters.items()],
        threads: HALF
        resources: mem_mb=memory, runtime=minutes("execute"), gpu=GPU
        shell:
            "{FEATINT} notebook {SWEEP.notebook} --profile {PROFILE} {params.given:q} --out {output:q} > {log:q} 2>&1"
