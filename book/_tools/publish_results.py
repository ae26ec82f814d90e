"""Results that were computed here become the published ones in `data/results`: `make publish-results PROFILE=full`.

Every file is checked first; nothing is written if one fails, or if the work tree has other changes."""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from companion import compare, estimates, ledger, places, profiles, results
from companion.profiles import Profile
from featint import store


def publish(profile: Profile) -> str:
    """Write a profile's results over the published ones, with the ledger of both, and say what
    changed. A chapter that was not computed here keeps its published file.

    Raises StoreError, before anything is written, if there are no results, if another file of the
    project is changed or new, if a file fails `check`, or if a number of the paper would be pending.
    """
    ours, target = results.folder(profile), places.PUBLISHED / profile.label
    files = results.files(ours)
    if not files:
        remedy = f"`make book PROFILE={profile.label}` computes them"
        raise store.StoreError(f"{ours} holds no results; {remedy}")
    refuse_changes({target / name for name in (results.LEDGER, *(f.name for f in files))})
    said = [check(file, profile) for file in files]
    with tempfile.TemporaryDirectory() as name:
        draft = Path(name)
        for file in (*results.files(target), *files):
            shutil.copy(file, draft)
        rows = ledger.build(profile, draft)
        if pending := [row["id"] for row in rows if row["verdict"] == "pending"]:
            why = f"{len(pending)} numbers of the paper would be pending, e.g. {pending[0]}"
            raise store.StoreError(f"{why}; run the chapters that are missing in {ours}")
        store.write_json(draft / results.LEDGER, rows)
        if results.files(target):
            said += ["A: as it was published, B: now", compare.report(target, draft)]
        for file in (*files, draft / results.LEDGER):
            store.write_bytes(target / file.name, file.read_bytes())
    return "\n".join(said)


def refuse_changes(but: set[Path]) -> None:
    """Raise StoreError if git knows of a change in the project that is not in these files."""
    command = "git status --porcelain -z --no-renames --untracked-files=all".split()
    try:
        told = subprocess.run(command, cwd=places.PROJECT, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as e:
        raise store.StoreError(f"results are published from a git checkout; {e}") from e
    changed = {places.PROJECT / entry[3:] for entry in told.stdout.decode().split("\0") if entry}
    if other := sorted(str(f.relative_to(places.PROJECT)) for f in changed - but):
        what = f"the work tree has changes besides the results: {', '.join(other)}"
        raise store.StoreError(f"{what}; commit them, or put them away (`git stash -u`)")


def check(file: Path, profile: Profile) -> str:
    """Which code computed a results file and where. Raises StoreError if that cannot be told, or if
    the file is not what `results.save` writes for this profile under this name."""
    content, table = results.read(file), results.table(file)
    if (told := (content["chapter"], content["profile"])) != (file.stem, profile.label):
        raise store.StoreError(f"{file} says that it is {told[0]} of the profile {told[1]}")
    for name, row in zip(table.index, table.itertuples(), strict=True):
        if name != (right := estimates.identifier(row)):
            raise store.StoreError(f"{file}: {name!r} must be called {right!r}, by its columns")
    stamp = content["provenance"]
    if not re.fullmatch("[0-9a-f]+", stamp["commit"]):
        what = f"{file} was computed by code that no commit holds ({stamp['commit']})"
        raise store.StoreError(f"{what}; commit, then run the chapter again")
    where = f"{stamp['processor']}, {stamp['memory_gb']} GB, {stamp['machine']}"
    return f"{file.name}: commit {stamp['commit']}, {where}"


if __name__ == "__main__":
    try:
        print(publish(profiles.get(*sys.argv[1:])))
    except (ValueError, store.StoreError) as e:
        sys.exit(str(e))
