"""The search for faults that no test notices: which changes it makes, and that it judges them rightly."""

import json
import subprocess
import sys
from pathlib import Path

import mutants

TOY = '''"""A toy."""

LIMIT = 3


def grow(x: int, by: int = 1) -> int:
    """One more."""
    if x > LIMIT:
        raise ValueError("more than " + str(LIMIT))
    return x + by


class Pair:
    both = 2

    @property
    def twice(self) -> int:
        return self.both * 2


TABLE = grow(2)


def down(n):
    while n > 0:
        n -= 1
    return n


def nobody(x):
    return -x
'''
TESTS = """
import pytest
import toy

def test_grow():
    assert toy.grow(3) == 4 and toy.grow(1, 3) == 4 and toy.TABLE == 3
    with pytest.raises(ValueError):
        toy.grow(4)

def test_twice():
    assert toy.Pair().twice == 4

def test_down():
    assert toy.down(3) == 0 and toy.down(0) == 0
"""


def test_changes_and_what_is_left_out():
    source = '"""Text."""\n\n\ndef f(x: "str") -> int:\n    """More."""\n    return x + 1\n'
    assert [(m.line, m.change, m.function) for m in mutants.mutants(source)] == [
        (6, "- return x + 1\n+ return x - 1", "f"),
        (6, "- return x + 1\n+ return x + 2", "f"),
    ]
    assert "".join(m.source for m in mutants.mutants(source)).count("More.") == 2, "whole modules"
    for silent in (
        'raise ValueError(f"{1}")',
        'assert x == 1, "text"',
        'print("text")',
        "import a as b",
        'y: Float["n"]',
    ):
        assert not mutants.mutants(silent), silent
    changes = [m.change for m in mutants.mutants("show(a, caption='text', alt='text', n=1)")]
    assert [change.split("+ ")[1] for change in changes] == [
        "show(caption='text', alt='text', n=1)",
        "show(a, caption='text', alt='text', )",
        "show(a, caption='text', alt='text', n=2)",
    ]
    assert [
        m.function for m in mutants.mutants("class A:\n    def f(self, n=1):\n        n = 2\n")
    ] == [None, "A.f", "A.f"], "a default acts on import"


def test_a_toy_is_judged_and_judged_once(tmp_path):
    (tmp_path / "toy.py").write_text(TOY, encoding="utf-8")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_toy.py").write_text(TESTS, encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\npythonpath = ["."]\n', encoding="utf-8"
    )

    def run(share=1):
        program = (
            f"import json, mutants; from pathlib import Path; mutants.GRACE = 1; p = Path({str(tmp_path)!r})\n"
            f"print(json.dumps(mutants.try_out('toy', {share}, p, p)))"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=Path(__file__).parent,
            capture_output=True,
            encoding="utf-8",
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    tried = run()
    by = {x["change"].split("\n")[1]: x["outcome"] for x in tried}
    assert by.pop("+ n += 1") == "timeout"
    survived = {change for change, outcome in by.items() if outcome == "survived"}
    assert survived == {"+ return +x"}
    killed = {"+ LIMIT = 4", "+ if x >= LIMIT:", "+ return self.both / 2", "+ TABLE = grow(3)"}
    assert killed | {"+ both = 3", "+ def grow(x: int, by: int = 2) -> int:"} <= set(by)
    file = tmp_path / "toy.jsonl"
    before = file.read_text(encoding="utf-8")
    assert run() == tried and file.read_text(encoding="utf-8") == before, "known results are kept"
    assert 0 < len(run(0.5)) < len(tried)
    text, score = mutants.report({"toy": tried})
    assert "toy.py:31\n- return -x\n+ return +x" in text
    assert abs(score - 100 * (1 - 1 / len(tried))) < 1e-9
    (tmp_path / "tests" / "test_toy.py").write_text(
        TESTS + "    assert toy.nobody(1) == -1\n", encoding="utf-8"
    )
    assert mutants.report({"toy": run()})[1] == 100, "other tests, another judgement"


def test_every_counted_module_is_there_and_has_tests():
    assert {"companion/estimates", "featint/metrics"} < set(mutants.counted())
