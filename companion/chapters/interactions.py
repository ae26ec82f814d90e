"""What is special to the chapter on interactions: which features answer to a 2x2 design on topics
that did not select them, which of them are clamped, and what a clamp does to groups of words."""

from collections.abc import Callable, Collection, Mapping, Sequence
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
    first, second = (design.half == half for half in stimuli.HALVES)
    live = values.columns[(values[first] > 0).any()]
    if live.empty:
        raise ValueError("no feature fires on any sentence of the discovery half: nothing to test")
    halves = [(design[half], values.loc[half, live], factors) for half in (first, second)]
    tests = [designs.rm_anova(*half) for half in halves]
    both = pd.merge(*tests, on=["feature", "effect"], suffixes=("", "_confirmation"))
    return both, designs.shuffled_passes(*halves[0], draws, seed)


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
        remedy = "so that there is nothing to clamp: train for more tokens or with a larger k"
        raise ValueError(f"no live feature fires on any held-apart prompt, {remedy}")
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
    by = shifts.groupby(["condition", "multiplier"], sort=False)
    return by.apply(lambda rows: designs.interactions(designs.crossed(rows, FACTORS)).loc[test])


def turned(table: pd.DataFrame, apart: Collection[str]) -> pd.DataFrame:
    """The other prompts of a `designs.crossed` table, turned so that its interaction contrast on
    the held-apart prompts is positive: else features of several seeds would cancel."""
    held = table.index.isin(apart)
    down = designs.contrasts(table[held])["by prompt"].estimate < 0
    return -table[~held] if down else table[~held]


def interaction(table: pd.DataFrame) -> pd.Series:
    """The interaction test of a `designs.crossed` table, prompts and words random."""
    return designs.interactions(table).loc["both random"]


def over_seeds(
    tables: Sequence[pd.DataFrame | np.ndarray], test: Callable[..., pd.Series] = interaction
) -> pd.Series:
    """A test with prompts and words random (`interaction`, `designs.mean_test`) of the mean of like
    tables (prompts, words), one per seed: a row of `designs.t_tests`, seeds random too, and
    `each_seed` (`estimates`), None for one seed. V = V_seeds + V_prompts and words - V_residual,
    which differs between seeds and is in both, as in `estimates.of_totals`."""
    n, mean = len(tables), sum(tables) / len(tables)
    whole = test(mean)
    if n == 1:
        return pd.Series({**whole, "each_seed": None}, dtype=object)
    alone = pd.DataFrame([test(table) for table in tables])
    ends = alone[["estimate", "lo", "hi"]].where(alone.p.notna()).astype(object)
    of_seeds = alone.estimate.var() / n
    residual = sum(test(table - mean).se ** 2 for table in tables) / (n * (n - 1))
    dfs = n - 1, whole.df, (n - 1) * whole.df
    both = estimates.both_random((of_seeds, whole.se**2, residual), dfs)
    test = designs.t_tests({"": designs.Contrast(whole.estimate, *both)}).loc[""]
    return pd.Series({**test, "each_seed": ends.where(ends.notna(), None).to_numpy().tolist()})


def spliced(*splices: np.ndarray) -> pd.DataFrame:
    """How far a splice, or one per seed, moves words (prompts, words; logit), and how far against
    each other, since what moves all alike cannot enter a contrast; a tenth of that is the smallest
    that would matter. Rows moved, relative, bound: estimate, lo, hi as `over_seeds`."""
    relative = [splice - splice.mean(axis=1, keepdims=True) for splice in splices]
    tests = [over_seeds([*map(np.abs, of)], designs.mean_test) for of in (splices, relative)]
    rows = pd.DataFrame(tests, ["moved", "relative"])[["estimate", "lo", "hi"]].astype(float)
    return pd.concat([rows, 0.1 * rows.loc[["relative"]].rename({"relative": "bound"})])


def slopes(shifts: pd.DataFrame) -> pd.DataFrame:
    """One dose-response slope per prompt and word under one condition, as a `designs.crossed`
    table: least squares through 0 at a multiplier of 1, no clamp, times the largest dose (logit).

    All clamp settings of one feature are doses of one intervention, so they make one test, not one
    each. Raises ValueError for numbers that are not finite, or if no multiplier differs from 1.
    """
    estimates.require(shifts[["multiplier", "value"]])
    dose = shifts["multiplier"] - 1
    if (dose == 0).all():
        raise ValueError("multiplier is 1 in all rows: a slope needs at least one other value")
    sums = shifts.assign(xy=dose * shifts["value"], xx=dose**2)
    sums = sums.groupby(["prompt", "word", *FACTORS], sort=False)[["xy", "xx"]].sum()
    slope = LARGEST_DOSE * (sums.xy / sums.xx)
    return designs.crossed(slope.rename("value").reset_index(), FACTORS)


def summary(shifts: pd.DataFrame, kinds: Mapping[str, str], bound: float) -> pd.DataFrame:
    """Per condition the slope's interaction contrast at the largest dose (logit), its test, and
    what that says about `bound`, the smallest contrast that would matter.

    `shift`: mean |slope|; `p_holm`: over the features clamped whole; `*_over_bound`: in units of
    the bound; `detectable`: the contrast found with power 0.8; `ruled_out`: an effect as large as
    the bound is, by two one-sided tests at 5 % (Schuirmann 1987).
    """
    of = {name: slopes(shifts[shifts.condition == name]) for name in kinds}
    tests = {name: interaction(table) for name, table in of.items()}
    table = pd.DataFrame(tests).T.rename_axis("condition").assign(kind=kinds)
    table["shift"] = {name: float(table.abs().to_numpy().mean()) for name, table in of.items()}
    known = table.p.notna()
    over_bound = table.loc[known, ["estimate", "lo", "hi"]] / bound
    table = table.join(over_bound.add_suffix("_over_bound"))
    one_sided = stats.t.ppf(1 - ALPHA, table.df) * table.se
    table["ruled_out"] = known & (table.estimate.abs() + one_sided < bound)
    n = table.df[known] + 1
    d = n.map(lambda n: TTestPower().solve_power(nobs=n, alpha=ALPHA, power=0.8))
    table["detectable"] = d * np.sqrt(n) * table.se
    whole = known & table.kind.isin(["secondary feature", "primary feature, all paths"])
    table.loc[whole, "p_holm"] = multipletests(table.p[whole], method="holm")[1]
    return table


def group_shifts(shifts: pd.DataFrame) -> pd.DataFrame:
    """Per word group of one condition: mean logit shifts at -4, 0 and 4, and the p of the group's
    mean slope (prompts and words random), Holm's over the four; NaN where nothing moves."""
    table, means = slopes(shifts), shifts.groupby([*FACTORS, "multiplier"]).value.mean()
    each = [[float(means[*labels, m]) for m in (-4, 0, 4)] for labels in GROUPS.values()]
    p = [designs.mean_test(table[cell].to_numpy()).p for cell in range(len(GROUPS))]
    holm = np.nan if np.isnan(p).any() else multipletests(p, method="holm")[1]
    return pd.DataFrame({"shifts": each, "p": holm}, list(GROUPS))


def numbers(values: Mapping, reason: str = "", **same) -> pd.DataFrame:
    """`estimates.tidy` of {quantity or (quantity, part): (value, unit)}; a value that is missing is
    None, with the reason in place of its unit."""
    frame = pd.DataFrame.from_dict(values, orient="index", columns=["value", "unit"], dtype=object)
    missing = frame.value.isna()
    frame.loc[missing, ["value", "unit"]] = None, reason
    frame[["quantity", "part"]] = [x if isinstance(x, tuple) else (x, "") for x in values]
    return estimates.tidy(frame, **same)
