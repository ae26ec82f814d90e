"""The chapter on interactions put together: designs read, features found, clamped under both protocols, and the results file."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from companion import crossed, stimuli
from companion.chapters import clamp_choice, clamping, interactions
from companion.chapters.clamping import Condition, Splice
from companion.chapters.interactions import DESIGN, Study
from companion.results import Value
from featint import interventions
from featint.activations import Activations
from featint.interventions import Site
from featint.lm import LanguageModel
from featint.runs import Trained


class Clamped(NamedTuple):
    """Claim C6, controlled."""

    site: Site
    apart: list[str]
    """The held-apart prompts."""
    conditions: dict[str, Condition]
    frame: pd.DataFrame
    """`clamping.run`."""
    splice: Splice
    table: pd.DataFrame
    """`clamping.summary`."""

    @property
    def first(self) -> str:
        """The condition of the chosen secondary feature."""
        return next(iter(self.conditions))

    @property
    def prompts(self) -> list[str]:
        """Those that are not held apart: the sample."""
        return [p for p in self.site.prompts if p not in self.apart]

    def of_kind(self, kind: str) -> list[str]:
        """Names of the conditions of one kind."""
        return [name for name, one in self.conditions.items() if one.kind == kind]

    def drawn(self) -> list[str]:
        """Conditions of the dose-response figure: the first of each kind, of the random directions all."""
        kinds = dict.fromkeys(one.kind for one in self.conditions.values())
        return [
            name
            for kind in kinds
            for name in (
                self.of_kind(kind) if kind == "random direction" else self.of_kind(kind)[:1]
            )
        ]

    def shown(self) -> pd.DataFrame:
        """`table` for readers, the random directions as one line: their mean, and the extremes as lo and hi."""
        names = {
            "estimate": "contrast",
            "lo": "lo",
            "hi": "hi",
            "p_holm": "p",
            "detectable": "found at 80 %",
            "shift": "mean shift",
        }
        random = self.table.kind == "random direction"
        rows = self.table.loc[~random, list(names)]
        drawn = self.table[random].estimate
        rows.loc[f"{len(drawn)} random directions"] = {
            "estimate": drawn.mean(),
            "lo": drawn.min(),
            "hi": drawn.max(),
            "shift": self.table[random]["shift"].mean(),
        }
        return rows.astype(float).rename(columns=names)

    def levels(self, names: list[str]) -> pd.DataFrame:
        """Contrast per condition and multiplier with its interval, prompts and words random: condition, multiplier, value, lo, hi."""
        rows = self.frame[self.frame.prompt.isin(self.prompts) & self.frame.condition.isin(names)]
        found = [
            (name, m, clamping.both_random(crossed.crossed(part, clamping.FACTORS)))
            for (name, m), part in rows.groupby(["condition", "multiplier"])
        ]
        return pd.DataFrame(
            [
                {"condition": name, "multiplier": m, "value": t.estimate, "lo": t.lo, "hi": t.hi}
                for name, m, t in found
            ]
        )


def clamp(
    lm: LanguageModel,
    models: Mapping[str, Trained],
    acts: Activations,
    of: Study,
    wanted: int | None = None,
) -> Clamped:
    """Choose the features, clamp them and the controls, and test. `wanted`: a secondary feature to put first."""
    trained, inner = models["sequential"], models["secondary"]
    model, inside = trained.model, inner.model
    words = stimuli.load_words(
        lambda text: lm.tokenizer(text, add_special_tokens=False)["input_ids"], lm.tokenizer.decode
    )
    site = interventions.at_prompts(lm, stimuli.load_prompts(), words, acts.config.hook_point, acts)
    apart = clamp_choice.selection(site.prompts)
    held = [p in apart for p in site.prompts]
    fires = {
        "secondary": clamp_choice.clampable(site, model, inside),
        "primary": clamp_choice.firing(site, model.encode(site.tokens), model.d_sae),
    }
    secondary = clamp_choice.choose(
        of.found[DESIGN, "secondary"],
        fires["secondary"],
        inner.fired_tokens,
        held,
        clamp_choice.N_SECONDARY,
        wanted,
    )
    primary = clamp_choice.choose(
        of.found[DESIGN, "primary"],
        fires["primary"],
        trained.fired_tokens,
        held,
        clamp_choice.N_PRIMARY,
    )
    conditions = clamping.conditions(model, inside, secondary, primary, site)
    frame, splice = clamping.run(site, conditions), clamping.splice(site, model, apart)
    return Clamped(
        site,
        apart,
        conditions,
        frame,
        splice,
        clamping.summary(frame, conditions, splice.bound, apart),
    )


class Published(NamedTuple):
    """The same by the released code's definitions."""

    one_way: pd.DataFrame
    """`interactions.one_way` of the secondary features."""
    one_on: dict[str, np.ndarray]
    """Secondary activations when one primary feature is on: `as published`, and `with pooling`."""
    frame: pd.DataFrame
    """`clamping.as_published`: conditions `chosen`, `unselective`, `linear`."""
    tests: pd.DataFrame
    """`clamping.published_tests`."""
    silent: tuple[int, ...]
    """The two primary features of the linear control, which fire on no prompt."""


def as_published(site: Site, models: Mapping[str, Trained], of: Study) -> Published:
    """Largest one-way F, one feature on, and clamps spliced as published; all prompts, nothing held apart."""
    model, inside = models["sequential_published"].model, models["secondary_published"].model
    design, answers = of.designs[DESIGN], of.responses[DESIGN]
    table = interactions.one_way(design, answers["published secondary"])
    feature = interactions.strongest_primary(design, answers["published primary"])
    activation = float(answers["published primary"][feature].mean())
    one_on = {
        name: interactions.one_feature_on(model, inside, feature, activation, pooled).cpu().numpy()
        for name, pooled in {"as published": False, "with pooling": True}.items()
    }
    raw = model.encode(site.reading.x.flatten(0, 1)).dense(model.d_sae)
    silent = tuple((raw == 0).all(0).nonzero().squeeze(1)[:2].tolist())
    chosen = {"chosen": int(table.F.idxmax()), "unselective": int(table.F.idxmin())}
    frame = clamping.as_published(site, model, inside, chosen, silent)
    return Published(table, one_on, frame, clamping.published_tests(frame), silent)


def false_positives(clamped: Clamped, published: Published, shuffles: int) -> pd.DataFrame:
    """Rates under shuffled word labels for the chosen secondary feature's slope, the first primary one's, and the published shifts at -4."""
    primary = clamped.of_kind("primary feature, all paths")[0]
    rows = published.frame.query("condition == 'chosen' and multiplier == -4")
    tables = {
        name: clamping.slopes(clamped.frame, name, clamped.prompts)
        for name in (clamped.first, primary)
    }
    return clamping.false_positive_rates(
        tables | {"as published, −4": crossed.crossed(rows, clamping.FACTORS)}, shuffles
    )


def values(
    models: Mapping[str, Trained],
    of: Study,
    clamped: Clamped,
    published: Published,
    rates: pd.DataFrame,
) -> dict[str, Value]:
    """The chapter's results file."""
    return (
        _settings(models)
        | _selectivity(of, published)
        | _clamps(clamped)
        | _published_clamps(published, len(clamped.site.prompts))
        | {
            f"false_positives/{row.data} {row.test}/{'as_published' if row.test == 'published' else 'controlled'}": Value(
                100 * row.rate,
                row.shuffles,
                "%; n shuffles",
                "as published" if row.test == "published" else "controlled",
                (100 * row.lo, 100 * row.hi),
            )
            for row in rates.itertuples()
        }
    )


def _settings(models: Mapping[str, Trained]) -> dict[str, Value]:
    config = models["secondary"].config
    width, d_in = config.sae.d_sae, config.base.nfm.d_factor
    found = {
        "expansion": (width / d_in, "x"),
        "d_in": (d_in, "dimensions"),
        "d_sae": (width, "features"),
        "k": (config.sae.k, "features"),
    }
    settings = {
        f"setting/secondary_{name}": Value(value, 1, f"{unit}; n models", "setting")
        for name, (value, unit) in found.items()
    }
    return settings | {
        "setting/clamp_levels": Value(list(clamping.MULTIPLIERS), 1, "x; n chapters", "setting")
    }


def _selectivity(of: Study, published: Published) -> dict[str, Value]:
    design, found = of.designs[DESIGN], of.found[DESIGN, "secondary"]
    n_topics, table, on = (
        int(design.topic.nunique()),
        published.one_way,
        published.one_on["as published"],
    )
    best = found.ranked(of.effect).iloc[0]
    half = int(design[design.half == "confirmation"].topic.nunique())
    least = found.least_selective(found.live)
    bound = interactions.contrast_over_bound(design, of.responses[DESIGN]["secondary"], least)
    given = {
        "nonzero_share": (100 * float((on > 0).mean()), len(on), "%; n features"),
        "two_largest": (sorted(map(float, on))[-2:], len(on), "activation; n features"),
        "max_F": (float(table.F.max()), len(design), "F; n sentences"),
        "max_F_p": (float(table.p[table.F.idxmax()]), len(design), "p; n sentences"),
        "max_formal_emotional_activation": (
            float(table.high_high.max()),
            n_topics,
            "activation; n sentences",
        ),
        "least_selective_F": (float(table.F.min()), len(design), "F; n sentences"),
        "least_selective_p": (float(table.p[table.F.idxmin()]), len(design), "p; n sentences"),
    }
    values = {
        f"secondary/{name}/as_published": Value(value, n, unit, "as published")
        for name, (value, n, unit) in given.items()
    }
    pooled = published.one_on["with pooling"]
    values |= {
        "secondary/best_F/controlled": Value(
            float(best.F_confirmation), half, "F; n topics", "controlled"
        ),
        "secondary/best_p/controlled": Value(
            float(best.q_confirmation), half, "p; n topics", "controlled"
        ),
        "secondary/nonzero_share_pooled/controlled": Value(
            100 * float((pooled > 0).mean()), len(pooled), "%; n features", "controlled"
        ),
        "secondary/least_selective_contrast_over_bound/controlled": Value(
            bound.value, bound.n, "x; n topics", "controlled", (bound.lo, bound.hi)
        ),
    }
    for row in interactions.passes(of.found).to_dict("records"):
        name = f"{row['dictionary']}/{row['design']} {row['effect']}"
        for key in ("live", "pass", "held"):
            values[f"{name} {key}/controlled"] = Value(
                row[key], half, "features; n topics", "controlled"
            )
    return values


def _test(test: crossed.Test, unit: str, n: int) -> Value:
    ci = None if test.lo is None else (test.lo, test.hi)
    return Value(test.estimate, n, f"{unit}; n prompts", "controlled", ci)


def _number(x, n: int, unit: str, ci: tuple | None = None) -> Value:
    """A value of a clamp that may have moved nothing, which leaves its tests undefined."""
    if pd.isna(x):
        return Value(None, n, "undefined, since the clamp moves nothing; n prompts", "controlled")
    return Value(float(x), n, f"{unit}; n prompts", "controlled", ci)


def _clamps(clamped: Clamped) -> dict[str, Value]:
    n, first = len(clamped.prompts), clamped.first
    names = {-4.0: "minus4", 0.0: "0", 4.0: "4"}
    values = {
        f"clamp/contrast_{name}/controlled": _test(
            clamping.at_level(clamped.frame, first, m, clamped.apart), "logit", n
        )
        for m, name in names.items()
    }
    moved = clamping.moved(clamped.frame, first, clamped.prompts)
    values["clamp/prompts_moved/controlled"] = _number(moved, n, "prompts")
    row = clamped.table.loc[first]
    values["clamp/slope_F/controlled"] = _number(row.t**2 if row.t is not None else None, n, "F")
    values["clamp/slope_p/controlled"] = _number(row.p_holm, n, "p")
    values["clamp/splice_shift/controlled"] = _test(clamped.splice.shift, "logit", n)
    values["clamp/splice_shift_relative/controlled"] = _test(clamped.splice.relative, "logit", n)
    values["clamp/bound/controlled"] = Value(
        clamped.splice.bound, n, "logit; n prompts", "controlled"
    )
    whole = clamped.table.loc[clamped.of_kind("primary feature, all paths")]
    ruled_out = int(whole.equivalent.eq(True).sum())
    values["clamp_primary/ruled_out/controlled"] = Value(
        ruled_out, len(whole), "features; n features", "controlled"
    )
    linear = clamped.of_kind("primary feature, linear path")[0]
    unselective = clamped.of_kind("unselective secondary feature")[0]
    for key, condition in {
        "clamp": first,
        "clamp_linear": linear,
        "clamp_unselective": unselective,
    }.items():
        row = clamped.table.loc[condition]
        ci = (row.lo_over_bound, row.hi_over_bound)
        values[f"{key}/contrast_over_bound/controlled"] = _number(
            row.estimate_over_bound, n, "x", ci
        )
    for group, row in clamping.group_shifts(clamped.frame, first, clamped.prompts).iterrows():
        values[f"clamp/shift_{group}/controlled"] = Value(
            row.shifts, n, "logit; n prompts", "controlled"
        )
        values[f"clamp/shift_{group}_p/controlled"] = _number(row.p_holm, n, "p")
    return values


def _published_clamps(published: Published, n: int) -> dict[str, Value]:
    def value(x, unit: str) -> Value:
        reason = "undefined: the clamped feature fires on no prompt, so that nothing moves"
        return Value(
            None if x is None else float(x),
            n,
            reason if x is None else f"{unit}; n prompts",
            "as published",
        )

    tests, frame = published.tests, published.frame
    chosen, unselective = tests.loc["chosen"], tests.loc["unselective"].dropna()
    values = {"clamp/interaction_F_minus4": value(chosen.F[-4], "F")}
    for m, name in {-4.0: "minus4", 0.0: "0", 4.0: "4"}.items():
        values |= {
            f"clamp/interaction_p_{name}": value(chosen.p[m], "p"),
            f"clamp/contrast_{name}": value(abs(chosen.contrast[m]), "logit"),
        }
    values["clamp_linear/contrast"] = value(tests.loc["linear"].contrast.abs().max(), "logit")
    for key, unit in {"F": "F", "p": "p"}.items():
        values[f"clamp_unselective/smallest_{key}"] = value(
            unselective[key].min() if len(unselective) else None, unit
        )
    for group in clamping.GROUPS:
        shifts = clamping.group_shifts(frame, "chosen", list(frame.prompt.unique())).shifts[group]
        values[f"clamp/shift_{group}"] = Value(shifts, n, "logit; n prompts", "as published")
    return {f"{name}/as_published": one for name, one in values.items()}
