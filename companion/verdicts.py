"""The rules by which a number of the paper is compared with ours. They were written before the
first result was computed.

A rule is a function and its docstring, a paragraph for readers that says what the function does. It
sees an entry of `data/paper_values.json` and the measured values that its other parameters name,
each a row of `estimates.tidy` (None where the entry names no result for it), and returns a verdict
and the half-sentence that explains it.
"""

import inspect
import math
from collections.abc import Callable

from companion.estimates import number

VERDICTS = ("reproduced", "partly", "not reproduced", "not testable here", "setting", "pending")
TOLERANCE, HALF, ALPHA = 0.25, 0.5, 0.05
Judgement = tuple[str, str]


def bounds(ours) -> tuple[float, float]:
    """The interval; without one, nothing is known beyond the value, and every bound is open."""
    return (-math.inf, math.inf) if ours.lo is None else (ours.lo, ours.hi)


def wholly_on(side: int, ours) -> bool:
    """Whether the whole interval lies on that side (+1 or -1) of zero. A value without an interval
    never does."""
    low, high = bounds(ours)
    return low > 0 if side > 0 else high < 0


def in_paper_units(entry: dict) -> float | str | list:
    """The paper's number in the unit in which ours is given."""
    return entry["compare"]["value"] if "compare" in entry else entry["paper"]


def closeness(entry: dict, ours) -> Judgement:
    """`agrees`, `undecided` or `differs`, as the rule `size` says."""
    paper = in_paper_units(entry)
    band, share = TOLERANCE * abs(paper), f"{100 * TOLERANCE:.0f} %"
    low, high = (ours.value, ours.value) if ours.lo is None else bounds(ours)
    near = abs(ours.value - paper) <= band
    if near and max(abs(low - paper), abs(high - paper)) <= 2 * band:
        state, reason = "agrees", f"within {share} of"
    elif near or (low <= paper + band and high >= paper - band):
        state, reason = "undecided", f"too uncertain to tell whether it lies within {share} of"
    else:
        state, reason = "differs", f"more than {share} away from"
    return state, f"{reason} the paper's {number(paper)}"


def effect(entry: dict, controlled) -> Judgement:
    """An improvement over a proper baseline. *Reproduced* if the whole 95 % interval of the
    controlled value reaches at least half of the paper's figure; *partly* if it lies wholly on the
    claimed side of zero but not wholly beyond that half; *not reproduced* if it includes zero or
    lies on the other side. A value without an interval is at most *partly* reproduced. The
    as-published number is shown, but does not decide: it answers another question."""
    half = HALF * in_paper_units(entry)
    side = 1 if half > 0 else -1
    low, high = sorted(side * x for x in bounds(controlled))
    if controlled.lo is None:
        verdict, on = ("partly", "on") if side * controlled.value > 0 else ("not reproduced", "off")
        return verdict, f"the controlled value lies {on} the claimed side, without an interval"
    if high < 0:
        return "not reproduced", "the controlled interval lies on the other side of zero"
    if low <= 0:
        wide = ", so wide that it also reaches half of the paper's value" * (high >= abs(half))
        return "not reproduced", f"the controlled interval includes zero{wide}"
    figure = f"half of the paper's value ({number(half)})"
    if low >= abs(half):
        return "reproduced", f"the whole controlled interval reaches {figure}"
    short = "stays short of" if high < abs(half) else "does not decide about"
    reason = "the controlled interval lies on the claimed side of zero, but"
    return "partly", f"{reason} {short} {figure}"


def sign(entry: dict, controlled) -> Judgement:
    """A claim about the direction of a difference, whose printed figure (a t value, a p bound, a
    range) depends on how much was measured. *Reproduced* if the whole 95 % interval of the
    controlled difference lies on the claimed side of zero, else *not reproduced*."""
    on = wholly_on(entry["side"], controlled)
    verdict, lies = ("reproduced", "lies") if on else ("not reproduced", "does not lie")
    return verdict, f"the controlled interval {lies} wholly on the claimed side of zero"


def size(entry: dict, as_published, controlled) -> Judgement:
    """A measured level, share or ratio. A value of ours agrees if it lies within 25 % of the
    paper's and its 95 % interval, if it has one, within 50 %; it is undecided if its interval
    leaves that open. *Reproduced* if the value as published and, where there is one, the controlled
    value agree; *partly* if only one agrees or any is undecided; else *not reproduced*. A level may
    differ because the language model and the sizes do; that touches no claim by itself."""
    close = {"the value as published": closeness(entry, as_published)}
    if controlled is not None:
        close["the controlled value"] = closeness(entry, controlled)
    states = " ".join({state for state, _ in close.values()})
    verdict = {"agrees": "reproduced", "differs": "not reproduced"}.get(states, "partly")
    return verdict, " and ".join(f"{name} is {reason}" for name, (_, reason) in close.items())


def reading(entry: dict, as_published, controlled) -> Judgement:
    """A number that carries an interpretation. *Reproduced* if the value as published agrees with
    the paper's (as in *size*) and the controlled analysis, a difference or correlation with its 95
    % interval wholly on the claimed side of zero, supports the interpretation; *partly* if one of
    the two holds; *not reproduced* if neither does."""
    state, reason = closeness(entry, as_published)
    supported = wholly_on(entry["side"], controlled)
    verdict = ("not reproduced", "partly", "reproduced")[(state == "agrees") + supported]
    says = f"the controlled interval {'supports' if supported else 'does not support'}"
    return verdict, f"the value as published is {reason}, and {says} the interpretation"


def arithmetic(entry: dict, as_published, controlled) -> Judgement:
    """A count that follows from the sizes. *Reproduced* if it comes out as printed, to one unit of
    the last printed digit, under the paper's and under a consistent definition; *partly* if under
    one of them only; else *not reproduced*."""
    given = [x for x in (as_published, controlled) if x is not None]
    exact = sum(abs(x.value - entry["paper"]) <= entry["step"] for x in given)
    verdict = "reproduced" if exact == len(given) else "partly" if exact else "not reproduced"
    return verdict, f"{exact} of {len(given)} ways of counting come out as printed"


def significance(entry: dict, p_value) -> Judgement:
    """The outcome of a significance test that is said to find something. *Reproduced* if the
    controlled test, after correction for the number of tests, rejects at 5 %; else *not
    reproduced*, which is no proof of absence."""
    rejects = p_value.value < ALPHA
    verdict, does = ("reproduced", "rejects") if rejects else ("not reproduced", "does not reject")
    corrected = f"corrected p = {number(p_value['value'])}"
    return verdict, f"the controlled test {does} at {100 * ALPHA:.0f} % ({corrected})"


def absence(entry: dict, controlled) -> Judgement:
    """A claim that there is no effect. The controlled value is in units of the smallest effect that
    would matter, stated in its chapter. *Reproduced* if its whole 95 % interval lies between -1 and
    1; *not reproduced* if the interval excludes zero and reaches beyond; *partly* if it includes
    zero and reaches beyond, or is missing: then nothing is shown either way."""
    low, high = bounds(controlled)
    smallest = "within the smallest effect that would matter"
    if -1 < low and high < 1:
        verdict, does = "reproduced", f"lies {smallest}"
    elif low > 0 or high < 0:
        verdict, does = "not reproduced", f"excludes zero and is not {smallest}"
    else:
        verdict, does = "partly", "excludes neither zero nor an effect that would matter"
    return verdict, f"the controlled interval {does}"


def setting(entry: dict, controlled) -> Judgement:
    """A hyperparameter of the paper, with the one used here; there is nothing to judge."""
    return "setting", ""


def untestable(entry: dict) -> Judgement:
    """A number that no other set-up can test: an index or an activation of the author's own
    checkpoint, which is not released, a level that is set by the width of the activations, a
    machine. *Not testable here*; where the same quantity was measured here, it is shown."""
    return "not testable here", entry["reason"]


_rules = (effect, sign, size, reading, arithmetic, significance, absence, setting, untestable)
RULES: dict[str, Callable[..., Judgement]] = {rule.__name__: rule for rule in _rules}


def reads(rule: str) -> list[str]:
    """The measured values that a rule's verdict rests on: of `as_published`, `controlled`,
    `p_value`."""
    return list(inspect.signature(RULES[rule]).parameters)[1:]
