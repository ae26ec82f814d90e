"""What is special to the chapter on interactions: which features answer to a 2x2 design on topics
that did not select them, which of them are clamped, and what a clamp does to groups of words."""

from collections.abc import Collection, Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from torch import Tensor

from companion import designs, estimates, stimuli
from companion.designs import ALPHA
from featint import interventions

FACTORS = {name: stimuli.LEVELS[name] for name in ("formality", "emotion")}
GROUPS = dict(zip(["CL", "CH", "FL", "FH"], product(*FACTORS.values()), strict=True))
"""Casual or formal words, with little or high emotion."""
LARGEST_DOSE = 5.0
"""Distance of a multiplier of -4 from 1. Slopes are reported times this dose."""


def discover(
    design: pd.DataFrame, values: pd.DataFrame, draws: int = 100, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Test every feature that fires on the discovery half, on that half and on the other.

    `values` (sentences, features) are mean activations. Returns `designs.rm_anova` of the discovery
    half, with columns of the other half ending in `_confirmation`, and `designs.shuffled_passes` of
    the discovery half. Raises ValueError if no feature fires there.
    """
    factors = stimuli.factors(design)
    first, second = (design.index[design.half == half] for half in stimuli.HALVES)
    live = values.columns[(values.loc[first] > 0).any()]
    if live.empty:
        raise ValueError("no feature fires on any sentence of the discovery half: nothing to test")
    selection, confirmation = (
        designs.rm_anova(design.loc[half], values.loc[half, live], factors)
        for half in (first, second)
    )
    both = selection.merge(confirmation, on=["feature", "effect"], suffixes=("", "_confirmation"))
    discovery = design.loc[first], values.loc[first, live], factors
    return both, designs.shuffled_passes(*discovery, draws, seed)


def passes(features: pd.DataFrame, shuffled: pd.DataFrame) -> pd.DataFrame:
    """How many features pass, by design, dictionary and effect; both frames of `discover`, stacked.

    `pass`: q < 0.05 on the discovery half; `held`: of these p < 0.05 and the same sign on the
    other. Partial eta squared: medians over the features that passed.
    """
    keys = ["design", "dictionary", "effect"]
    passed = features.q < ALPHA
    same_sign = features.estimate * features.estimate_confirmation > 0
    held = passed & (features.p_confirmation < ALPHA) & same_sign
    table = features.assign(passed=passed, held=held).groupby(keys, sort=False)
    table = table.agg(live=("passed", "size"), passed=("passed", "sum"), held=("held", "sum"))
    chance = shuffled.groupby(keys, sort=False).q_passes
    eta2 = features[passed].groupby(keys)[["partial_eta2", "partial_eta2_confirmation"]].median()
    columns = {"passed": "pass", "partial_eta2": "eta², selection"}
    columns |= {"partial_eta2_confirmation": "eta², confirmation"}
    chance = pd.DataFrame({"shuffled, mean": chance.mean(), "shuffled, most": chance.max()})
    table = table[["live", "passed"]].join(chance).join(table["held"]).join(eta2)
    return table.rename(columns=columns).reset_index()


class Chosen(NamedTuple):
    """Features of one dictionary to clamp."""

    selective: list[int]
    """The largest interaction F, among those that can move something on at least half of the
    held-apart prompts (or, where none does, on as many as any)."""
    unselective: int
    """Of the same features the one whose largest F of the three effects is smallest."""
    inactive: int | None
    """The first that fired in training but does nothing on any prompt."""


def choose(
    features: pd.DataFrame,
    able: Bool[Tensor, "prompts d_sae"],
    fired_tokens: Tensor,
    apart: Sequence[bool],
    n: int,
    wanted: int | None = None,
) -> Chosen:
    """The features to clamp, by `discover`'s frame of one design and dictionary; `wanted` goes
    before the `n` selected ones. `able`: where a clamp of each feature has something to act on.

    Raises ValueError if that is nowhere, or `wanted` is out of range or dead.
    """
    if wanted is not None:
        interventions.check_feature(wanted, fired_tokens)
    trained = pd.Index((fired_tokens > 0).nonzero().squeeze(1).tolist())
    live = pd.Index(features.feature.unique()).intersection(trained)
    share = able[torch.tensor(apart)].float().mean(0)[live].numpy(force=True)
    if not share.any():
        raise ValueError(
            "no live feature fires on any held-apart prompt, so that there is nothing to clamp: "
            "train for more tokens or with a larger k"
        )
    among = features[features.feature.isin(live[share >= min(0.5, share.max())])]
    effect = features.effect.iloc[-1]
    ranked = among[among.effect == effect].sort_values("F", ascending=False, kind="stable").feature
    silent = [i for i in trained if not able[:, i].any()]
    selective = [i for i in ranked.tolist() if i != wanted][:n]
    return Chosen(
        selective if wanted is None else [wanted, *selective],
        int(among.groupby("feature").F.max().idxmin()),
        silent[0] if silent else None,
    )


def contrasts(shifts: pd.DataFrame, test: str = "both random") -> pd.DataFrame:
    """The interaction contrast per condition and multiplier: rows of `designs.interactions`, by
    default with prompts and words random. `shifts`: rows of `interventions.Site.shifts`."""
    keys = ["condition", "multiplier"]
    tests = {
        key: designs.interactions(designs.crossed(rows, FACTORS)).loc[test]
        for key, rows in shifts.groupby(keys, sort=False)
    }
    return pd.DataFrame(tests).T.rename_axis(keys)


def signed_contrasts(shifts: pd.DataFrame, apart: Collection[str]) -> pd.DataFrame:
    """`contrasts` on the other prompts, turned so that they are positive on the held-apart ones:
    value, lo, hi (logit)."""
    held = shifts.prompt.isin(apart)
    sign = np.where(contrasts(shifts[held]).estimate >= 0, 1, -1)
    here = contrasts(shifts[~held])
    lo, hi = here.lo.where(sign > 0, -here.hi), here.hi.where(sign > 0, -here.lo)
    return pd.DataFrame({"value": sign * here.estimate, "lo": lo, "hi": hi})


def slopes(shifts: pd.DataFrame) -> pd.DataFrame:
    """The dose-response slope of every prompt and word under one condition, times the largest dose
    (logit), as a `designs.crossed` table."""
    rows = shifts.drop(columns="condition")
    return LARGEST_DOSE * designs.crossed(designs.dose_slopes(rows), FACTORS)


def summary(shifts: pd.DataFrame, kinds: Mapping[str, str], bound: float) -> pd.DataFrame:
    """Per condition the slope's interaction contrast at the largest dose (logit), its test, and
    what that says about `bound`, the smallest contrast that would matter.

    `shift`: mean |slope|; `p_holm`: over the features clamped whole; `*_over_bound`: in units of
    the bound; `detectable`: the contrast found with power 0.8; `ruled_out`: an effect as large as
    the bound is, by two one-sided tests at 5 % (Schuirmann 1987).
    """
    of = {name: slopes(shifts[shifts.condition == name]) for name in kinds}
    tests = {name: designs.interactions(table).loc["both random"] for name, table in of.items()}
    table = pd.DataFrame(tests).T.rename_axis("condition").assign(kind=kinds)
    table["shift"] = {name: float(table.abs().to_numpy().mean()) for name, table in of.items()}
    for column in ("estimate", "lo", "hi"):
        table[f"{column}_over_bound"] = table[column] / bound
    known = table.p.notna()
    table.loc[~known, "estimate_over_bound"] = np.nan
    one_sided = stats.t.ppf(1 - ALPHA, table.df) * table.se
    table["ruled_out"] = known & (table.estimate.abs() + one_sided < bound)
    table["detectable"] = [
        se * np.sqrt(df + 1) * TTestPower().solve_power(nobs=df + 1, alpha=ALPHA, power=0.8)
        if se > 0
        else np.nan
        for se, df in zip(table.se, table.df, strict=True)
    ]
    whole = known & table.kind.isin(["secondary feature", "primary feature, all paths"])
    table.loc[whole, "p_holm"] = multipletests(table.p[whole], method="holm")[1]
    return table


def group_shifts(shifts: pd.DataFrame) -> pd.DataFrame:
    """Per word group of one condition: mean logit shifts at -4, 0 and 4, and the p of the group's
    mean slope (prompts and words random), Holm's over the four; NaN where nothing moves."""
    table, rows = slopes(shifts), {}
    for group, (formality, emotion) in GROUPS.items():
        words = shifts[(shifts.formality == formality) & (shifts.emotion == emotion)]
        means = words.groupby("multiplier").value.mean()
        of_group = table.loc[:, table.columns.get_level_values("word").isin(words.word)]
        p = designs.mean_test(of_group.to_numpy()).p
        rows[group] = {"shifts": [float(means[m]) for m in (-4, 0, 4)], "p": p}
    frame = pd.DataFrame(rows).T
    p = frame.p.astype(float)
    return frame.assign(p=np.nan if p.isna().any() else multipletests(p, method="holm")[1])


def numbers(values: Mapping, reason: str = "", **same) -> pd.DataFrame:
    """`estimates.tidy` of {quantity or (quantity, part): (value, unit)}; a value that is missing is
    None, with the reason in place of its unit."""
    rows = []
    for name, (value, unit) in values.items():
        quantity, part = name if isinstance(name, tuple) else (name, "")
        missing = value is None or value != value
        value, unit = (None, reason) if missing else (value, unit)
        rows.append({"quantity": quantity, "part": part, "value": value, "unit": unit})
    return estimates.tidy(rows, **same)
