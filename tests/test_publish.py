"""Publishing results, in a repository of its own: what is written, what is refused and named."""

import json
import shutil
import subprocess

import pytest

from companion import ledger, places, profiles, results
from companion.places import PROJECT
from featint import store

STAMP = {"commit": "0123456789ab", "processor": "Some CPU", "memory_gb": 8.0}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A repository with published results of `laptop`, and the same computed here, one value of
    the chapter on norms apart."""
    monkeypatch.syspath_prepend(PROJECT / "book" / "_tools")
    for name, place in {"PROJECT": "", "PUBLISHED": "data/results", "RESULTS": "results"}.items():
        monkeypatch.setattr(places, name, tmp_path / place)
    committed = tmp_path / "data/results/laptop"
    shutil.copytree(PROJECT / "data/results/laptop", committed)
    shutil.copy(PROJECT / ".gitignore", tmp_path)
    git(tmp_path, "init", "--quiet")
    commit(tmp_path)
    edit(committed / "norms.json", tmp_path / "results/laptop/norms.json")
    return tmp_path


def git(folder, *words) -> str:
    me = ["-c", "user.name=a", "-c", "user.email=a@b"]
    command = ["git", *me, *words]
    return subprocess.run(
        command, cwd=folder, check=True, capture_output=True, encoding="utf-8"
    ).stdout


def commit(folder):
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "x")


def edit(source, target, value=0.5, **stamp):
    """Write a results file with another p value of the dip test, computed by a commit's code."""
    content = store.read_json(source, "restore it")
    content["provenance"] |= STAMP | stamp
    content["values"]["joint/dip_p/controlled"]["value"] = value
    store.write_json(target, content | {"sha256": store.digest(content)})


def publish():
    import publish_results

    return publish_results.publish(profiles.laptop())


def test_what_is_computed_here_is_no_change(project):
    """The files of a profile, of one with a parameter turned, and their ledgers."""
    saved = results.table(places.RESULTS / "laptop/norms.json")
    for profile in (profiles.full(), profiles.get("laptop", k=3), profiles.smoke()):
        file = results.save(profile, "norms", saved, seed=0)
        assert ledger.write(profile).parent == file.parent and places.RESULTS in file.parents
        stamp = json.loads(file.read_text(encoding="utf-8"))["provenance"]
        assert stamp["memory_gb"] > 0.1 and stamp["processor"]
    assert git(project, "status", "--short") == ""


def test_exactly_the_results_change_and_what_changed_is_said(project):
    said = publish()
    changed = git(project, "status", "--short").split()
    assert changed[::2] == ["M"] * (len(changed) // 2)
    assert set(changed[1::2]) <= {f"data/results/laptop/{x}.json" for x in ("norms", "ledger")}
    published = places.PUBLISHED / "laptop"
    assert (published / "norms.json").read_bytes() == (
        places.RESULTS / "laptop/norms.json"
    ).read_bytes()
    rows = json.loads((published / "ledger.json").read_text(encoding="utf-8"))
    assert rows == ledger.build(profiles.laptop(), published)
    assert "norms.json: commit 0123456789ab, Some CPU, 8.0 GB, " in said
    assert "joint/dip_p/controlled" in said and "1 moved" in said
    assert "sqnorm_low_mode" not in said, "p = 0.5 does not reject either"


def test_a_verdict_that_changes_is_said_and_written(project):
    edit(places.RESULTS / "laptop/norms.json", places.RESULTS / "laptop/norms.json", 0.001)
    assert "sqnorm_low_mode: A undecided, B reproduced" in publish()
    rows = json.loads((places.PUBLISHED / "laptop/ledger.json").read_text(encoding="utf-8"))
    assert {row["id"]: row["verdict"] for row in rows}["sqnorm_low_mode"] == "reproduced"


def test_publishing_again_goes_on_where_it_was_interrupted(project):
    publish()
    git(project, "checkout", "--quiet", "data/results/laptop/ledger.json")
    assert "0 moved" in publish()


@pytest.mark.parametrize("name", ["book.md", "new file.md", "data/results/laptop/seeds.json"])
def test_other_changes_are_refused_by_name(project, name):
    (project / "book.md").write_text("a", encoding="utf-8")
    commit(project)
    before = (places.PUBLISHED / "laptop/norms.json").read_bytes()
    (project / name).write_text("b", encoding="utf-8")
    with pytest.raises(store.StoreError, match=f"changes besides the results: {name}; commit"):
        publish()
    assert (places.PUBLISHED / "laptop/norms.json").read_bytes() == before


def changed(**parts):
    """A change of a results file's content."""
    return lambda content: content | parts


def without_unit(content):
    content["values"]["joint/dip_p/controlled"]["unit"] = "%"
    return content


def renamed(content):
    content["values"]["joint/other"] = content["values"].pop("joint/dip_p/controlled")
    return content


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed(chapter="seeds"), "says that it is seeds of the profile laptop"),
        (changed(profile="full"), "says that it is norms of the profile full"),
        (renamed, "'joint/other' must be called 'joint/dip_p/controlled'"),
        (without_unit, "norms:joint/dip_p/controlled are in '%'"),
        (
            changed(provenance=STAMP | {"commit": "0123+changes"}),
            r"no commit holds \(0123\+changes",
        ),
        (changed(provenance=STAMP | {"commit": "unknown"}), "no commit holds"),
        (changed(values={}), "numbers of the paper would be pending, e.g."),
    ],
)
def test_files_that_cannot_be_published_change_nothing(project, change, said):
    file = places.RESULTS / "laptop/norms.json"
    content = change(store.read_json(file, "restore it"))
    store.write_json(file, content | {"sha256": store.digest(content)})
    with pytest.raises(store.StoreError, match=said):
        publish()
    assert git(project, "status", "--short") == ""


def test_without_results_or_git_nothing_is_published(project):
    shutil.rmtree(project / ".git")
    with pytest.raises(store.StoreError, match="from a git checkout"):
        publish()
    shutil.rmtree(places.RESULTS)
    with pytest.raises(store.StoreError, match="holds no results; `make book PROFILE=laptop`"):
        publish()
    assert not results.files(places.RESULTS / "laptop")
