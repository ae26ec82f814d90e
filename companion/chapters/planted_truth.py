"""The chapter Planted truth: its sizes, its sweeps, and the tables, curves and results that follow from their rows."""

from collections.abc import Sequence
from dataclasses import replace
from math import comb

import pandas as pd

from companion import stats
from companion.chapters import recovery
from companion.chapters.recovery import SETTINGS, WITH_PAIRS, Trial
from companion.profiles import Profile
from companion.results import Value
from companion.toys.planted import WorldConfig
from featint.config import at_least, choose

SIZES = {
    "smoke": (1, 12_800),
    "laptop": (3, 300_000),
    "full": (5, 600_000),
    "paper": (5, 1_200_000),
}
"""Seeds and training tokens by profile."""
TARGET = 0.9
"""Share of the strong planted pairs that a method should find among at most 5 % false ones. Strong means strength 1."""
KNOBS = (
    "n_features",
    "d_in",
    "n_active",
    "n_products",
    "strength",
    "noise",
    "n_tokens",
    "d_factor",
)
MEASURES = {
    "recall_difference": "%",
    "recall_factors": "%",
    "auprc_difference": "area",
    "auprc_factors": "area",
    "gain": "%",
    "fvu": "FVU",
    "bought": "%",
    "cosine": "cosine",
    "removed": "%",
    "false": "pairs",
    "reported": "pairs",
    "parameters": "parameters",
}
"""What the results file holds of each setting, and in which unit."""


SHARES = ("recall_difference", "recall_factors", "auprc_difference", "auprc_factors", "bought")
"""Measures that cannot leave 0 to 1; neither do their intervals."""


def turned(p: Profile, **knobs) -> Profile:
    """The profile with this chapter's own knobs noted, so that a rerun with other values has a results folder of its own."""
    return replace(
        p,
        turned=(
            *p.turned,
            *(f"{name}={value!r}" for name, value in knobs.items() if value is not None),
        ),
    )


def base(p: Profile, **knobs) -> Trial:
    """The trial that every sweep varies: the profile's number of tokens, and whatever knob is not None. Raises ValueError for impossible ones."""
    for name in knobs:
        choose("knob", name, KNOBS)
    chosen = {"n_tokens": SIZES[p.name][1]} | {
        name: value for name, value in knobs.items() if value is not None
    }
    world = {
        name: chosen.pop(name) for name in list(chosen) if name in WorldConfig.__dataclass_fields__
    }
    return Trial(world=WorldConfig(**world), **chosen)


def plan(
    p: Profile, trial: Trial, first_seed: int = 0, n_seeds: int | None = None
) -> dict[str, list[Trial]]:
    """The chapter's sweeps by name, checked as a whole before anything trains.

    Raises ValueError for an empty sweep or a combination that cannot be, naming it.
    """
    n_seeds = SIZES[p.name][0] if n_seeds is None else n_seeds
    at_least("n_seeds", n_seeds, 1)
    seeds, n = range(first_seed, first_seed + n_seeds), trial.n_tokens
    some = ["true codes", "sequential"]
    few = p.name == "smoke"
    lists = {
        "settings": {"setting": list(SETTINGS)},
        "nothing": {"setting": list(WITH_PAIRS), "order": ["none", "triples"]},
        "bias": {"setting": some, "hidden_bias": [False, True]},
        "tokens": {
            "setting": some,
            "n_tokens": [n // 2, n] if few else [n // 8, n // 4, n // 2, n],
        },
        "strength": {
            "setting": ["true codes"],
            "strength": [0.5, 1.0] if few else [0.25, 0.5, 1.0],
        },
        "factors": {
            "setting": ["true codes"],
            "d_factor": sorted({8, trial.d_factor}) if few else sorted({8, 16, trial.d_factor}),
        },
        "crowding": {
            "setting": ["sequential"],
            "d_in": [d * trial.world.d_in // 2 for d in ((2, 4) if few else (1, 2, 4))],
        },
    }
    return {name: recovery.trials(trial, **values, seed=seeds) for name, values in lists.items()}


def run(sweeps: dict[str, Sequence[Trial]]) -> dict[str, pd.DataFrame]:
    """The rows of every sweep; a trial that several of them share is trained once.

    To `recovery.run`'s columns come `removed`, the share of the error of the best affine map of the codes that the interaction path removes,
    and `gain`, the same as a share of what the planted products explain; there is none where nothing is planted. On true codes 1 is all that
    could be done; on learned codes the path also repairs the codes, which may be more.
    """
    unique = list(dict.fromkeys(t for todo in sweeps.values() for t in todo))
    rows = recovery.sweep(unique)
    carried = (rows["fvu_linear_floor"] - rows["fvu_floor"]).where(rows["order"] != "none")
    rows["gain"] = (rows["fvu_refit"] - rows["fvu_refit_pairs"]) / carried
    rows["removed"] = 1 - rows["fvu_refit_pairs"] / rows["fvu_refit"]
    place = {trial: i for i, trial in enumerate(unique)}
    return {
        name: rows.iloc[[place[t] for t in todo]].reset_index(drop=True)
        for name, todo in sweeps.items()
    }


def setup(trial: Trial, sweeps: dict[str, Sequence[Trial]]) -> pd.DataFrame:
    """The sizes of the chapter as readers see them: columns setting, value."""
    w = trial.world
    sizes = {
        "features": w.n_features,
        "dimensions": w.d_in,
        "active per token": w.n_active,
        "planted pairs": w.n_products,
        "possible pairs": comb(w.n_features, 2),
        "noise": w.noise,
        "strength": w.strength,
        "training tokens": trial.n_tokens,
        "d_factor": trial.d_factor,
        "seeds": len({t.world.seed for t in sweeps["settings"]}),
        "different trials": len({t for todo in sweeps.values() for t in todo}),
    }
    return pd.DataFrame(
        {"setting": list(sizes), "value": [f"{value:,}" for value in sizes.values()]}
    )


def over_seeds(rows: pd.DataFrame, by: list[str], measure: str) -> pd.DataFrame:
    """Mean of a measure over seeds with its 95 % t interval, a row per group that has it: columns by, value, lo, hi, n."""
    kept = rows.dropna(subset=[measure])
    found = [
        (*key, *stats.interval_over_seeds(group[measure].astype(float).tolist())[:4])
        for key, group in kept.groupby(by, sort=False)
    ]
    summary = pd.DataFrame(found, columns=[*by, "value", "lo", "hi", "n"])
    if measure in SHARES:
        summary[["lo", "hi"]] = summary[["lo", "hi"]].astype(float).clip(0, 1)
    return summary


def table(rows: pd.DataFrame, by: str, measures: dict[str, tuple[str, str]]) -> pd.DataFrame:
    """Means over seeds as readers see them: a row per value of `by`, a column per measure -> (label, format); a dash where there is none."""
    columns = {}
    for measure, (label, spec) in measures.items():
        summary = over_seeds(rows, [by], measure).set_index(by)
        columns[label] = {name: shown(row, spec) for name, row in summary.iterrows()}
    return pd.DataFrame(columns, index=pd.Index(rows[by].unique(), name=by))


def shown(e: pd.Series, spec: str) -> str:
    """`0.93 [0.85, 1.01]`, without the interval for one seed; what rounds to zero has no sign."""
    interval = "" if pd.isna(e.lo) else f" [{e.lo:z{spec}}, {e.hi:z{spec}}]"
    return f"{e.value:z{spec}}{interval}".replace("-", "−")


def values(sweeps: dict[str, pd.DataFrame]) -> dict[str, Value]:
    """The chapter's results: `<setting>/<measure>/controlled`, and for worlds without pairs `<setting>/<order>/<measure>/controlled`."""
    found = {}
    for name, by in (
        ("settings", ["setting"]),
        ("nothing", ["setting", "order"]),
        ("bias", ["setting", "hidden_bias"]),
    ):
        rows = (
            sweeps[name]
            if name != "bias"
            else sweeps[name][sweeps[name]["hidden_bias"]].assign(hidden_bias="trained_bias")
        )
        for measure, unit in MEASURES.items():
            if name == "nothing" and measure not in ("reported", "removed", "fvu"):
                continue
            for row in over_seeds(rows, by, measure).itertuples(index=False):
                key = "/".join(map(slug, row[: len(by)]))
                scale = 100 if unit == "%" else 1
                ci = None if pd.isna(row.lo) else (scale * row.lo, scale * row.hi)
                found[f"{key}/{measure}/controlled"] = Value(
                    scale * row.value, int(row.n), f"{unit}; n seeds", "controlled", ci
                )
    return found


def slug(setting: str) -> str:
    """A setting's name as part of a key."""
    return str(setting).lower().replace(", ", "_").replace(" ", "_")


def reading(value: float, lo: float | None, hi: float | None, bound: float) -> str:
    """Whether a mean over seeds lies above a bound, as far as its interval can tell."""
    side = "yes" if value >= bound else "no"
    if pd.isna(lo):
        return f"{side}, with the one seed that was run"
    return (
        side
        if (lo >= bound or hi < bound)
        else f"{side} on average; the interval includes {bound:g}"
    )


def claims(sweeps: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The chapter's last table: claim, ours, reading; every number from the rows."""
    found = []
    recall = over_seeds(sweeps["settings"], ["setting"], "recall_difference").set_index("setting")
    for setting in WITH_PAIRS:
        e = recall.loc[setting]
        found.append(
            (
                f"{SETTINGS[setting]}: finds 90 % of strong pairs at 5 % false",
                shown(e, ".2f"),
                reading(e.value, e.lo, e.hi, TARGET),
            )
        )
    e = over_seeds(sweeps["settings"], ["setting"], "gain").set_index("setting").loc["true codes"]
    found.append(
        (
            f"{SETTINGS['true codes']}: wins half of what the products carry",
            shown(e, ".2f"),
            reading(e.value, e.lo, e.hi, 0.5),
        )
    )
    nothing = sweeps["nothing"][sweeps["nothing"]["order"] == "none"]
    for setting in WITH_PAIRS:
        reported, removed = (
            over_seeds(nothing[nothing["setting"] == setting], ["setting"], m).iloc[0]
            for m in ("reported", "removed")
        )
        text = "no" if reported.value == 0 else "yes, in some seeds"
        found.append(
            (
                f"{SETTINGS[setting]}: reports pairs where none are planted",
                f"{shown(reported, '.1f')} pairs",
                text,
            )
        )
        found.append(
            (
                f"{SETTINGS[setting]}: removes over 1 % of the error where nothing is planted",
                shown(removed, ".3f"),
                reading(*removed[["value", "lo", "hi"]], 0.01),
            )
        )
    by_seed = sweeps["settings"].pivot(index="seed", columns="setting", values="fvu")
    for other in ("joint, no interaction", "SAE, matched"):
        e = stats.interval_over_seeds((100 * (1 - by_seed["joint"] / by_seed[other])).tolist())
        row = pd.Series({"value": e.value, "lo": e.lo, "hi": e.hi}, dtype=float)
        found.append(
            (
                f"joint model: less error than {SETTINGS[other]}",
                f"{shown(row, '.1f')} %",
                reading(row.value, row.lo, row.hi, 0),
            )
        )
    return pd.DataFrame(found, columns=["claim", "ours", "reading"])
