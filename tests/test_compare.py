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
    assert "\n1 values in both (1 by tolerance (0.01)); 0 moved.\n" in said
    assert said.endswith(
        "\n\nChapters only in A: behaviour, seeds\nOnly in A, norms: sae/dropped/controlled\n"
        "Only in B, norms: sae/new/controlled, sae/newer/controlled"
    )


def test_command_line(write, capsys):
    write("laptop", "norms", rho=value(-0.5, (-0.6, -0.4)), r=value(2.0))
    write("custom/laptop-1234", "norms", rho=value(-0.9, (-1.0, -0.8)), r=value(2.01))
    assert cli.main(["compare", "laptop", "custom/laptop-1234"]) == 0
    out = capsys.readouterr().out
    assert "2 values in both (1 by intervals, 1 by tolerance (0.01)); 1 moved." in out
    assert [line.split() for line in out.splitlines()[-2:]] == [
        "chapter id unit A B judged by".split(),
        "norms sae/rho/controlled % −0.5 [−0.6, −0.4] −0.9 [−1, −0.8] intervals".split(),
    ]
    assert cli.main(["compare", "laptop", "custom/laptop-1234", "--tolerance", "0.001"]) == 0
    assert "2 moved" in capsys.readouterr().out


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
    assert f"{file} is not JSON" in capsys.readouterr().err
