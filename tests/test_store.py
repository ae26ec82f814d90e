"""Artefacts: whole or not at all, checked when opened, and errors that say what to do."""

import errno
import json

import pytest

from featint import store
from featint.config import CorpusConfig, TrainConfig
from featint.store import StoreError

CONFIG = TrainConfig(n_tokens=2048)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEATINT_CACHE", str(tmp_path))
    return tmp_path


def make(text="hello", meta=None):
    with store.create("things", CONFIG, meta, seed=7) as folder:
        (folder / "a.txt").write_text(text, encoding="utf-8")
    return store.load("things", CONFIG)


def test_of_two_that_make_the_same_the_first_stays():
    with store.create("things", CONFIG) as folder:
        (folder / "a.txt").write_text("second", encoding="utf-8")
        first = make("first")
    assert (
        store.load("things", CONFIG) == first
        and first.file("a.txt").read_text(encoding="utf-8") == "first"
    )
    assert [f for f in first.path.parent.iterdir() if f != first.path] == []


def test_create_then_load():
    meta = {}
    with store.create("things", CONFIG, meta, seed=7) as folder:
        (folder / "a.txt").write_text("hello", encoding="utf-8")
        meta["rows"] = 3  # filled inside the block
        assert not store.exists("things", CONFIG)
    artefact = store.load("things", CONFIG)
    assert artefact.file("a.txt").read_text(encoding="utf-8") == "hello"
    assert artefact.meta == {"rows": 3}
    stamp = artefact.manifest["provenance"]
    assert (
        stamp["seed"] == 7
        and stamp["device"] in ("cpu", "cuda")
        and "torch" in stamp["versions"]
        and stamp["time"].endswith("+00:00")
    )
    assert artefact.manifest["config"]["n_tokens"] == 2048


def test_the_key_follows_the_config_and_nothing_else():
    assert store.key(CONFIG) == store.key(TrainConfig(n_tokens=2048))
    assert store.key(CONFIG) != store.key(TrainConfig(n_tokens=2049))
    assert store.key(CONFIG) != store.key(CorpusConfig())


@pytest.mark.parametrize(
    "damage, complaint",
    [
        (lambda f: f.unlink(), "is missing"),
        (lambda f: f.write_text("hell", encoding="utf-8"), "has 4 bytes instead of 5"),
        (lambda f: f.write_text("hallo", encoding="utf-8"), "does not match its sha256"),
    ],
)
def test_a_missing_truncated_or_corrupted_file_is_named_with_the_fix(damage, complaint):
    artefact = make()
    damage(artefact.path / "a.txt")
    with pytest.raises(StoreError, match=f"a.txt {complaint}.*delete the folder {artefact.path}"):
        artefact.file("a.txt")


def test_a_missing_artefact_and_a_broken_manifest():
    with pytest.raises(StoreError, match="has not been made"):
        store.load("things", CONFIG)
    (make().path / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(StoreError, match="manifest.json cannot be read.*delete the folder"):
        store.load("things", CONFIG)


@pytest.mark.parametrize("problem", [KeyboardInterrupt(), ValueError("no")])
def test_an_interrupted_making_leaves_nothing(cache, problem):
    with pytest.raises(type(problem)), store.create("things", CONFIG) as folder:
        (folder / "a.txt").write_text("half", encoding="utf-8")
        raise problem
    assert list((cache / "things").iterdir()) == []


def test_a_full_disk_is_one_clear_message_and_leaves_nothing(cache):
    with (
        pytest.raises(StoreError, match="the disk is full .* MB left.*FEATINT_CACHE"),
        store.create("things", CONFIG) as folder,
    ):
        (folder / "a.txt").write_text("half", encoding="utf-8")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list((cache / "things").iterdir()) == []


def test_a_full_disk_during_an_atomic_write_keeps_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "x.json"
    store.write_json(file, {"a": 1})

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store.os, "replace", full)
    with pytest.raises(StoreError, match="the disk is full"):
        store.write_json(file, {"a": 2})
    assert json.loads(file.read_text(encoding="utf-8")) == {"a": 1}
    assert [f.name for f in tmp_path.iterdir()] == ["x.json"]


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError):
        store.write_json(tmp_path / "x.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []


def closed(folder):
    """A folder that takes no files, from root either: a file stands in its place."""
    folder.write_text("", encoding="utf-8")
    return folder


def test_a_folder_that_takes_no_files_is_named_with_what_helps(tmp_path, monkeypatch):
    monkeypatch.setenv("FEATINT_CACHE", str(closed(tmp_path / "file")))
    with pytest.raises(StoreError, match=r"things takes no files \(Not a.*FEATINT_CACHE"):
        make()
    with pytest.raises(StoreError, match="takes no files .*; my remedy"):
        store.writable(tmp_path / "file" / "a", "my remedy")
    with pytest.raises(StoreError, match="takes no files"):
        store.write_json(tmp_path / "file" / "a.json", {})
    store.writable(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []


def test_somebody_without_name_and_home_is_told_the_variable(monkeypatch):
    def nobody(*_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(store.Path, "home", nobody)
    assert store.cache()
    monkeypatch.delenv("FEATINT_CACHE")
    with pytest.raises(StoreError, match="home directory. Set FEATINT_CACHE"):
        store.cache()


def test_a_stamp_holds_the_versions_of_what_is_there(monkeypatch):
    """The library alone has no papermill; that must not cost a trained model."""
    real = store.metadata.version

    def version(name):
        if name == "papermill":
            raise store.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(store.metadata, "version", version)
    make()
    versions = store.load("things", CONFIG).manifest["provenance"]["versions"]
    assert "papermill" not in versions and "numpy" in versions
