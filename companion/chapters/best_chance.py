"""The interaction path tuned as its advocate would, on validation text, and measured once on test text against equally tuned baselines."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from companion import stats, variants
from companion.chapters import interaction_path
from companion.profiles import Profile
from companion.results import Value
from featint import harvest, heldout, metrics, runs, store
from featint.config import ModelConfig

RATES = ((1.0, 1.0), (1.0, 2.0), (1.5, 1.0), (1.5, 2.0))
"""First round, plain SAEs: factors on the learning rate of the whole model, and on the decoder's beyond that."""
FURTHER = (1.25, 0.8, 1.5, 0.65, 2.0)
"""Second round, plain SAEs: factors on the best learning rate, as many as it takes to have as many trials as the other families."""
FORMS = {"interactions (NFM)": "nfm", "polynomial": "polynomial", "MLP on the codes": "mlp"}
ROLES = {
    "plain SAE": "sae",
    "interactions (NFM)": "interaction",
    "polynomial": "linear",
    "MLP on the codes": "joint",
}


@dataclass(frozen=True)
class Trial:
    """One setting of one family."""

    family: str
    setting: str
    """The setting in words."""
    config: ModelConfig


def tuned(config: ModelConfig, lr: float, decoder: float) -> ModelConfig:
    """A model with the learning rate of all parameters, and of the decoder beyond that, multiplied."""
    prefix = "W_dec" if config.nfm is None else "sae.W_dec"
    scale = {**config.train.lr_scale, prefix: decoder} if decoder != 1 else config.train.lr_scale
    return replace(config, train=replace(config.train, lr=config.train.lr * lr, lr_scale=scale))


def first_round(p: Profile) -> list[Trial]:
    """Plain SAEs with a decoder bias at every pair of `RATES`, but for the last where time is short, trained for a quarter of the tokens."""
    base = variants.get("sae_short", p)
    rates = RATES[:-1] if p.short else RATES
    return [
        Trial(
            "plain SAE",
            f"learning rate x {lr:g}, decoder x {lr * decoder:g}",
            tuned(base, lr, decoder),
        )
        for lr, decoder in rates
    ]


def grid(
    p: Profile, own_lr: Sequence[float] | None = None, widths: Sequence[float] | None = None
) -> dict[str, tuple]:
    """The factors tried on an interaction path's learning rate and on d_factor, and whether its codes are normalised.

    None takes the profile's; where time is short, only the setting that did best for the interactions when all were tried (profile `full`).
    """
    return {
        "own_lr": ((0.5,) if p.short else (0.2, 0.5, 1.0)) if own_lr is None else tuple(own_lr),
        "widths": (4.0,) if widths is None else tuple(widths),
        "normalise": (True,) if p.short else (False, True),
    }


def second_round(
    p: Profile,
    best: ModelConfig,
    own_lr: Sequence[float],
    widths: Sequence[float],
    normalise: Sequence[bool] = (False, True),
) -> list[Trial]:
    """All families at the best plain setting, as many trials each.

    Interaction paths get no dropout and are tried at every own learning rate (`own_lr`, factors), every width (`widths`, factors on d_factor), with raw
    and with normalised codes (`normalise`). The plain SAE's trials spend the widest path's parameters on features instead, and try further learning rates.
    Raises ValueError, before anything is trained, for an empty list or an impossible factor.
    """
    for name, factors in (("own_lr", own_lr), ("widths", widths)):
        if not factors or not all(np.isfinite(f) and f > 0 for f in factors):
            raise ValueError(
                f"{name} = {list(factors)!r} must hold at least one factor, and only positive ones"
            )
    combinations = list(itertools.product(own_lr, widths, normalise))
    if len(combinations) > len(FURTHER) + 1:
        raise ValueError(
            f"own_lr x widths give {len(combinations)} trials per family; the plain SAE has {len(FURTHER) + 1}, ask for fewer factors"
        )
    frozen = {f"sae.{name}": factor for name, factor in best.train.lr_scale.items()}
    trials = []
    for family, form in FORMS.items():
        for lr, width, normalised in combinations:
            d_factor = max(1, round(p.nfm.d_factor * width))
            nfm = replace(
                p.nfm, linear=False, dropout=0.0, d_factor=d_factor, form=form, normalise=normalised
            )
            config = replace(
                best, nfm=nfm, train=replace(best.train, lr_scale={"nfm": lr, **frozen})
            )
            words = f"own learning rate x {lr:g}, {d_factor} factors, {'normalised' if normalised else 'raw'} codes"
            trials.append(Trial(family, words, config))
    wider = replace(best.sae, d_sae=best.sae.d_sae + extra_features(p, max(widths)))
    trials.append(Trial("plain SAE", f"{wider.d_sae:,} features", replace(best, sae=wider)))
    for factor in FURTHER[: len(combinations) - 1]:
        config = replace(best, train=replace(best.train, lr=best.train.lr * factor))
        trials.append(Trial("plain SAE", f"learning rate x {factor:g} of the best", config))
    return trials


def extra_features(p: Profile, width: float) -> int:
    """How many more features have as many parameters as an NFM's interaction path of so many times the profile's factors."""
    d = round(p.nfm.d_factor * width)
    return max(1, round((p.sae.d_sae * d + d * (d + 1) + p.d_in * (d + 1)) / (2 * p.d_in + 1)))


def validate(trials: Sequence[Trial], p: Profile) -> pd.DataFrame:
    """Train what is missing and measure every trial on validation text: columns family, role, setting, fvu (NaN if it diverged), parameters, silent (`interaction_path.silent_units`), chosen (the family's best)."""
    rows = []
    for trial in trials:
        try:
            trained = runs.get(trial.config)
            total = heldout.sums({"trial": trial.config}, "validation").sum()
            found = {
                "fvu": metrics.fvu(total["sse/trial/all"], total["sst"]),
                "parameters": trained.n_parameters,
                "silent": interaction_path.silent_units(trained, p),
            }
        except (
            FloatingPointError
        ):  # the loss grew beyond all bounds: a result of this setting, not of the chapter
            found = {"fvu": float("nan"), "parameters": None, "silent": None}
        rows.append(
            {"family": trial.family, "role": ROLES[trial.family], "setting": trial.setting, **found}
        )
    frame = pd.DataFrame(rows)
    return frame.assign(chosen=frame["fvu"] == frame.groupby("family")["fvu"].transform("min"))


def winners(trials: Sequence[Trial], frame: pd.DataFrame) -> dict[str, Trial]:
    """The chosen trial of each family."""
    return {row.family: trials[i] for i, row in frame.iterrows() if row.chosen}


def of_width(trials: Sequence[Trial], frame: pd.DataFrame, d_sae: int) -> Trial:
    """The best plain SAE of that many features, whatever else was tuned."""
    plain = [
        i for i, t in enumerate(trials) if t.family == "plain SAE" and t.config.sae.d_sae == d_sae
    ]
    return trials[frame["fvu"].iloc[plain].idxmin()]


def longer(config: ModelConfig, p: Profile) -> ModelConfig:
    """The same model trained for all of the profile's tokens."""
    return replace(config, train=replace(config.train, n_tokens=p.train.n_tokens))


def warm(best_plain: ModelConfig, best_path: ModelConfig) -> tuple[ModelConfig, ModelConfig]:
    """The interaction model started from the finished plain SAE, and its twin whose path stays frozen at its random initial values.

    Both go on with the SAE for the same tokens on the same schedule, so that they differ in what the path learns and in nothing else.
    """
    start = replace(best_path, sae=best_plain.sae, base=best_plain)
    return start, replace(
        start, train=replace(start.train, lr_scale=start.train.lr_scale | {"nfm": 0.0})
    )


def at_mlp(path: ModelConfig, plain: ModelConfig, p: Profile) -> tuple[ModelConfig, ModelConfig]:
    """The interaction model and its plain rival on the output of the same block's MLP, their settings carried over, on less text (`Profile.mlp_site`)."""
    harvest.harvest(p.mlp_site)
    path, plain = (
        replace(c, harvest=p.mlp_site, train=replace(c.train, n_tokens=p.mlp_tokens))
        for c in (path, plain)
    )
    return path, plain


def test_once(pairs: dict[str, tuple[ModelConfig, ModelConfig]], p: Profile) -> pd.DataFrame:
    """Test FVU and gain of each (model, baseline), paired by token, articles drawn anew: rows `<name>/fvu`, `<name>/baseline_fvu`, `<name>/gain`.

    Raises ValueError if the models do not all read the same activations.
    """
    sums = heldout.sums(
        {store.key(config): config for config in itertools.chain(*pairs.values())}
    )  # each once, in however many pairs

    def statistic(t: pd.DataFrame) -> dict:
        rows = {}
        for name, pair in pairs.items():
            a, b = (t[f"sse/{store.key(config)}/all"] for config in pair)
            rows |= {
                f"{name}/fvu": a / t["sst"],
                f"{name}/baseline_fvu": b / t["sst"],
                f"{name}/gain": 100 * (1 - a / b),
            }
        return rows

    return stats.bootstrap(sums, statistic, p.bootstrap)


def values(tested: pd.DataFrame, correlations: pd.DataFrame) -> dict[str, Value]:
    """The chapter's results file. The ledger shows the gain of the interactions at the whole budget beside C1's headline."""
    found = {}
    for name, row in tested.iterrows():
        unit = "%" if name.endswith("gain") else "fraction"
        found[f"{name}/controlled"] = Value(
            row.value, int(row.n), f"{unit}; n articles", "controlled", (row.lo, row.hi)
        )
    found["interaction/gain_vs_best_baseline/controlled"] = found["whole_budget/gain/controlled"]
    for key, row in zip(
        ("weight", "weight_partial", "covariance"), correlations.itertuples(), strict=True
    ):
        found[f"pairs/{key}_co_occurrence/controlled"] = Value(
            row[2], int(row.pairs), "Spearman r; n pairs", "controlled"
        )
    return found


def trial_table(frame: pd.DataFrame) -> pd.DataFrame:
    """All trials as readers see them."""
    chosen = frame["chosen"].map({True: "best of its family", False: ""})
    return frame.assign(chosen=chosen)[
        ["family", "setting", "parameters", "silent", "fvu", "chosen"]
    ].rename(columns={"silent": "silent units", "fvu": "validation FVU", "chosen": " "})


def gain_rows(tested: pd.DataFrame, labels: dict[str, tuple[str, str]]) -> pd.DataFrame:
    """Gains of `test_once` for `figures.intervals`; `labels` gives name -> (label, role)."""
    return pd.DataFrame(
        [
            {"label": text, "role": role, **tested.loc[f"{name}/gain", ["value", "lo", "hi"]]}
            for name, (text, role) in labels.items()
        ]
    )
