"""Each rule does what its text says, at and around its boundaries."""

import itertools
import math

import pytest

from companion.estimates import tidy
from companion.verdicts import RULES, VERDICTS, bounds, reads


def value(value, ci=None, n=100, unit="%"):
    lo, hi = ci or (None, None)
    row = {"model": "joint", "quantity": "gain", "value": value, "lo": lo, "hi": hi, "n": n}
    return tidy([row], of="articles", unit=unit).iloc[0]


def judge(rule, *values, paper=40.0, **entry):
    verdict, _ = RULES[rule]({"paper": paper} | entry, *values)
    assert verdict in VERDICTS
    return verdict


def at_99(lo, hi, of="articles", n=100):
    """A value whose 99 % interval has these ends: the 95 % interval is narrower by the quantiles' ratio."""
    narrower = {"articles": 1.984217 / 2.626405, "seeds": 2.776445 / 4.604095}[of.split()[-1]]
    middle, half = (lo + hi) / 2, (hi - lo) / 2 * narrower
    row = {
        "model": "joint",
        "quantity": "gain",
        "value": middle,
        "lo": middle - half,
        "hi": middle + half,
    }
    return tidy([row], n=n, of=of, unit="%").iloc[0]


@pytest.mark.parametrize(
    ("of", "n"), [("articles", 100), ("seeds", 5), ("articles x 5 seeds", 1500)]
)
def test_verdicts_rest_on_99_per_cent_intervals(of, n):
    assert bounds(at_99(-3, 5, of, n)) == pytest.approx((-3, 5), rel=1e-4)
    assert bounds(value(1)) == bounds(None) == (-math.inf, math.inf)
    skewed = value(1.0, (0.0, 3.0))
    assert bounds(skewed) == pytest.approx((1 - 1.323648, 1 + 2 * 1.323648), rel=1e-4)


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [
        ((20.1, 40), "reproduced"),
        ((70, 90), "reproduced"),
        ((19.9, 40), "undecided"),
        ((4.1, 19.9), "partly"),
        ((3.9, 19.9), "undecided"),
        ((4.1, 20.1), "undecided"),
        ((1, 3.9), "not reproduced"),
        ((-1, 3.9), "not reproduced"),
        ((-1, 4.1), "undecided"),
        ((-1, 61), "undecided"),
        ((-40, -20), "not reproduced"),
        (None, "undecided"),
    ],
)
@pytest.mark.parametrize("side", [1, -1])
def test_effect(ends, verdict, side):
    """The paper's figure is 40, ours as given; then the same in a unit a hundred times as large."""
    for scale in (1, 0.01):
        ours = at_99(*sorted(side * scale * x for x in ends)) if ends else value(side * 30.0)
        assert judge("effect", ours, paper=side * scale * 40.0) == verdict


@pytest.mark.parametrize(
    ("ends", "published", "signed", "verdict"),
    [
        ((0.1, 2), 5, True, "reproduced"),
        ((0.1, 2), -5, True, "partly"),
        ((0.1, 2), -5, False, "reproduced"),
        ((-0.1, 2), 5, True, "undecided"),
        ((-2, -0.1), 5, True, "not reproduced"),
        (None, 5, True, "undecided"),
    ],
)
@pytest.mark.parametrize("side", [1, -1])
def test_sign(ends, published, signed, verdict, side):
    ours = at_99(*sorted(side * x for x in ends)) if ends else value(side)
    assert judge("sign", value(side * published), ours, side=side, signed=signed) == verdict


def test_sign_without_a_value_as_published():
    assert judge("sign", None, at_99(1, 2), side=1, signed=True) == "reproduced"


@pytest.mark.parametrize(
    ("published", "controlled", "verdict"),
    [
        (50, None, "reproduced"),
        (30, 50, "reproduced"),
        (50.1, None, "not reproduced"),
        (29, 51, "not reproduced"),
        (40, 60, "partly"),
        (60, 40, "partly"),
        ((30.1, 49.9), None, "reproduced"),
        ((30.1, 50.1), None, "undecided"),
        ((50.1, 70), None, "not reproduced"),
        ((49.9, 70), None, "undecided"),
        ((29.9, 35), 60, "undecided"),
        ((10, 29.9), (31, 49), "partly"),
        (None, 45, "reproduced"),
    ],
)
def test_size(published, controlled, verdict):
    given = [at_99(*x) if isinstance(x, tuple) else x and value(x) for x in (published, controlled)]
    assert judge("size", *given) == verdict


def test_size_compares_in_the_unit_of_ours():
    assert (
        judge("size", value(2.05), None, paper=105, compare={"value": 2.1, "unit": "%"})
        == "reproduced"
    )


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [(80.6, "not reproduced"), (83.1, "reproduced"), (89.7, "reproduced"), (90, "not reproduced")],
)
def test_explained_variance_is_compared_by_what_is_left(ours, verdict):
    """The paper explains 86.4 % and leaves 13.6; within a quarter are 10.2 to 17, that is 83 to 89.8 % explained."""
    assert judge("size", value(ours), None, paper=86.4, share_of=100) == verdict


@pytest.mark.parametrize(
    ("published", "ends", "same", "verdict"),
    [
        (-40, (-5, -1), False, "reproduced"),
        (-40, (-5, 1), False, "undecided"),
        (-40, (1, 5), False, "partly"),
        (-90, (-5, -1), False, "partly"),
        (-90, (1, 5), False, "not reproduced"),
        (40, (1, 5), False, "not reproduced"),
        ((-40, -20), (-5, -1), False, "undecided"),
        (-40, (-30, -21), True, "reproduced"),
        (-40, (-30, -19), True, "undecided"),
        (-40, (-19, -10), True, "partly"),
    ],
)
def test_reading(published, ends, same, verdict):
    """Half of the paper's figure, 20, is asked for where the controlled value is the printed quantity itself."""
    given = at_99(*published) if isinstance(published, tuple) else value(published)
    ours = at_99(*ends)
    ours["quantity"] = "gain" if same else "another"
    assert judge("reading", given, ours, paper=-40.0, side=-1) == verdict


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
    ("p", "ends", "verdict"),
    [
        (0.0099, None, "reproduced"),
        (0.0099, (-0.9, 0.9), "reproduced"),
        (0.01, None, "undecided"),
        (1.0, (-0.9, 0.9), "not reproduced"),
        (1.0, (-1.1, 0.9), "undecided"),
        (1.0, (-0.9, 1.1), "undecided"),
    ],
)
def test_significance(p, ends, verdict):
    assert judge("significance", value(p, unit="p"), ends and at_99(*ends)) == verdict


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [
        ((-0.9, 0.9), "reproduced"),
        ((0.1, 0.9), "reproduced"),
        ((-1.1, 0.5), "undecided"),
        ((-0.5, 1.1), "undecided"),
        ((0.5, 1.5), "undecided"),
        ((1.1, 1.5), "not reproduced"),
        ((-3, -1.1), "not reproduced"),
        (None, "undecided"),
    ],
)
def test_absence(ends, verdict):
    assert judge("absence", at_99(*ends) if ends else value(0.0)) == verdict


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
        published = [] if rule == "effect" else [value(40.0 * side)]
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
        "sign": both,
        "size": both,
        "reading": both,
        "arithmetic": both,
        "significance": ["p_value", "in_bounds"],
        "absence": ["controlled"],
        "setting": ["controlled"],
        "untestable": [],
    }


TENTH, HALF = "a tenth of the paper's value (4)", "half of the paper's value (20)"
QUARTER = "25 % of the paper's 40"


@pytest.mark.parametrize(
    ("rule", "values", "reason"),
    [
        ("effect", [(21, 40)], f"the whole controlled interval reaches {HALF}"),
        ("effect", [(5, 15)], f"the controlled interval lies between {TENTH} and {HALF}"),
        ("effect", [(5, 25)], f"the controlled interval does not decide about {HALF}"),
        ("effect", [(-5, 25)], f"the controlled interval does not decide about {TENTH} or {HALF}"),
        ("effect", [(-5, 3)], f"the controlled interval lies wholly below {TENTH}"),
        (
            "effect",
            [(1, 3)],
            f"the controlled interval lies wholly below {TENTH}, though on the claimed side of zero",
        ),
        ("effect", [(-9, -5)], "the controlled interval lies on the other side of zero"),
        ("sign", [40, (1, 9)], "the controlled interval lies wholly on the claimed side of zero"),
        (
            "sign",
            [-40, (1, 9)],
            "the controlled interval lies wholly on the claimed side of zero, but the value as published lies on the other",
        ),
        ("sign", [40, (-1, 9)], "the controlled interval includes zero"),
        ("sign", [40, (-9, -1)], "the controlled interval lies on the other side of zero"),
        (
            "size",
            [40, 70],
            f"the value as published is within {QUARTER} and the controlled value is not within {QUARTER}",
        ),
        (
            "size",
            [(1, 90), None],
            f"the value as published is too uncertain to tell whether it lies within {QUARTER}",
        ),
        (
            "reading",
            [40, (21, 30)],
            f"the value as published is within {QUARTER}, and the controlled interval supports the interpretation",
        ),
        (
            "reading",
            [40, (-1, 30)],
            f"the value as published is within {QUARTER}, and the controlled interval leaves open the interpretation",
        ),
        (
            "reading",
            [90, (1, 19)],
            f"the value as published is not within {QUARTER}, and the controlled interval does not support the interpretation",
        ),
        ("arithmetic", [40, 50], "1 of 2 ways of counting come out as printed"),
        (
            "significance",
            [0.001, None],
            "the controlled test does reject at 1 % (corrected p = 0.001)",
        ),
        (
            "significance",
            [0.5, None],
            "the controlled test does not reject at 1 % (corrected p = 0.5), which shows nothing either way",
        ),
        (
            "significance",
            [0.5, (-0.5, 0.5)],
            "the controlled test does not reject at 1 % (corrected p = 0.5), and the effect lies within the smallest that would matter",
        ),
        (
            "absence",
            [(-0.5, 0.5)],
            "the controlled interval lies within the smallest effect that would matter",
        ),
        (
            "absence",
            [(2, 3)],
            "the controlled interval lies wholly beyond the smallest effect that would matter",
        ),
        (
            "absence",
            [(-2, 2)],
            "the controlled interval reaches over the smallest effect that would matter",
        ),
        ("untestable", [], "it is the author's machine"),
    ],
)
def test_a_verdict_says_why(rule, values, reason):
    given = [at_99(*x) if isinstance(x, tuple) else x and value(x) for x in values]
    entry = {
        "paper": 40.0,
        "side": 1,
        "step": 1,
        "signed": True,
        "reason": "it is the author's machine",
    }
    assert RULES[rule](entry, *given)[1] == reason


def test_explained_variance_says_what_it_is_a_share_of():
    near, far = (
        RULES["size"]({"paper": 86.4, "share_of": 100}, value(x), None)[1] for x in (88, 80.6)
    )
    assert near == "the value as published is within 25 % of what the paper's 86.4 leaves"
    assert far == "the value as published is not within 25 % of what the paper's 86.4 leaves"
