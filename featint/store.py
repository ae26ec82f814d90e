"""Where things lie.

Artefacts are folders named by the hash of the config that made them; they appear whole or not at
all, and every file in them is checked against its sha256 when it is opened.
"""

import errno
import functools
import glob
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import psutil
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from featint.config import to_json

CHECKOUT = Path(__file__).resolve().parents[1]
MANIFEST = "manifest.json"
FORMAT = 1  # raise it when files in artefacts change their meaning; older ones are made anew
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # disk, quota, or what `ulimit -f` allows
STARTED_AT = Path.cwd()  # a relative $FEATINT_CACHE stays where it is if the program moves on
STAMPED = "torch numpy transformers transformer-lens pandas scipy statsmodels pingouin papermill"


class StoreError(Exception):
    """An artefact or file that is missing, damaged or not writable; its message says the remedy."""


def cache() -> Path:
    """The folder of large, remakeable files: $FEATINT_CACHE, else `~/.cache/featint`.

    Raises StoreError if there is neither that variable nor a home."""
    try:
        return STARTED_AT / (os.environ.get("FEATINT_CACHE") or Path.home() / ".cache" / "featint")
    except RuntimeError as e:
        raise StoreError(f"{e} Set FEATINT_CACHE to a folder that takes files") from e


def writable(folder: Path, remedy: str = "if it is the cache, set FEATINT_CACHE") -> None:
    """Make a folder and try whether it takes files: better before the work than after it.

    Raises StoreError with the remedy if it does not, OSError if the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as e:
        if e.errno in FULL:
            raise
        raise StoreError(f"{folder} takes no files ({e.strerror}); {remedy}") from e


def key(config) -> str:
    """The first 16 hexadecimal digits of the sha256 of the config's canonical JSON."""
    plain = to_json(config) if is_dataclass(config) else config
    return digest({"format": FORMAT, "config": plain})[:16]


def digest(plain) -> str:
    """The sha256 of plain values' canonical JSON, hexadecimal."""
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def path(kind: str, config) -> Path:
    """The folder in which the artefact of this kind and config lies, whether it exists or not."""
    return cache() / kind / key(config)


def exists(kind: str, config) -> bool:
    """Whether the artefact is finished: it gets its manifest and its final name last."""
    return (path(kind, config) / MANIFEST).exists()


@dataclass(frozen=True)
class Artefact:
    """A finished folder: its path and its manifest.

    The manifest holds `kind`, `config`, `files`, `meta` and `provenance`.
    """

    path: Path
    manifest: dict

    @property
    def meta(self) -> dict:
        return self.manifest["meta"]

    def file(self, name: str) -> Path:
        """The path of one file in the artefact, after its size and sha256 have been checked.

        Raises StoreError if the file is missing, truncated or altered.
        """
        if name not in self.manifest["files"]:
            has = ", ".join(sorted(self.manifest["files"]))
            raise StoreError(f"{self.path} holds no {name!r}; it holds {has}")
        want, found = self.manifest["files"][name], self.path / name
        if not found.exists():
            wrong = "is missing"
        elif (size := found.stat().st_size) != want["bytes"]:
            wrong = f"has {size} bytes instead of {want['bytes']}: it is truncated or altered"
        elif sha256(found, found.stat().st_mtime_ns) != want["sha256"]:
            wrong = f"does not match its sha256 {want['sha256'][:12]}...: it is corrupted"
        else:
            return found
        remedy = f"delete the folder {self.path} and run the command again: it will be made anew"
        raise StoreError(f"{found} {wrong}; {remedy}")


@functools.lru_cache(maxsize=256)
def sha256(file: Path, mtime_ns: int | None = None) -> str:
    """The sha256 of a file, hexadecimal; read once per process while `mtime_ns` stays the same."""
    with open(file, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def load(kind: str, config) -> Artefact:
    """Open a finished artefact. Raises StoreError if there is none or its manifest is damaged."""
    folder = path(kind, config)
    anew = f"delete the folder {folder}, if there is one, and run the command again"
    remedy = f"the artefact has not been made for this config yet, or is damaged: {anew}"
    return Artefact(folder, read_json(folder / MANIFEST, remedy, {"files": dict, "meta": dict}))


@contextmanager
def create(
    kind: str, config, meta: dict | None = None, seed: int | None = None, draft: Path | None = None
) -> Iterator[Path]:
    """Make an artefact: yields an empty folder, or `draft`, which becomes it if all ends well.

    If another process has made the same one meanwhile, that one stays: somebody may be reading it.
    `meta` may be filled inside the block; it is written into the manifest afterwards. On any
    exception the folder is removed, but not `draft`. Raises StoreError if the disk is full.
    """
    final, kept = path(kind, config), draft
    with refuse_full_disk(final):
        writable(final.parent)
        draft = draft or Path(tempfile.mkdtemp(prefix=sweep(final), dir=final.parent))
    try:
        with refuse_full_disk(final):
            for f in (*draft.glob(".*"), draft / MANIFEST):  # of a process that was killed
                f.unlink(missing_ok=True)
            yield draft
            files = {
                f.name: {"sha256": sha256(f, f.stat().st_mtime_ns), "bytes": f.stat().st_size}
                for f in sorted(draft.iterdir())
            }
            plain = to_json(config) if is_dataclass(config) else config
            manifest = {"kind": kind, "config": plain, "files": files, "meta": meta or {}}
            manifest |= {"provenance": provenance(seed=seed)}
            write_json(draft / MANIFEST, manifest | {"sha256": digest(manifest)})
            draft.chmod(0o755)
            try:
                draft.rename(final)
            except OSError:  # another one lies there
                if not exists(kind, config):
                    shutil.rmtree(final, ignore_errors=True)
                    draft.rename(final)
            kept = None
    finally:
        if draft != kept:
            shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Let one process at a time into the block; the others on this cache wait, and say so.

    The operating system lets the next one in when a process dies.
    """
    cache().mkdir(parents=True, exist_ok=True)
    lock = FileLock(cache() / f"{name}.lock")
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        print(f"waiting for another {name} on {cache()}", flush=True)
        held = lock.acquire()
    with held:
        yield


@contextmanager
def refuse_full_disk(target: Path) -> Iterator[None]:
    """Turn 'no space left' into a StoreError that names the folder and the space that is left."""
    try:
        yield
    except (OSError, SafetensorError) as e:
        if not (getattr(e, "errno", 0) in FULL or any(f"os error {n})" in str(e) for n in FULL)):
            raise
        at = next(p for p in (target, *target.parents) if p.exists())
        free = shutil.disk_usage(at).free / 1e6
        raise StoreError(
            f"the disk is full ({free:.0f} MB left at {at}) while writing {target}; nothing "
            "half-written was left behind. Free some space, or point FEATINT_CACHE at a larger disk"
        ) from e


def sweep(target: Path) -> str:
    """Remove drafts of a file or folder whose process was killed; the prefix of this one's."""
    for left in target.parent.glob(f".{glob.escape(target.name)}-*-*"):
        if not psutil.pid_exists(int(left.name.rsplit("-", 2)[1])):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    return f".{target.name}-{os.getpid()}-"


def discard(file: Path) -> None:
    """Remove a file that is not needed any more, with drafts of it that were left behind."""
    file.unlink(missing_ok=True)
    sweep(file)


def write_bytes(file: Path, content: bytes) -> None:
    """Write a file atomically: under a temporary name in the same folder, then renamed.

    Raises StoreError if the disk is full.
    """
    with refuse_full_disk(file):
        writable(file.parent)
        handle, temporary = tempfile.mkstemp(prefix=sweep(file), dir=file.parent)
        try:
            with os.fdopen(handle, "wb") as f:
                f.write(content)
            os.chmod(temporary, 0o644)
            os.replace(temporary, file)
        finally:
            Path(temporary).unlink(missing_ok=True)


def read_json(file: Path, remedy: str, fields: Mapping[str, type] | None = None):
    """What a JSON file holds, if need be an object with fields of these types. A `sha256` in it is
    checked and left out. Raises StoreError with the remedy if it is missing, damaged or not so."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"), parse_constant=int)  # refuses NaN
    except FileNotFoundError:
        raise StoreError(f"{file} is missing; {remedy}") from None
    except (OSError, ValueError, RecursionError) as e:
        raise StoreError(f"{file} cannot be read ({e}); {remedy}") from e
    found = content if isinstance(content, dict) else {}
    lacks = [name for name, of in (fields or {}).items() if not isinstance(found.get(name), of)]
    if lacks:
        raise StoreError(f"{file} lacks {', '.join(lacks)}; {remedy}")
    if found.pop("sha256", None) not in (None, digest(found)):
        raise StoreError(f"{file} does not match its sha256: it is corrupted or altered; {remedy}")
    return content


def write_json(file: Path, content) -> None:
    """Write JSON atomically; NaN and infinity are refused, because JSON has none."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes(file, f"{text}\n".encode())


def provenance(**more) -> dict:
    """Where, when and with what something was made, and what the caller adds.

    Time (UTC), commit, Python, machine, device, versions of packages.
    """
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "python": sys.version.split()[0],
        "machine": f"{platform.machine()} with {instructions()}, {os.cpu_count()} cores, "
        f"{platform.system()}",
        "device": device(),
        "versions": {name: version for name in STAMPED.split() if (version := installed(name))},
        **more,
    }


def installed(name: str) -> str | None:
    """A package's version, None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def device() -> str:
    """`cuda` where there is one, else `cpu`."""
    import torch  # only here: the flow (Snakefile) asks for paths and should not wait for torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def instructions() -> str:
    """The widest instruction set that PyTorch uses here, as it calls it: AVX2, AVX512, ...

    Results differ in the last digits between them.
    """
    import torch

    return torch.backends.cpu.get_cpu_capability()


@functools.cache
def commit() -> str:
    """This checkout's commit, with `+changes` if its files differ; `unknown` outside one."""
    if not (CHECKOUT / ".git").exists():
        return "unknown"
    try:
        options = {"capture_output": True, "encoding": "utf-8", "check": True}
        run = functools.partial(subprocess.run, cwd=CHECKOUT, **options)
        head = run(["git", "rev-parse", "--short=12", "HEAD"]).stdout.strip()
        ours = ["featint", "companion", "notebooks"]
        changes = run(["git", "status", "--porcelain", "--", *ours]).stdout.strip()
        return head + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
