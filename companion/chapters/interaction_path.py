"""The interaction path looked into: are its hidden units alive, and do its weights follow how often features fire together?"""

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy import stats as scipy_stats
from torch import Tensor, nn

from companion import stats, variants
from companion.chapters import leftovers
from companion.profiles import Profile
from featint import activations, runs
from featint.runs import Trained

UNTUNED = ("joint", "sae_interaction", "sequential")
"""Models of the other chapters whose interaction paths are looked at before any tuning."""
PAIR_FEATURES = 600
"""Features among whose pairs interaction weights are compared with co-occurrence."""
MIN_TOKENS = 20
"""Of the validation split on which a feature must fire to be among them."""


@torch.no_grad()
def passing(trained: Trained, p: Profile) -> Float[Tensor, " d_factor"] | None:
    """Share of the tokens of a piece of validation text on which each hidden unit of an interaction path passes anything; None without hidden units."""
    nfm = trained.config.nfm
    if nfm is None or not nfm.interaction or nfm.form == "polynomial":
        return None
    hidden = trained.model.nfm.hidden(
        trained.model.encode(activations.load(p.harvest, "validation").pieces()[0])
    )
    return (hidden > 0).double().mean(0)


def silent_units(trained: Trained, p: Profile) -> float | None:
    """Share of the hidden units that pass nothing on any of these tokens; None without hidden units."""
    share = passing(trained, p)
    return None if share is None else (share == 0).double().mean().item()


def untuned(p: Profile) -> pd.DataFrame:
    """How alive the other chapters' interaction paths are: columns model, hidden units, silent, median (share of tokens on which a unit passes anything)."""
    rows = []
    for name in UNTUNED:
        trained = runs.get(variants.get(name, p))
        share = passing(trained, p)
        rows.append(
            {
                "model": f"`{name}`",
                "hidden units": len(share),
                "silent": silent_units(trained, p),
                "median": share.median().item(),
            }
        )
    return pd.DataFrame(rows)


@torch.no_grad()
def pair_weights(model: nn.Module, p: Profile) -> pd.DataFrame:
    """Interaction weights of pairs of features beside how often they fire together, on validation text.

    A row per pair: weight, the norm of V_i * V_j; together, tokens on which both fire; covariance of their codes, absolute; by_chance, the product
    of their firing rates. Features are drawn at random among those that fire on at least `MIN_TOKENS` tokens.
    """
    codes = [
        leftovers.as_matrix(model.encode(x), model.d_sae)
        for x in activations.load(p.harvest, "validation").pieces()
    ]
    counts = sum(np.asarray((c > 0).sum(0)).ravel() for c in codes)
    alive = np.flatnonzero(counts >= MIN_TOKENS)
    chosen = np.sort(np.random.default_rng(p.seeds[0]).permutation(alive)[:PAIR_FEATURES])
    dense = np.concatenate([c[:, chosen].toarray() for c in codes])
    fires = (dense > 0).astype(np.float64)
    V = model.nfm.V[torch.from_numpy(chosen)].double().cpu().square().numpy()
    i, j = np.triu_indices(len(chosen), 1)
    rates = fires.mean(0)
    return pd.DataFrame(
        {
            "weight": np.sqrt((V @ V.T)[i, j]),
            "together": (fires.T @ fires)[i, j],
            "covariance": np.abs(np.cov(dense.T))[i, j],
            "by_chance": rates[i] * rates[j],
        }
    )


def pair_correlations(pairs: pd.DataFrame) -> pd.DataFrame:
    """Spearman correlations over pairs: of interaction weight and of the codes' covariance with co-occurrence; the first also given chance."""
    weight, covariance = (
        scipy_stats.spearmanr(pairs[c], pairs["together"]).statistic
        for c in ("weight", "covariance")
    )
    partial = stats.partial_spearman(pairs, "weight", "together", "by_chance")
    rows = {
        "interaction weight and co-occurrence": weight,
        "the same at fixed firing rates": partial.value,
        "covariance of the codes and co-occurrence": covariance,
    }
    return pd.DataFrame(
        {"correlation over pairs": rows.keys(), "Spearman r": rows.values(), "pairs": len(pairs)}
    )
