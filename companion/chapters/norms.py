"""Claim C4 by the weights: squared decoder norms, their modes and their history, the published weight shares with their nulls, the decoder's spectrum."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from statsmodels.stats.multitest import multipletests
from torch import Tensor

from featint import contributions, geometry, runs
from featint.config import ModelConfig
from featint.effects import parted
from featint.joint import JointSAE
from featint.runs import Trained
from featint.sae import TopKSAE

PUBLISHED_SPLIT = 0.2
PUBLISHED_START = 3200 / (3 * 50_000)
"""Squared norm at which the paper parts its features, by eye, and the one at which its directions start."""
RARE = 0.05
"""A feature is rare if it was active on fewer than this share of k / d_sae of the training tokens: a twentieth of the average."""

MIN_WEIGHT = 0.05
"""A mode holds at least this share of the features."""

NUMBERS = ["dip", "p", "p_holm", "bic_gain", "low_weight", "low", "high", "valley"]


class Split(NamedTuple):
    """Where features are parted into low and high norm, and by which rule."""

    value: float
    how: str


def decoder(model: TopKSAE | JointSAE) -> Tensor:
    """(d_sae, d_in) the SAE's directions."""
    return (model if isinstance(model, TopKSAE) else model.sae).W_dec.detach().cpu()


def history(m: Trained) -> pd.DataFrame:
    """`describe` of a trained model."""
    return describe(m.config, decoder(m.model), m.fired_tokens)


def describe(config: ModelConfig, W_dec: Tensor, fired_tokens: Tensor) -> pd.DataFrame:
    """One row per feature: `s` its squared norm, `start` that at the start, `cosine` of its direction with the initial one, `updates`, and whether it is `rare`.

    Raises ValueError as `geometry.checked` if a direction is zero or not finite.
    """
    initial = decoder(runs.build(config, W_dec.shape[1]))
    rate = fired_tokens.double().numpy() / (config.train.n_steps * config.train.batch_tokens)
    return pd.DataFrame(
        {
            "s": geometry.squared_norms(W_dec).numpy(),
            "start": geometry.squared_norms(initial).numpy(),
            "cosine": torch.nn.functional.cosine_similarity(
                W_dec.double(), initial.double()
            ).numpy(),
            "updates": fired_tokens.numpy(),
            "rare": rate < RARE * config.sae.k / config.sae.d_sae,
        }
    ).rename_axis("feature")


def modes(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Tests of one mode against two: for each model's `history`, of all features and of those that are not rare, on both scales.

    Columns n, dip, p (of the dip), p_holm (corrected over all rows), bic_gain, low, high, low_weight, valley (as squared norms), reason.
    """
    rows = []
    for model, table in tables.items():
        for which, s in (("all", table.s), ("not rare", table.s[~table.rare])):
            for scale, forth, back in (("s", np.asarray, float), ("log s", np.log, np.exp)):
                found = geometry.bimodality(forth(s.to_numpy()))
                low, high = found.means or (None, None)
                places = {"low": low, "high": high, "valley": found.valley}
                rows.append(
                    {
                        "model": model,
                        "features": which,
                        "scale": scale,
                        "n": found.n,
                        "dip": found.dip,
                        "p": found.dip_p,
                        "p_holm": None,
                        "bic_gain": found.bic_gain,
                        "low_weight": found.low_weight,
                        "reason": found.reason,
                    }
                    | {name: None if x is None else float(back(x)) for name, x in places.items()}
                )
    frame = pd.DataFrame(rows).set_index(["model", "features", "scale"])
    frame[NUMBERS] = frame[NUMBERS].astype(float)  # None becomes NaN: a dash in tables
    tested = frame.p.notna()
    if tested.any():
        frame.loc[tested, "p_holm"] = multipletests(frame.p[tested], method="holm")[1]
    return frame


def two_modes(row: pd.Series) -> bool:
    """Whether a row of `modes` supports two: two Gaussians fit better than one by BIC, their density has a valley, and neither is a handful of outliers."""
    return bool(
        pd.notna(row.valley) and row.bic_gain > 0 and MIN_WEIGHT <= row.low_weight <= 1 - MIN_WEIGHT
    )


def split(modes: pd.DataFrame, model: str, table: pd.DataFrame) -> Split:
    """Where to part a model's features, whose `history` is `table`. The paper's 0.2 belongs to the scale of its initial norms; this is the one place that transfers it.

    The valley, if the mixture on the logarithmic scale supports two modes; else the same multiple (9.4) of the mean initial squared norm; and if that
    leaves less than a twentieth of the features on one side, the median.
    """
    row = modes.loc[(model, "all", "log s")]
    if two_modes(row):
        return Split(float(row.valley), "the valley between two modes")
    at = float(PUBLISHED_SPLIT / PUBLISHED_START * table.start.mean())
    if MIN_WEIGHT <= (table.s < at).mean() <= 1 - MIN_WEIGHT:
        return Split(at, "the paper's multiple of the initial squared norm")
    return Split(
        float(table.s.median()),
        f"the median, since the paper's multiple of the initial squared norm, {at:.3g}, has nearly all features on one side",
    )


def mode_table(modes: pd.DataFrame) -> pd.DataFrame:
    """`modes` for readers; what could not be computed is missing, with the reason in the last column."""
    names = {
        "n": "n",
        "dip": "dip",
        "p_holm": "p",
        "bic_gain": "BIC gain",
        "low": "low",
        "high": "high",
        "low_weight": "share of low",
        "valley": "valley",
    }
    table = modes[[*names, "reason"]].rename(columns=names | {"reason": "remark"}).reset_index()
    return table.assign(
        remark=table["remark"].replace("the two components have a single peak", "one peak")
    )


class Weights(NamedTuple):
    """The published analysis of a joint model by sizes of weights, and what it gives without any training of the integration weights."""

    ratios: pd.DataFrame
    """As `contributions.contribution_ratios`."""
    null: pd.DataFrame
    """The same with freshly drawn integration weights."""
    table: pd.DataFrame
    """By (share, group): the mean in per cent, `measured`, `drawn` anew, `predicted` from the expected initial norms; n."""
    spearman: pd.DataFrame
    """By share: correlation with the squared norm, `measured`, `drawn`, `predicted`."""
    apart: float
    """How far what training added to the linear path's matrix is from what it added to the decoder, as a share of the latter's length (Frobenius)."""


def weights(m: Trained, at: Split, seed: int) -> Weights:
    """The published shares, with their nulls, for the features below and above a split."""
    sae, nfm = parted(m.model)
    initial_sae, initial_nfm = parted(runs.build(m.config, sae.W_dec.shape[1]))
    ratios = contributions.contribution_ratios(sae.W_dec, nfm.W_lin, nfm.V)
    null = contributions.initial_ratios(sae.W_dec, nfm.config.d_factor, seed)
    predicted = contributions.predicted_ratios(
        ratios.s.to_numpy(), sae.W_dec.shape[1], nfm.config.d_factor
    )
    tables = {
        name: contributions.group_means(frame, at.value)
        for name, frame in (("measured", ratios), ("drawn", null), ("predicted", predicted))
    }
    rows = [
        {"share": share, "group": group, "n": int(tables["measured"].loc[share, f"n_{side}"])}
        | {
            name: None if (x := table.loc[share, side]) is None else 100 * x
            for name, table in tables.items()
        }
        for share in contributions.SHARES
        for side, group in (("below", "low"), ("above", "high"))
    ]
    moved = [
        (W - W_0).detach().double()
        for W, W_0 in ((sae.W_dec, initial_sae.W_dec), (nfm.W_lin, initial_nfm.W_lin))
    ]
    return Weights(
        ratios,
        null,
        pd.DataFrame(rows).set_index(["share", "group"]).astype(dict.fromkeys(tables, float)),
        pd.DataFrame({name: t.spearman for name, t in tables.items()}),
        float((moved[0] - moved[1]).norm() / moved[0].norm()),
    )


def leading(shares: np.ndarray, published: bool) -> float:
    """Per cent of the variance in the components that correspond to the paper's first 50 of 3200; as published, of that of its first 1000 only."""
    d_in = len(shares)
    total = shares[: round(d_in * 1000 / 3200)].sum() if published else 1.0
    return float(100 * shares[: round(d_in * 50 / 3200)].sum() / total)


def spectra(models: Mapping[str, Trained]) -> dict[str, np.ndarray]:
    """Exact shares of all components, uncentred as published, of each decoder, and of `random`: the first one's directions before training."""
    first = next(iter(models.values()))
    found = {
        name: geometry.pca_shares(decoder(m.model), centred=False) for name, m in models.items()
    }
    return found | {
        "random": geometry.pca_shares(
            decoder(runs.build(first.config, decoder(first.model).shape[1])), centred=False
        )
    }
