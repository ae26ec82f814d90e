"""The results file of claim C4: the paper's numbers as published and their controlled counterparts."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import stats as st
from torch import Tensor

from companion.chapters import norm_heldout
from companion.chapters.norm_heldout import Observed
from companion.chapters.norms import Split, Weights, decoder, leading, two_modes
from companion.results import Value
from companion.stats import Estimate
from featint import geometry
from featint.effects import jackknife
from featint.runs import Trained

JACKKNIFE = 20
"""Groups of features left out in turn for intervals of the decoder's spectrum."""
KEYS = {"nfm": "total", "linear": "linear", "interaction": "nonlinear", "decoder": "residual"}
"""Our names of the shares, and those of the value ids."""


def flatter(sae: Trained, joint: Trained) -> pd.DataFrame:
    """How much more variance the SAE's leading components hold than the joint model's, in points: rows `leading` and `first`, with intervals over features."""
    W = [decoder(m.model) for m in (sae, joint)]
    group = torch.arange(len(W[0])) % JACKKNIFE

    def difference(kept: Tensor) -> pd.Series:
        a, b = (geometry.pca_shares(w[kept]) for w in W)
        return pd.Series(
            {"leading": leading(a, False) - leading(b, False), "first": 100 * (a[0] - b[0])}
        )

    left_out = pd.DataFrame([difference(group != i) for i in range(JACKKNIFE)])
    return jackknife(difference(group >= 0), left_out, JACKKNIFE).assign(n=len(W[0]))


def mode_values(row: pd.Series, s: np.ndarray) -> dict[str, tuple[float | None, str]]:
    """Places of the lower and the upper, or only, mode by a row of `modes`; a reason where there is none."""
    if two_modes(row):
        return {"low": (row.low, ""), "high": (row.high, "")}
    density = st.gaussian_kde(s)
    grid = np.linspace(s.min(), s.max(), 1001)
    return {
        "low": (None, "a mixture does not support two modes"),
        "high": (float(grid[density(grid).argmax()]), ""),
    }


class Measured(NamedTuple):
    """All that the chapter measured, from which its results file follows."""

    models: Mapping[str, Trained]
    tables: Mapping[str, pd.DataFrame]
    """`history` of each."""
    modes: pd.DataFrame
    splits: Mapping[str, Split]
    published: Weights
    spectra: Mapping[str, np.ndarray]
    observed: Mapping[str, Observed]


def values(m: Measured) -> dict[str, Value]:
    """The chapter's results file."""
    return as_published(m) | controlled(m)


def as_published(m: Measured) -> dict[str, Value]:
    """The paper's numbers by the released code's definitions, from the models trained as published."""
    sae, joint = m.tables["sae_published"].s, m.tables["joint_published"].s
    n, d_in = len(joint), len(m.spectra["random"])
    places = mode_values(m.modes.loc[("joint_published", "all", "log s")], joint.to_numpy())
    found = {
        "sae/squared_norm_mean": (sae.mean(), "squared norm"),
        "joint/squared_norm_mean_ratio": (joint.mean() / sae.mean(), "x"),
        "joint/squared_norm_valley": (m.splits["joint_published"].value, "squared norm"),
    } | {
        f"joint/squared_norm_{name}_mode": (place, reason or "squared norm")
        for name, (place, reason) in places.items()
    }
    first = round(d_in * 1000 / 3200)
    shares = {name: m.spectra[f"{name}_published"] for name in ("sae", "joint")}
    found["joint/pca_components_90"] = (
        100 * geometry.components_for(shares["joint"], first=first) / first,
        "%",
    )
    found["joint/pca_leading_difference"] = (
        leading(shares["sae"], True) - leading(shares["joint"], True),
        "points",
    )
    found |= {
        f"{name}/pca_first_ratio": (share[0] / share[:first].sum(), "ratio")
        for name, share in shares.items()
    }
    for share, name in KEYS.items():
        for group in ("low", "high"):
            row = m.published.table.loc[(share, group)]
            found[f"joint/contribution_{name}_{group}"] = (
                row.measured,
                "%" if row.n else f"no feature on the {group} side of the split",
            )
        found[f"joint/corr_{name}"] = (m.published.spearman.measured[share], "Spearman r")
    return {
        f"{key}/as_published": Value(
            None if pd.isna(x) else float(x), n, f"{unit}; n features", "as published"
        )
        for key, (x, unit) in found.items()
    }


def controlled(m: Measured) -> dict[str, Value]:
    """The controlled counterparts: tests instead of a split by eye, exact spectra, and effects on held-out text at equal firing rate."""
    dip = m.modes.loc[("joint", "not rare", "s")]
    n, features = len(m.tables["joint"]), m.observed["joint"].features
    found = {
        f"joint/{name}": Value(
            None if pd.isna(x) else float(x),
            int(dip.n),
            f"{dip.reason if pd.isna(x) else unit}; n features",
            "controlled",
        )
        for name, x, unit in (("dip", dip.dip, "dip"), ("dip_p", dip.p_holm, "p"))
    }
    exact = geometry.pca_shares(decoder(m.models["joint"].model))
    found["joint/pca_components_90"] = Value(
        100 * geometry.components_for(exact) / len(exact), n, "%; n features", "controlled"
    )
    for name, row in flatter(m.models["sae"], m.models["joint"]).iterrows():
        found[f"joint/pca_{name}_difference"] = Value(
            row.value, n, "points; n features", "controlled", (row.lo, row.hi)
        )
    acting = features.assign(nfm=features.linear + features.interaction)
    for share, name in KEYS.items():
        found[f"joint/effect_{name}_difference"] = estimated(
            norm_heldout.matched(acting, share, factor=100), "points"
        )
        found[f"joint/corr_{name}"] = estimated(norm_heldout.partial(acting, share), "Spearman r")
    return {f"{key}/controlled": value for key, value in found.items()}


def estimated(found: Estimate, unit: str) -> Value:
    """A controlled estimate over features as a result; without a value the unit gives the reason."""
    ci = None if found.lo is None else (found.lo, found.hi)
    return Value(
        found.value,
        found.n,
        f"{unit if found.value is not None else found.reason}; n features",
        "controlled",
        ci,
    )
