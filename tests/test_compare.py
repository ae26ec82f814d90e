"""Comparing two runs: moved or not by hand-made cases, what is missing, and mistakes."""

import pytest

from companion import cli, compare, estimates, places, results
from featint import store


class Run:
    """A profile as far as results need one."""

    def __init__(self, label):
        self.label = label


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Saves a chapter's values, given by name, and returns the run's folder."""
    monkeypatch.setattr(places, "RESULTS", tmp_path)
    monkeypatch.setattr(places, "PUBLISHED", tmp_path / "published")

    def save(label, chapter, **values):
        frame = estimates.tidy([v | {"quantity": name} for name, v in values.items()])
        return results.save(Run(label), chapter, frame, seed=0).parent

    return save


def value(x, ci=None, unit="%", of="articles", protocol="controlled"):
    lo, hi = ci or (None, None)
    names = {"model": "sae", "protocol": protocol}
    return names | {"value": x, "lo": lo, "hi": hi, "n": 10, "of": of, "unit": unit}


@pytest.mark.parametrize(
    ("a", "b", "by", "moved"),
    [
        (value(1.0, (0.8, 1.2)), value(1.1, (0.9, 1.3)), "intervals", False),
        (
            value(1.0, (0.8, 1.2)),
            value(1.3, (0.9, 1.7)),
            "intervals",
            False,
        ),  # A lies in B's interval
        (
            value(1.0, (0.8, 1.2)),
            value(1.3, (1.1, 1.5)),
            "intervals",
            True,
        ),  # intervals overlap, neither holds the other's value
        (value(1.0, (0.8, 1.2)), value(1.3), "intervals", True),
        (value(1.3), value(1.0, (0.8, 1.4)), "intervals", False),
        (value(0.8), value(1.0, (0.8, 1.4)), "intervals", False),  # an end belongs to its interval
        (value(1.4), value(1.0, (0.8, 1.4)), "intervals", False),
        (value(100.0), value(100.9), "tolerance", False),
        (value(100.0), value(98.9), "tolerance", True),
        (value(0), value(0.0), "tolerance", False),
        (value(-1.0), value(1.0), "tolerance", True),
        (value(None), value(None), "equality", False),
        (value(None), value(1.0, (0.5, 1.5)), "equality", True),
        (value("two modes"), value("one mode"), "equality", True),
        (value([1, 2]), value([1, 2]), "equality", False),
        (value(1000, protocol="setting"), value(1001, protocol="setting"), "equality", True),
        (value(0.5), value(0.5, unit="share"), "unit", True),
        (value(0.5), value(0.5, of="texts"), "tolerance", False),
    ],
)
def test_moved_or_not(write, a, b, by, moved):
    tables = [results.load(write(label, "norms", x=x)) for label, x in (("a", a), ("b", b))]
    row = compare.common(*tables, tolerance=0.01).iloc[0]
    assert (row["judged by"], row["moved"]) == (by, moved)


def test_missing_and_added_values_and_chapters(write):
    write("a", "norms", kept=value(1.0), dropped=value(2.0))
    write("a", "behaviour", kl=value(1.0))
    write("a", "seeds", share=value(1.0))
    b = write("b", "norms", kept=value(1.0), new=value(3.0), newer=value(3.0))
    store.write_json(b / "ledger.json", [{"id": "not a results file"}])
    said = compare.report(compare.folder("a"), compare.folder(str(b)), tolerance=0.01)
    assert said.startswith(
        "In both: norms.json\n1 values in both (1 by tolerance (0.01)); "
        "0 moved, 0 to disjoint intervals; 0 changed sign.\n"
    )
    assert said.endswith(
        "\n\nChapters only in A: behaviour, seeds\nOnly in A, norms: sae/dropped/controlled\n"
        "Only in B, norms: sae/new/controlled, sae/newer/controlled"
    )


def test_command_line(write, capsys):
    write("laptop", "norms", rho=value(-0.5, (-0.6, -0.4)), r=value(2.0))
    write("custom/laptop-1234", "norms", rho=value(-0.9, (-1.0, -0.8)), r=value(2.01))
    assert cli.main(["compare", "laptop", "custom/laptop-1234"]) == 0
    out = capsys.readouterr().out
    assert "2 values in both (1 by intervals, 1 by tolerance (0.01)); 1 moved, 1 to disj" in out
    assert [line.split() for line in out.splitlines()[-2:]] == [
        "chapter id unit A B judged by apart".split(),
        "norms sae/rho/controlled % −0.5 [−0.6, −0.4] −0.9 [−1, −0.8] intervals disjoint".split(),
    ]
    assert cli.main(["compare", "laptop", "custom/laptop-1234", "--tolerance", "0.001"]) == 0
    assert "2 moved" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("a", "b", "found"),
    [
        (value(1.0, (0.8, 1.2)), value(1.5, (1.3, 1.7)), "disjoint"),
        (value(1.5, (1.3, 1.7)), value(1.0, (0.8, 1.2)), "disjoint"),
        (value(1.0, (0.8, 1.2)), value(1.3, (1.2, 1.5)), ""),  # they share an end
        (value(0.1, (-0.2, 0.3)), value(-0.1, (-0.3, 0.2)), "opposite"),  # neither moved
        (value(1.0, (0.5, 1.5)), value(-1.0, (-1.5, -0.5)), "disjoint opposite"),
        (value(1.0), value(-1.0), "opposite"),
        (value(0.0), value(-1.0), ""),
        (value(1.0, (0.8, 1.2)), value(None), ""),
        (value("two modes"), value("one mode"), ""),
        (value([1, 2]), value([3, 4]), ""),
    ],
)
def test_disjoint_intervals_and_opposite_signs(write, a, b, found):
    tables = [results.load(write(label, "norms", x=x)) for label, x in (("a", a), ("b", b))]
    assert compare.common(*tables, tolerance=0.01).iloc[0]["apart"] == found


def test_a_sign_that_changed_is_listed_even_if_nothing_moved(write):
    a = write("a", "norms", x=value(0.1, (-0.2, 0.3)), y=value(1.0))
    b = write("b", "norms", x=value(-0.1, (-0.3, 0.2)), y=value(1.0))
    said = compare.report(a, b)
    assert "0 moved, 0 to disjoint intervals; 1 changed sign" in said
    assert said.endswith("intervals opposite") and "sae/y" not in said


def test_verdicts_that_differ_are_listed(write):
    a, b = (write(label, "norms", x=value(1.0)) for label in "ab")
    for place, verdicts in {a: "partly partly setting", b: "partly reproduced"}.items():
        words = enumerate(verdicts.split())
        store.write_json(
            place / "ledger.json", [{"id": f"n{i}", "verdict": word} for i, word in words]
        )
    said = compare.report(a, b)
    assert said.endswith("\n\n1 of 3 verdicts differ.\nn1: A partly, B reproduced")


def test_by_default_what_is_published_and_what_was_computed_here(write, capsys):
    published = places.PUBLISHED / "laptop" / "norms.json"
    store.write_json(published, results.read(write("laptop", "norms", r=value(2.0)) / "norms.json"))
    own = write("laptop", "norms", r=value(3.0))
    other = write("custom/laptop-1234", "norms", r=value(4.0))
    for words, a, b in [
        ("", published.parent, own),
        ("custom/laptop-1234", published.parent, other),
        ("laptop custom/laptop-1234", own, other),
        (f"{published.parent} laptop", published.parent, own),
    ]:
        assert cli.main(["compare", *words.split()]) == 0
        out = capsys.readouterr().out
        assert out.startswith(f"A: {a}\nB: {b}\nIn both: norms.json\n") and "1 moved" in out
    assert cli.main(["compare", "--profile", "full"]) == 2
    err = capsys.readouterr().err
    assert f"{places.RESULTS / 'full'}' is neither a folder with results" in err
    write("custom/smoke-1234", "norms", r=value(4.0))
    assert cli.main(["compare", "custom/smoke-1234"]) == 2
    err = capsys.readouterr().err
    assert "nothing is published for the profile 'smoke': name two runs to compare" in err


def test_mistakes_are_named(write, capsys):
    file = write("laptop", "norms", r=value(2.0)) / "norms.json"
    write("full", "behaviour", r=value(2.0))
    for words, complaint in [
        (
            "laptop lptop",
            "run = 'lptop' is neither a folder with results nor a label; labels: full, laptop",
        ),
        ("laptop full", "share no chapter: A has norms, B has behaviour"),
        ("laptop laptop --tolerance -1", "tolerance = -1.0 must be"),
    ]:
        assert cli.main(["compare", *words.split()]) == 2
        out, err = capsys.readouterr()
        assert out == "" and complaint in err and err.count("\n") == 1
    file.write_text("{", encoding="utf-8")
    assert cli.main(["compare", "laptop", "laptop"]) == 2
    assert f"{file} cannot be read" in capsys.readouterr().err
