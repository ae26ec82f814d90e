"""Each rule does what its text says, at and around its boundaries."""

import itertools

import pytest

from companion.estimates import tidy
from companion.verdicts import RULES, VERDICTS, reads


def value(value, ci=None, n=100, unit="%"):
    lo, hi = ci or (None, None)
    row = {"model": "joint", "quantity": "gain", "value": value, "lo": lo, "hi": hi, "n": n}
    return tidy([row], of="articles", unit=unit).iloc[0]


def judge(rule, *values, paper=40.0, **entry):
    verdict, _ = RULES[rule]({"paper": paper} | entry, *values)
    assert verdict in VERDICTS
    return verdict


@pytest.mark.parametrize(
    ("measured", "ci", "verdict"),
    [
        (30, (20, 40), "reproduced"),
        (80, (70, 90), "reproduced"),
        (30, (19.9, 40), "partly"),
        (3, (1, 5), "partly"),
        (3, (0, 6), "not reproduced"),
        (30, (-1, 61), "not reproduced"),
        (-30, (-40, -20), "not reproduced"),
        (30, None, "partly"),
        (-30, None, "not reproduced"),
        (0, None, "not reproduced"),
    ],
)
@pytest.mark.parametrize("side", [1, -1])
def test_effect(measured, ci, verdict, side):
    """The paper's figure is 40, ours as given; then the same in a unit a hundred times as large."""
    for scale in (1, 0.01):
        mirrored = ci and tuple(sorted(side * scale * x for x in ci))
        ours = value(side * scale * measured, mirrored)
        assert judge("effect", ours, paper=side * scale * 40.0) == verdict


@pytest.mark.parametrize(
    ("ci", "verdict"),
    [
        ((0.1, 2), "reproduced"),
        ((0, 2), "not reproduced"),
        ((-2, -0.1), "not reproduced"),
        (None, "not reproduced"),
    ],
)
@pytest.mark.parametrize("side", [1, -1])
def test_sign(ci, verdict, side):
    mirrored = ci and tuple(sorted(side * x for x in ci))
    assert (
        judge("sign", value(sum(mirrored) / 2 if mirrored else side, mirrored), side=side)
        == verdict
    )


@pytest.mark.parametrize(
    ("published", "controlled", "verdict"),
    [
        ((50, None), None, "reproduced"),
        ((30, None), (50, None), "reproduced"),
        ((50.1, None), None, "not reproduced"),
        ((29, None), (51, None), "not reproduced"),
        ((40, None), (60, None), "partly"),
        ((60, None), (40, None), "partly"),
        ((40, (20, 60)), None, "reproduced"),
        ((40, (19, 60)), None, "partly"),
        ((60, (45, 75)), None, "partly"),
        ((60, (51, 70)), None, "not reproduced"),
        ((60, (50, 70)), None, "partly"),
        ((20, (10, 30)), None, "partly"),
    ],
)
def test_size(published, controlled, verdict):
    assert judge("size", value(*published), controlled and value(*controlled)) == verdict


def test_size_compares_in_the_unit_of_ours():
    assert (
        judge("size", value(2.05), None, paper=105, compare={"value": 2.1, "unit": "%"})
        == "reproduced"
    )


@pytest.mark.parametrize(
    ("published", "ci", "verdict"),
    [
        (-40, (-5, -1), "reproduced"),
        (-40, (-5, 1), "partly"),
        (-90, (-5, -1), "partly"),
        (-90, (-5, 1), "not reproduced"),
        (40, (1, 5), "not reproduced"),
    ],
)
def test_reading(published, ci, verdict):
    assert (
        judge("reading", value(published), value(sum(ci) / 2, ci), paper=-40.0, side=-1) == verdict
    )


@pytest.mark.parametrize(
    ("published", "controlled", "verdict"),
    [
        (32.25, 32.25, "reproduced"),
        (32.25, 35.5, "partly"),
        (35.5, 35.5, "not reproduced"),
        (33, None, "reproduced"),
        (33.01, None, "not reproduced"),
    ],
)
def test_arithmetic(published, controlled, verdict):
    assert (
        judge("arithmetic", value(published), controlled and value(controlled), paper=32.0, step=1)
        == verdict
    )


@pytest.mark.parametrize(
    ("p", "verdict"), [(0.0499, "reproduced"), (0.05, "not reproduced"), (1.0, "not reproduced")]
)
def test_significance(p, verdict):
    assert judge("significance", value(p, unit="p")) == verdict


@pytest.mark.parametrize(
    ("ci", "verdict"),
    [
        ((-0.9, 0.9), "reproduced"),
        ((0.1, 0.9), "reproduced"),
        ((-1, 0.5), "partly"),
        ((-0.5, 1), "partly"),
        ((-2, 2), "partly"),
        ((0.5, 1.5), "not reproduced"),
        ((0, 1.5), "partly"),
        ((-1.5, 0), "partly"),
        ((-3, -2), "not reproduced"),
        (None, "partly"),
    ],
)
def test_absence(ci, verdict):
    assert judge("absence", value(ci and sum(ci) / 2 or 0.0, ci)) == verdict


@pytest.mark.parametrize("rule", ["effect", "sign", "reading"])
@pytest.mark.parametrize("side", [1, -1])
def test_reproduced_implies_an_interval_on_the_claimed_side(rule, side):
    """Over a grid of intervals: whatever else holds, nothing that includes zero or has no interval is called reproduced."""
    reproduced = 0
    for low, width, open_ended in itertools.product(
        range(-80, 81, 8), range(0, 100, 9), (False, True)
    ):
        ci = None if open_ended else (low, low + width)
        measured = value(low + width / 2, ci)
        published = [value(40.0 * side)] if rule == "reading" else []
        if judge(rule, *published, measured, paper=40.0 * side, side=side) == "reproduced":
            reproduced += 1
            assert ci is not None and (ci[0] > 0 if side > 0 else ci[1] < 0)
    assert reproduced > 20


def test_every_rule_has_a_text_and_known_verdicts_only():
    for name, rule in RULES.items():
        assert len(rule.__doc__) > 60
        assert [v for v in VERDICTS if f"*{v}*" in rule.__doc__.lower()] or name == "setting"
    assert RULES["untestable"]({"reason": "a machine"}) == ("not testable here", "a machine")
    assert RULES["setting"]({}, None) == ("setting", "") and "setting" in VERDICTS


def test_rules_read_the_values_that_their_parameters_name():
    both = ["as_published", "controlled"]
    assert {name: reads(name) for name in RULES} == {
        "effect": ["controlled"],
        "sign": ["controlled"],
        "size": both,
        "reading": both,
        "arithmetic": both,
        "significance": ["p_value"],
        "absence": ["controlled"],
        "setting": ["controlled"],
        "untestable": [],
    }


SHORT = "the controlled interval lies on the claimed side of zero, but {} half of the paper's value (20)"


@pytest.mark.parametrize(
    ("rule", "values", "reason"),
    [
        (
            "effect",
            [(30, (20, 40))],
            "the whole controlled interval reaches half of the paper's value (20)",
        ),
        ("effect", [(10, (5, 15))], SHORT.format("stays short of")),
        ("effect", [(10, (5, 20))], SHORT.format("does not decide about")),
        ("effect", [(10, (-5, 15))], "the controlled interval includes zero"),
        (
            "effect",
            [(10, (-5, 20))],
            "the controlled interval includes zero, so wide that it also reaches half of the paper's value",
        ),
        ("effect", [(-5, (-10, 0))], "the controlled interval includes zero"),
        ("effect", [(-9, (-10, -5))], "the controlled interval lies on the other side of zero"),
        (
            "effect",
            [(9, None)],
            "the controlled value lies on the claimed side, without an interval",
        ),
        (
            "effect",
            [(-9, None)],
            "the controlled value lies off the claimed side, without an interval",
        ),
        ("sign", [(9, (1, 10))], "the controlled interval lies wholly on the claimed side of zero"),
        (
            "sign",
            [(9, (-1, 10))],
            "the controlled interval does not lie wholly on the claimed side of zero",
        ),
        (
            "size",
            [(40, None), (70, None)],
            "the value as published is within 25 % of the paper's 40 and the controlled value is more than 25 % away from the paper's 40",
        ),
        (
            "size",
            [(40, (1, 90)), None],
            "the value as published is too uncertain to tell whether it lies within 25 % of the paper's 40",
        ),
        (
            "reading",
            [(40, None), (9, (1, 10))],
            "the value as published is within 25 % of the paper's 40, and the controlled interval supports the interpretation",
        ),
        (
            "reading",
            [(40, None), (9, (-1, 10))],
            "the value as published is within 25 % of the paper's 40, and the controlled interval does not support the interpretation",
        ),
        ("arithmetic", [(40, None), (50, None)], "1 of 2 ways of counting come out as printed"),
        ("significance", [(0.01, None)], "the controlled test rejects at 5 % (corrected p = 0.01)"),
        (
            "significance",
            [(0.5, None)],
            "the controlled test does not reject at 5 % (corrected p = 0.5)",
        ),
        (
            "absence",
            [(0, (-0.5, 0.5))],
            "the controlled interval lies within the smallest effect that would matter",
        ),
        (
            "absence",
            [(2, (1, 3))],
            "the controlled interval excludes zero and is not within the smallest effect that would matter",
        ),
        (
            "absence",
            [(0, (-2, 2))],
            "the controlled interval excludes neither zero nor an effect that would matter",
        ),
        ("untestable", [], "it is the author's machine"),
    ],
)
def test_a_verdict_says_why(rule, values, reason):
    entry = {"paper": 40.0, "side": 1, "step": 1, "reason": "it is the author's machine"}
    assert RULES[rule](entry, *(x and value(*x) for x in values))[1] == reason
