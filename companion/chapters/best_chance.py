"""The interaction path tuned as its advocate would: trials, and their hidden units."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from companion import variants
from companion.profiles import Profile, altered
from featint import activations, metrics, reconstruction, runs
from featint.config import FORMS, ModelConfig
from featint.runs import Trained


def second_round(
    best: ModelConfig,
    p: Profile,
    forms: Sequence[str],
    own_lr: Sequence[float],
    widths: Sequence[float],
    normalise: Sequence[bool],
    further: Sequence[float],
) -> pd.DataFrame:
    """As many trials of each family at the best plain setting: columns family, setting, config.

    Paths of each of the `forms` (`NFMConfig.form`) get no dropout and no linear part, and are tried
    at every own learning rate (factors), every width (factors on d_factor), with raw and with
    normalised codes (`normalise`). The plain SAE ("sae") spends the widest path's parameters on
    features instead, and tries `further` factors on its best learning rate.

    Raises ValueError, before anything is trained, for an empty list or an impossible factor.
    """
    for name, factors in (("own_lr", own_lr), ("widths", widths)):
        if not factors or not all(np.isfinite(f) and f > 0 for f in factors):
            given = f"{name} = {list(factors)!r}"
            raise ValueError(f"{given} must hold at least one factor, and only positive ones")
    combinations = list(itertools.product(own_lr, widths, normalise))
    if (many := len(combinations)) > (most := len(further) + 1):
        given = f"own_lr x widths give {many} trials per family"
        raise ValueError(f"{given}; the plain SAE has {most}, ask for fewer factors")
    carried = {f"sae.{name}": factor for name, factor in best.train.lr_scale.items()}
    paths = {
        w: replace(p.nfm, d_factor=max(1, round(p.nfm.d_factor * w)), linear=False, dropout=0.0)
        for w in widths
    }
    trials = []
    for form, (lr, width, normalised) in itertools.product(forms, combinations):
        nfm = replace(paths[width], form=form, normalise=normalised)
        codes = "normalised" if normalised else "raw"
        words = f"own learning rate x {lr:g}, {nfm.d_factor} factors, {codes} codes"
        trial = altered(best, {"nfm": nfm, "train": {"lr_scale": {"nfm": lr, **carried}}})
        trials.append((form, words, trial))
    d_sae = best.sae.d_sae + variants.nfm_as_features(p, paths[max(widths)])
    trials.append(("sae", f"{d_sae:,} features", altered(best, {"sae": {"d_sae": d_sae}})))
    for factor in further[: len(combinations) - 1]:
        trial = altered(best, {"train": {"lr": best.train.lr * factor}})
        trials.append(("sae", f"learning rate x {factor:g} of the best", trial))
    return pd.DataFrame(trials, columns=["family", "setting", "config"])


def validate(trials: pd.DataFrame, p: Profile) -> pd.DataFrame:
    """Trials (family, config) with what validation text says of each; trains what is missing.

    Adds fvu, parameters and silent, the share of the hidden units that pass nothing (NaN without
    such units; all NaN if the training diverged), and chosen, the family's best.
    """
    acts, rows = activations.load(p.harvest, "validation", p.train.first_position), []
    x = acts.pieces()[0]
    for config in trials["config"]:
        try:
            trained = runs.get(config)
        except FloatingPointError:  # a result of this setting: its loss grew beyond all bounds
            rows.append({})
            continue
        total = reconstruction.sums({"trial": config}, "validation").sum()
        fvu = metrics.fvu(total["sse", "trial", "all"], total["sst", "", ""])
        silent = (passing(trained, x) == 0).double().mean().item()
        rows.append({"fvu": fvu, "parameters": trained.n_parameters, "silent": silent})
    tried = trials.join(pd.DataFrame(rows, trials.index, ["fvu", "parameters", "silent"]))
    return tried.assign(chosen=tried["fvu"] == tried.groupby("family")["fvu"].transform("min"))


@torch.no_grad()
def passing(trained: Trained, x: Float[Tensor, "n d_in"]) -> Float[Tensor, " hidden"]:
    """Share of tokens on which each hidden unit of an interaction path, if any, passes anything."""
    nfm = trained.config.nfm
    if nfm is None or not nfm.interaction or not FORMS[nfm.form]:
        return torch.zeros(0)
    return (trained.model.nfm.hidden(trained.model.encode(x)) > 0).double().mean(0)
