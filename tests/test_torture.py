"""The table of `make torture`: cases and how many held, from the report of its tests."""

import json

import pytest
import torture

from featint import store

REPORT = """<testsuites><testsuite>
<testcase classname="tests.faults.test_kills" name="test_a_step_that_is_killed[train]"><properties><property name="cases" value="5"/></properties></testcase>
<testcase classname="tests.faults.test_kills" name="test_a_step_that_is_killed[atlas]"><properties><property name="cases" value="3"/></properties><failure/></testcase>
<testcase classname="tests.faults.test_faults" name="test_a_disk[ENOSPC-train]"><properties><property name="cases" value="2"/></properties></testcase>
<testcase classname="tests.faults.test_faults" name="test_a_disk[ENOSPC-atlas]"/>
<testcase classname="tests.faults.test_input" name="test_a_table"><skipped/></testcase>
<testcase classname="tests.browser.test_hostile_text" name="test_text[chromium]"><error/></testcase>
</testsuite></testsuites>"""


def test_cases_are_counted_and_none_of_a_test_that_failed_has_held(tmp_path):
    (tmp_path / "report.xml").write_text(REPORT, encoding="utf-8")
    found = [tuple(row.values()) for row in torture.rows(tmp_path / "report.xml", "kills")]
    assert found[:2] == [
        ("kills", "a step that is killed", "train", 5, 5),
        ("kills", "a step that is killed", "atlas", 3, 0),
    ]
    found = [tuple(row.values()) for row in torture.rows(tmp_path / "report.xml", "faults")]
    assert found[1:] == [("faults", "a disk", "", 3, 3), ("faults", "text", "", 1, 0)]


def test_what_was_done_is_kept_and_not_done_again(tmp_path, monkeypatch):
    """Nor is a part kept that another commit has done."""
    done = []

    def run(kind, tests):
        done.append(kind)
        if len(done) == 2:
            raise KeyboardInterrupt
        return [{"kind": kind, "what": "x", "part": "", "cases": 1, "held": kind != "kills"}]

    monkeypatch.setattr(torture, "FILE", tmp_path / "bench" / "torture.json")
    monkeypatch.setattr(torture, "DRAFT", tmp_path / "torture.json")
    monkeypatch.setattr(torture, "PARTS", {"input": [], "kills": []})
    monkeypatch.setattr(torture, "run", run)
    monkeypatch.setattr(store, "commit", lambda: "abc")
    with pytest.raises(KeyboardInterrupt):
        torture.main()
    assert torture.main() == 1, "a part did not hold"
    assert done == ["input", "kills", "kills"] and not torture.DRAFT.exists()
    assert len(store.read_json(torture.FILE, "")["rows"]) == 2
    store.write_json(torture.DRAFT, {"commit": "def", "parts": {"input": {}}})
    assert torture.unfinished() == {}


def test_what_is_published_held_and_is_enough():
    """At least 100 kills and 300 inputs, once `make torture` has been run and its table published."""
    if not torture.FILE.exists():
        pytest.skip("no table of `make torture` is published")
    rows = store.read_json(torture.FILE, "`make torture` writes it")["rows"]
    assert all(row["held"] == row["cases"] for row in rows), json.dumps(rows)
    killed = [row["cases"] for row in rows if "killed" in row["what"]]
    assert sum(killed) >= 100
    assert sum(row["cases"] for row in rows if row["kind"] == "input") >= 300
