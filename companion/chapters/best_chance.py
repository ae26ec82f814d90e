"""The interaction path tuned as its advocate would: the trials, the state of its hidden units, warm
starts, and the weights that it gives to pairs of features."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from companion.profiles import Profile
from featint import activations, metrics, reconstruction, runs
from featint.activations import Activations
from featint.config import HarvestConfig, ModelConfig
from featint.runs import Trained


def tuned(config: ModelConfig, lr: float, decoder: float = 1.0) -> ModelConfig:
    """A plain SAE with the learning rate of all parameters, and of the decoder beyond that,
    multiplied."""
    scale = {**config.train.lr_scale} | ({"W_dec": decoder} if decoder != 1 else {})
    return replace(config, train=replace(config.train, lr=config.train.lr * lr, lr_scale=scale))


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
            raise ValueError(
                f"{name} = {list(factors)!r} must hold at least one factor, and only positive ones"
            )
    combinations = list(itertools.product(own_lr, widths, normalise))
    if len(combinations) > len(further) + 1:
        raise ValueError(
            f"own_lr x widths give {len(combinations)} trials per family; "
            f"the plain SAE has {len(further) + 1}, ask for fewer factors"
        )
    carried = {f"sae.{name}": factor for name, factor in best.train.lr_scale.items()}
    trials = []
    for form, (lr, width, normalised) in itertools.product(forms, combinations):
        d_factor, codes = factors_of(p, width), "normalised" if normalised else "raw"
        changes = {"linear": False, "dropout": 0.0, "form": form, "normalise": normalised}
        nfm = replace(p.nfm, d_factor=d_factor, **changes)
        train = replace(best.train, lr_scale={"nfm": lr, **carried})
        words = f"own learning rate x {lr:g}, {d_factor} factors, {codes} codes"
        trials.append((form, words, replace(best, nfm=nfm, train=train)))
    d_sae = best.sae.d_sae + extra_features(p, max(widths))
    wider = replace(best, sae=replace(best.sae, d_sae=d_sae))
    trials.append(("sae", f"{d_sae:,} features", wider))
    for factor in further[: len(combinations) - 1]:
        trials.append(("sae", f"learning rate x {factor:g} of the best", tuned(best, factor)))
    return pd.DataFrame(trials, columns=["family", "setting", "config"])


def factors_of(p: Profile, width: float) -> int:
    """d_factor at so many times the profile's."""
    return max(1, round(p.nfm.d_factor * width))


def extra_features(p: Profile, width: float) -> int:
    """How many features have as many parameters as an NFM's interaction path of that width."""
    m = factors_of(p, width)
    return max(1, round((p.sae.d_sae * m + m * (m + 1) + p.d_in * (m + 1)) / (2 * p.d_in + 1)))


def validate(trials: pd.DataFrame, p: Profile) -> pd.DataFrame:
    """Trials (family, config) with what validation text says of each; trains what is missing.

    Adds fvu (NaN if the training diverged), parameters, silent (share of the hidden units that
    pass nothing; None without such units), and chosen, the family's best.
    """
    x, rows = activations.load(p.harvest, "validation").pieces()[0], []
    for config in trials["config"]:
        try:
            trained = runs.get(config)
            total = reconstruction.sums({"trial": config}, "validation").sum()
            fvu = metrics.fvu(total["sse", "trial", "all"], total["sst", "", ""])
        except FloatingPointError:  # a result of this setting: its loss grew beyond all bounds
            rows.append({"fvu": np.nan, "parameters": None, "silent": None})
            continue
        units = passing(trained, x)
        silent = None if units is None else (units == 0).double().mean().item()
        rows.append({"fvu": fvu, "parameters": trained.n_parameters, "silent": silent})
    tried = trials.assign(**pd.DataFrame(rows, index=trials.index))
    return tried.assign(chosen=tried["fvu"] == tried.groupby("family")["fvu"].transform("min"))


@torch.no_grad()
def passing(trained: Trained, x: Float[Tensor, "n d_in"]) -> Float[Tensor, " d_factor"] | None:
    """Share of tokens on which each hidden unit of an interaction path passes anything; None for a
    model without hidden units."""
    nfm = trained.config.nfm
    if nfm is None or not nfm.interaction or nfm.form == "polynomial":
        return None
    return (trained.model.nfm.hidden(trained.model.encode(x)) > 0).double().mean(0)


def again(config: ModelConfig, n_tokens: int, harvest: HarvestConfig | None = None) -> ModelConfig:
    """The same settings on another budget, and at another place to read if one is given."""
    train = replace(config.train, n_tokens=n_tokens)
    return replace(config, train=train, harvest=harvest or config.harvest)


def warm(plain: ModelConfig, path: ModelConfig) -> tuple[ModelConfig, ModelConfig]:
    """The interaction model started from the finished plain SAE, and its twin whose path stays
    frozen at its random initial values.

    Both go on with the SAE for the same tokens on the same schedule, so that they differ in what
    the path learns and in nothing else.
    """
    start = replace(path, sae=plain.sae, base=plain)
    frozen = replace(start.train, lr_scale=start.train.lr_scale | {"nfm": 0.0})
    return start, replace(start, train=frozen)


@torch.no_grad()
def pair_weights(
    model: nn.Module, acts: Activations, n_features: int, min_tokens: int, seed: int
) -> pd.DataFrame:
    """Interaction weights of pairs of features beside how often they fire together.

    A row per pair: weight, the norm of V_i * V_j; together, tokens on which both fire; covariance
    of their codes, absolute; by_chance, the product of their firing rates. `n_features` are drawn
    at random among those that fire on at least `min_tokens` tokens.
    """
    pieces = [model.encode(x) for x in acts.pieces()]
    counts = metrics.density(pieces, model.d_sae) * len(acts)
    alive = np.flatnonzero(counts.round() >= min_tokens)
    chosen = np.sort(np.random.default_rng(seed).permutation(alive)[:n_features])
    codes = [piece.dense(model.d_sae)[:, chosen].double().cpu() for piece in pieces]
    codes = torch.cat(codes).numpy()
    fires, V = (codes > 0).astype(float), model.nfm.V[chosen].double().cpu().square().numpy()
    i, j = np.triu_indices(len(chosen), 1)
    rates = fires.mean(0)
    return pd.DataFrame(
        {
            "weight": np.sqrt((V @ V.T)[i, j]),
            "together": (fires.T @ fires)[i, j],
            "covariance": np.abs(np.cov(codes.T))[i, j],
            "by_chance": rates[i] * rates[j],
        }
    )
