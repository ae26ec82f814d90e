"""Claim C6, measured: what clamping a feature does to the logits of four groups of words, with prompts and words as the samples."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import stats as st
from statsmodels.stats.multitest import multipletests
from tqdm import tqdm

from companion import crossed, stats
from companion.chapters.clamp_choice import MULTIPLIERS, Chosen
from companion.stimuli import LEVELS
from featint import interventions
from featint.interventions import Change, Site
from featint.joint import JointSAE
from featint.secondary import SecondarySAE

FACTORS = {name: LEVELS[name] for name in ("formality", "emotion")}
GROUPS = {
    "FL": ("formal", "neutral"),
    "FH": ("formal", "emotional"),
    "CL": ("casual", "neutral"),
    "CH": ("casual", "emotional"),
}
LARGEST_DOSE = 5.0
"""Of these multipliers: the distance from -4 to 1. Slopes are reported times this dose."""
BOUND_SHARE = 0.1
"""The smallest contrast that would matter, as a share of what reading and writing the activation (the splice) does to the words relative to each other."""
N_RANDOM = 10


class Condition(NamedTuple):
    """One intervention at any multiplier."""

    kind: str
    feature: int | None
    change: Callable[[float], Change]


def conditions(
    model: JointSAE, inside: SecondarySAE, secondary: Chosen, primary: Chosen, site: Site
) -> dict[str, Condition]:
    """All interventions of the chapter by name: secondary and primary features, and the controls."""

    def inner(feature: int) -> Callable[[float], Change]:
        return lambda m: interventions.secondary(model, inside, feature, m)

    def outer(feature: int, *paths: str) -> Callable[[float], Change]:
        return lambda m: interventions.primary(model, feature, m, paths or interventions.PATHS)

    found = {
        f"secondary {i}": Condition("secondary feature", i, inner(i)) for i in secondary.selective
    }
    found |= {
        f"primary {i}": Condition("primary feature, all paths", i, outer(i))
        for i in primary.selective
    }
    for i in primary.selective:
        found[f"primary {i}, SAE"] = Condition("primary feature, SAE alone", i, outer(i, "sae_out"))
        found[f"primary {i}, linear"] = Condition(
            "primary feature, linear path", i, outer(i, "linear_out")
        )
        found[f"primary {i}, interaction"] = Condition(
            "primary feature, interaction path", i, outer(i, "interaction_out")
        )
    i = secondary.unselective
    found[f"secondary {i}, unselective"] = Condition("unselective secondary feature", i, inner(i))
    if (i := secondary.inactive) is not None:
        found[f"secondary {i}, inactive"] = Condition("inactive secondary feature", i, inner(i))
    like = inner(secondary.selective[0])
    for seed in range(N_RANDOM):
        found[f"random {seed}"] = Condition(
            "random direction",
            None,
            lambda m, seed=seed: interventions.random_direction(like(m), m, site.std, seed),
        )
    return found


@torch.no_grad()
def run(site: Site, found: Mapping[str, Condition]) -> pd.DataFrame:
    """Logit shifts: one row per condition, multiplier, prompt and word, `value` in logits.

    The first condition is run at a multiplier of 1 too, where nothing may move; for the others that run would be the same.
    """
    clean, frames = site.logits(), []
    with tqdm(total=3 * len(found) + 1, desc="clamp", unit="run", disable=None) as bar:
        for i, (name, one) in enumerate(found.items()):
            for m in MULTIPLIERS if i == 0 else [m for m in MULTIPLIERS if m != 1]:
                frames.append(
                    site.frame(site.added(one.change(m)) - clean, condition=name, multiplier=m)
                )
                bar.update()
    return pd.concat(frames, ignore_index=True)


class Splice(NamedTuple):
    """What replacing the activation by the model's reconstruction does to the words, prompts that are not held apart."""

    shift: crossed.Test
    """Mean |logit shift|."""
    relative: crossed.Test
    """The same with each prompt's mean shift over the words taken out, which moves all words alike and so cannot enter a contrast."""

    @property
    def bound(self) -> float:
        """The smallest contrast that would matter, logit."""
        return BOUND_SHARE * self.relative.estimate


@torch.no_grad()
def splice(site: Site, model: JointSAE, apart: list[str]) -> Splice:
    """Replace the activation and measure."""
    shift = (
        (site.replaced(lambda x: model(x).x_hat) - site.logits())[
            [p not in apart for p in site.prompts]
        ]
        .cpu()
        .numpy()
    )
    return Splice(
        crossed.mean_test(np.abs(shift)),
        crossed.mean_test(np.abs(shift - shift.mean(axis=1, keepdims=True))),
    )


def slopes(frame: pd.DataFrame, condition: str, prompts: Sequence[str]) -> crossed.Crossed:
    """The dose-response slope of every prompt and word under one condition, times the largest dose: logits at a multiplier of 6, or against -4."""
    rows = frame[(frame.condition == condition) & frame.prompt.isin(prompts)].drop(
        columns="condition"
    )
    table = crossed.crossed(crossed.dose_slopes(rows), FACTORS)
    return table._replace(values=LARGEST_DOSE * table.values)


def moved(frame: pd.DataFrame, condition: str, prompts: Sequence[str]) -> int:
    """On how many of these prompts the condition moves any word at all."""
    rows = frame[(frame.condition == condition) & frame.prompt.isin(prompts)]
    return int((rows.value != 0).groupby(rows.prompt).any().sum())


def both_random(data: crossed.Crossed) -> crossed.Test:
    """The interaction contrast with prompts and words random."""
    return crossed.tests(data)[2]


def at_level(
    frame: pd.DataFrame, condition: str, multiplier: float, apart: list[str]
) -> crossed.Test:
    """The contrast at one multiplier on the other prompts, signed so that it is positive on the held-apart ones."""
    rows = frame[(frame.condition == condition) & (frame.multiplier == multiplier)]
    there, here = (
        both_random(crossed.crossed(part, FACTORS))
        for _, part in rows.groupby(~rows.prompt.isin(apart))
    )
    if there.estimate >= 0:
        return here
    flip = here._replace(estimate=-here.estimate, t=here.t and -here.t)
    return flip if here.lo is None else flip._replace(lo=-here.hi, hi=-here.lo)


def summary(
    frame: pd.DataFrame, found: Mapping[str, Condition], bound: float, apart: list[str]
) -> pd.DataFrame:
    """One row per condition: the slope's interaction contrast at the largest dose (logit), its test, and what it says about the bound.

    `p_holm` is corrected over the selective features that were clamped whole; `linear` is the median share of a shift's size that a straight
    line through the doses explains; `detectable` is found with power 0.8; `equivalent`: an effect of the bound's size is ruled out.
    """
    rows = []
    prompts = [p for p in frame.prompt.unique() if p not in apart]
    for name, one in found.items():
        data = slopes(frame, name, prompts)
        test, row = both_random(data), {"condition": name, "kind": one.kind, "feature": one.feature}
        row |= {k: getattr(test, k) for k in ("estimate", "se", "df", "t", "p", "lo", "hi")}
        row["shift"] = float(np.abs(data.values).mean())
        if test.p is not None:
            row |= {f"{k}_over_bound": row[k] / bound for k in ("estimate", "lo", "hi")}
            row |= {
                "equivalent": stats.equivalence(test.estimate, test.se, test.df, bound).equivalent
            }
            row |= {"detectable": stats.detectable(test.se, test.df)}
        part = frame[(frame.condition == name) & frame.prompt.isin(prompts)].drop(
            columns="condition"
        )
        row["linear"] = crossed.dose_slopes(part).linear.astype(float).median()
        rows.append(row)
    table = pd.DataFrame(rows).set_index("condition")
    family = table.kind.isin(["secondary feature", "primary feature, all paths"]) & table.p.notna()
    table.loc[family, "p_holm"] = multipletests(table.p[family].astype(float), method="holm")[1]
    return table


def group_shifts(frame: pd.DataFrame, condition: str, prompts: Sequence[str]) -> pd.DataFrame:
    """Per word group: mean logit shifts at -4, 0 and 4, the p of the group's mean slope (prompts and words random), and Holm's over the four."""
    data = slopes(frame, condition, prompts)
    rows = frame[(frame.condition == condition) & frame.prompt.isin(prompts)]
    table = []
    for group, (formality, emotion) in GROUPS.items():
        words = rows[(rows.formality == formality) & (rows.emotion == emotion)]
        means = words.groupby("multiplier").value.mean()
        test = crossed.mean_test(data.values[:, [w in set(words.word) for w in data.words]])
        table.append({"group": group, "shifts": [float(means[m]) for m in (-4, 0, 4)], "p": test.p})
    table = pd.DataFrame(table).set_index("group")
    table["p_holm"] = (
        None if table.p.isna().any() else multipletests(table.p.astype(float), method="holm")[1]
    )
    return table


@torch.no_grad()
def as_published(
    site: Site,
    model: JointSAE,
    inside: SecondarySAE,
    features: Mapping[str, int],
    linear: Sequence[int],
) -> pd.DataFrame:
    """Logit shifts of the published splice: clamped less unclamped, raw activations in and out, all positions. Columns as `run`'s.

    `features`: secondary features by name of their condition. `linear`: primary features whose rows of the linear path are multiplied together.
    """
    baseline = site.replaced_raw(interventions.published(model, inside))
    frames = []
    for m in MULTIPLIERS:
        edits = {
            name: interventions.published(model, inside, feature, m)
            for name, feature in features.items()
        }
        edits["linear"] = interventions.published(model, inside, None, m, linear)
        frames += [
            site.frame(site.replaced_raw(edit) - baseline, condition=name, multiplier=m)
            for name, edit in edits.items()
        ]
    return pd.concat(frames, ignore_index=True)


def published_tests(frame: pd.DataFrame) -> pd.DataFrame:
    """The published test of every condition and multiplier but 1: condition, multiplier, contrast (logit), F, p; F and p None without variation."""
    rows = []
    for (condition, m), part in frame[frame.multiplier != 1].groupby(
        ["condition", "multiplier"], sort=False
    ):
        test = crossed.published(crossed.crossed(part, FACTORS))
        rows.append(
            {
                "condition": condition,
                "multiplier": m,
                "contrast": test.estimate,
                "F": test.t and test.t**2,
                "p": test.p,
            }
        )
    return (
        pd.DataFrame(rows).astype({"F": object, "p": object}).set_index(["condition", "multiplier"])
    )


def false_positive_rates(tables: Mapping[str, crossed.Crossed], shuffles: int) -> pd.DataFrame:
    """`crossed.false_positives` of several tables: data, test, rate, lo, hi, shuffles; and `tail`, the chance of a rate so far from 5 %."""
    parts = [
        crossed.false_positives(data, shuffles).assign(data=name)
        for name, data in tables.items()
        if data.values.std() > 0
    ]
    table = pd.concat(parts, ignore_index=True)
    table["tail"] = [
        st.binomtest(round(r.rate * r.shuffles), r.shuffles, 0.05).pvalue
        for r in table.itertuples()
    ]
    return table[["data", "test", "rate", "lo", "hi", "tail", "shuffles"]]
