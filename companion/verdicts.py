"""The rules by which a number of the paper is compared with ours.

A rule is a function and its docstring, a paragraph for readers that says what the function does. It
sees an entry of `data/paper_values.json` and the measured values that its other parameters name,
each a row of `estimates.tidy` (None where the entry names no result for it), and returns a verdict
and the half-sentence that explains it.

Every verdict but *undecided* says that a whole interval lies on one side of a border. All of them
are statements about selected intervals, so that they are made at 99 % where readers see 95 %: among
the claims that are decided, at most one in twenty is then expected on the wrong side, as long as a
fifth of all claims are decided (false coverage rate, Benjamini & Yekutieli 2005; the ledger holds
that share).
"""

import inspect
import math
import re
from collections.abc import Callable

from scipy import stats

from companion.estimates import number

VERDICTS = (
    "reproduced",
    "partly",
    "undecided",
    "not reproduced",
    "not comparable",
    "not testable here",
    "setting",
    "pending",
)
DECIDED = ("reproduced", "partly", "not reproduced")
TOLERANCE, TENTH, HALF = 0.25, 0.1, 0.5
ALPHA, SHOWN = 0.01, 0.05
"""One minus the level of the intervals that decide, and of those that readers see."""
DECIDED_SHARE = ALPHA / SHOWN
"""So many of the claims must be decided for the false coverage rate to be `SHOWN` at most."""
Judgement = tuple[str, str]


def bounds(ours) -> tuple[float, float]:
    """The ends of the 99 % interval, from those of the 95 % interval; without one, nothing is known
    beyond the value, and both ends are open."""
    if ours is None or ours.lo is None:
        return -math.inf, math.inf
    seeds = re.search(r"(\d+) seeds", ours.of)  # few, so that their number sets the quantile
    units = int(seeds[1]) if seeds else ours.n or math.inf
    df = max(1, units - 1)
    wider = stats.t.ppf(1 - ALPHA / 2, df) / stats.t.ppf(1 - SHOWN / 2, df)
    below, above = wider * (ours.value - ours.lo), wider * (ours.hi - ours.value)
    return ours.value - below, ours.value + above


def in_paper_units(entry: dict) -> float | str | list:
    """The paper's number in the unit in which ours is given."""
    return entry["compare"]["value"] if "compare" in entry else entry["paper"]


def on_side(side: int, ours, border: float = 0) -> bool | None:
    """Whether the value is on that side (1, -1) of zero, beyond a border; None if that is open."""
    low, high = sorted(side * x for x in bounds(ours))
    return True if low > border else False if high <= border else None


def closeness(entry: dict, ours) -> tuple[bool | None, str]:
    """Whether a value lies within 25 % of the paper's, as the rule `size` says, and in words."""
    whole = entry.get("share_of", 0)  # of what is left of it the distance is a share
    paper = in_paper_units(entry)
    low, high = (ours.value, ours.value) if ours.lo is None else bounds(ours)
    band, theirs = TOLERANCE * abs(whole - paper), f"the paper's {number(paper)}"
    near = f"within {100 * TOLERANCE:.0f} % of " + (f"what {theirs} leaves" if whole else theirs)
    if paper - band <= low and high <= paper + band:
        return True, near
    if low > paper + band or high < paper - band:
        return False, f"not {near}"
    return None, f"too uncertain to tell whether it lies {near}"


def effect(entry: dict, controlled) -> Judgement:
    """An improvement over a proper baseline. *Reproduced* if the whole interval of the controlled
    value reaches at least half of the paper's figure; *partly* if it lies between a tenth and half;
    *not reproduced* if it lies wholly below a tenth, on the claimed side of zero or not;
    *undecided* if it reaches over one of these borders. The as-published number is shown, but does
    not decide: it answers another question."""
    paper = in_paper_units(entry)
    low, high = sorted(math.copysign(1, paper) * x for x in bounds(controlled))
    least, half = TENTH * abs(paper), HALF * abs(paper)
    tenth = f"a tenth of the paper's value ({number(TENTH * paper)})"
    large = f"half of the paper's value ({number(HALF * paper)})"
    if low >= half:
        return "reproduced", f"the whole controlled interval reaches {large}"
    if high < least:
        where = f"wholly below {tenth}" if high > 0 else "on the other side of zero"
        small = ", though on the claimed side of zero" if low > 0 else ""
        return "not reproduced", f"the controlled interval lies {where}{small}"
    if low >= least and high < half:
        return "partly", f"the controlled interval lies between {tenth} and {large}"
    over = [border for border, x in ((tenth, least), (large, half)) if low < x <= high]
    return "undecided", f"the controlled interval does not decide about {' or '.join(over)}"


def sign(entry: dict, as_published, controlled) -> Judgement:
    """A claim about the direction of a difference, whose printed figure (a t value, a p bound, a
    range) depends on how much was measured. *Reproduced* if the whole interval of the controlled
    difference lies on the claimed side of zero, *partly* if it does, but the value as published,
    where it has a sign, lies on the other; *not reproduced* if it lies wholly on the other side;
    *undecided* if it includes zero."""
    on, side = on_side(entry["side"], controlled), entry["side"]
    if on is None:
        return "undecided", "the controlled interval includes zero"
    if not on:
        return "not reproduced", "the controlled interval lies on the other side of zero"
    reason = "the controlled interval lies wholly on the claimed side of zero"
    if entry.get("signed") and as_published is not None and side * as_published.value < 0:
        return "partly", f"{reason}, but the value as published lies on the other"
    return "reproduced", reason


def size(entry: dict, as_published, controlled) -> Judgement:
    """A measured level, share or ratio. A value of ours agrees if it and its whole interval, where
    it has one, lie within 25 % of the paper's, and differs if they lie wholly outside; explained
    variance is compared by what it leaves unexplained. *Reproduced* if the value as published and,
    where there is one, the controlled value agree; *not reproduced* if both differ; *partly* if one
    agrees and the other differs; *undecided* if an interval leaves that open. A level may differ
    because the language model and the sizes do; that touches no claim by itself."""
    given = {"the value as published": as_published, "the controlled value": controlled}
    close = {name: closeness(entry, x) for name, x in given.items() if x is not None}
    states = {state for state, _ in close.values()}
    verdict = {True: "reproduced", False: "not reproduced", None: "undecided"}
    said = " and ".join(f"{name} is {reason}" for name, (_, reason) in close.items())
    if len(states) == 1:
        return verdict[states.pop()], said
    return "undecided" if None in states else "partly", said


def reading(entry: dict, as_published, controlled) -> Judgement:
    """A number that carries an interpretation. The controlled analysis, a difference or
    correlation, supports it if its whole interval lies on the claimed side of zero, and, where it
    is the printed quantity itself, reaches half of the paper's figure. *Reproduced* if the value as
    published agrees with the paper's (as in *size*) and the controlled analysis supports the
    interpretation; *partly* if one of the two holds and the other does not; *not reproduced* if
    neither does; *undecided* if an interval leaves one of them open."""
    close, reason = closeness(entry, as_published)
    same = as_published["quantity"] == controlled["quantity"]
    border = HALF * abs(in_paper_units(entry)) if same else 0
    supported = on_side(entry["side"], controlled, border)
    says = {True: "supports", False: "does not support", None: "leaves open"}[supported]
    reason = f"the value as published is {reason}, and the controlled interval {says}"
    if None in (close, supported):
        return "undecided", f"{reason} the interpretation"
    return DECIDED[2 - close - supported], f"{reason} the interpretation"


def arithmetic(entry: dict, as_published, controlled) -> Judgement:
    """A count that follows from the sizes. *Reproduced* if it comes out as printed, to one unit of
    the last printed digit, under the paper's and under a consistent definition; *partly* if under
    one of them only; else *not reproduced*."""
    given = [x for x in (as_published, controlled) if x is not None]
    exact = sum(abs(x.value - entry["paper"]) <= entry["step"] for x in given)
    verdict = "reproduced" if exact == len(given) else "partly" if exact else "not reproduced"
    return verdict, f"{exact} of {len(given)} ways of counting come out as printed"


def significance(entry: dict, p_value, in_bounds) -> Judgement:
    """The outcome of a significance test that is said to find something. *Reproduced* if the
    controlled test, after correction for the number of tests, rejects at 1 %. A test that does not
    reject is no proof of absence: *not reproduced* only if the effect's interval, in units of the
    smallest effect that would matter, lies wholly between -1 and 1; else *undecided*."""
    reason = f"reject at {100 * ALPHA:.0f} % (corrected p = {number(p_value['value'])})"
    if p_value.value < ALPHA:
        return "reproduced", f"the controlled test does {reason}"
    low, high = bounds(in_bounds)
    if -1 < low and high < 1:
        small = "the effect lies within the smallest that would matter"
        return "not reproduced", f"the controlled test does not {reason}, and {small}"
    return "undecided", f"the controlled test does not {reason}, which shows nothing either way"


def absence(entry: dict, controlled) -> Judgement:
    """A claim that there is no effect. The controlled value is in units of the smallest effect that
    would matter, stated in its chapter. *Reproduced* if its whole interval lies between -1 and 1;
    *not reproduced* if it lies wholly beyond; *undecided* if it reaches over one of them, or is
    missing."""
    low, high = bounds(controlled)
    smallest = "the smallest effect that would matter"
    if -1 < low and high < 1:
        return "reproduced", f"the controlled interval lies within {smallest}"
    if low >= 1 or high <= -1:
        return "not reproduced", f"the controlled interval lies wholly beyond {smallest}"
    return "undecided", f"the controlled interval reaches over {smallest}"


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
    """The measured values that a rule's verdict rests on, by the fields of an entry."""
    return list(inspect.signature(RULES[rule]).parameters)[1:]
