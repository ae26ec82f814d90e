# The flow from nothing to the book: fetch, windows, harvest, train, execute notebooks, build. Every rule's command also runs by hand.
#   snakemake --cores all                        the laptop profile
#   snakemake --cores all --config profile=smoke another one
import fcntl
import os
import shlex
import shutil
import sys
from pathlib import Path

import psutil

from companion import flow, notebook, places, profiles, dependencies, variants
from featint import store

# A flow that was killed leaves Snakemake's lock behind. Every flow (not the processes of its jobs) shares one more, which ends with
# its process: whoever gets it alone knows that no other flow is alive and takes what was left away.
if os.environ.setdefault("FEATINT_FLOW", str(os.getpid())) == str(os.getpid()):
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


def end(*_):
    """A signal to this process alone ends its jobs, too: Snakemake would wait for them, for half an hour in a harvest."""
    for job in psutil.Process().children():
        job.terminate()
    flow.stop()


onstart:
    flow.on_signals(end)  # by now Snakemake has set its own



PROFILE = config.get("profile", "laptop")
profile = profiles.get(PROFILE)
# exec: the parent of a job is this process, with which it ends
STEP = f"exec {shlex.quote(sys.executable)} -m companion"
FEATINT = f"{STEP}.cli"
JUPYTER_BOOK = f"{STEP}.flow {shlex.quote(str(Path(sys.executable).with_name('jupyter-book')))}"
MANIFEST = store.MANIFEST
PUBLISHED = sorted(places.PUBLISHED.glob("*/*.json"))

# What an artefact depends on besides its config, which is in its path.
READING, TRAINING = dependencies.of_stage("featint.harvest"), dependencies.of_stage("featint.runs")
PAGES = [str(f) for f in sorted(places.PROJECT.glob("book/**/*")) if f.is_file() and "__pycache__" not in f.parts]

ACTIVATIONS = [store.path("activations", config) / MANIFEST for config in (profile.harvest, profile.mlp_site)]
MODELS = {store.key(c): (name, seed, c) for name in variants.VARIANTS for seed in profile.seeds for c in [variants.get(name, profile, seed)]}
# Two trainings or notebooks at a time, each on half of the cores: much of a notebook runs on one core, and small products share two badly.
HALF = max(1, workflow.cores // 2)
HTML = places.BUILD / "html" if PROFILE == "laptop" else places.BUILD / PROFILE / "_build" / "html"


def manifest(model_config):
    return store.path("models", model_config) / MANIFEST


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
    params:
        place="." if PROFILE == "laptop" else places.BUILD / PROFILE,
    shell:
        "PROFILE={PROFILE} {JUPYTER_BOOK} build . -W -n --keep-going --path-output {params.place:q}"


rule fetch:
    input:
        "data/assets.txt", "featint/assets.py",
    output:
        touch(store.cache() / "assets" / "fetched"),
    shell:
        "{FEATINT} fetch"


rule harvest:
    input:
        rules.fetch.output, READING,
    output:
        ACTIVATIONS,
    threads: workflow.cores
    shell:
        "{FEATINT} harvest --profile {PROFILE}"


if PROFILE == "smoke":  # a model takes a second and Python three to start: one job trains them all

    rule train:
        input:
            TRAINING, ACTIVATIONS,
        output:
            [manifest(config) for _, _, config in MODELS.values()],
        params:
            models=list(variants.VARIANTS),
        threads: workflow.cores
        shell:
            "{FEATINT} train --profile {PROFILE} --model {params.models}"

else:

    rule train:
        input:
            TRAINING, ACTIVATIONS,
            base=lambda w: [manifest(MODELS[w.key][2].base)] if MODELS[w.key][2].base else [],
        output:
            store.cache() / "models" / "{key}" / MANIFEST,
        params:
            model=lambda w: MODELS[w.key][0],
            seed=lambda w: MODELS[w.key][1],
        threads: HALF
        shell:
            "{FEATINT} train --profile {PROFILE} --model {params.model} --seed {params.seed}"


rule execute:
    input:
        "notebooks/{name}.ipynb",
        lambda w: dependencies.of_notebook(notebook.FOLDER / f"{w.name}.ipynb"),
        lambda w: shown(w.name),
        models=lambda w: models_of(w.name),
    output:
        places.BUILD / "executed" / PROFILE / "notebooks" / "{name}.ipynb",
    threads: HALF
    shell:
        "{FEATINT} notebook {wildcards.name} --profile {PROFILE}"


rule ledger:
    input:
        "data/paper_values.json",
        "companion/ledger.py",
        [f for f in PUBLISHED if f.parent.name == places.AUTHOR],
        [notebook.executed(name, PROFILE) for name in variants.CHAPTERS],
    output:
        touch(places.BUILD / "executed" / PROFILE / "ledger.done"),
    shell:
        "{FEATINT} ledger --profile {PROFILE}"


rule atlas:
    input:
        dependencies.closure(["companion.atlas"]),
        model=manifest(variants.get("joint", profile)),
    output:
        places.BUILD / "atlas" / PROFILE / "atlas.json",
    threads: HALF
    shell:
        "{FEATINT} atlas --profile {PROFILE}"
