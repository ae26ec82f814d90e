"""Claims C3 and C7: what the paper's percentages of parameters are percentages of, and what a parameter in the interaction path is worth."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from companion import profiles, stats, variants
from companion.chapters import behaviour
from companion.chapters.behaviour_results import cut, value
from companion.profiles import Profile
from companion.results import Value
from featint import activations, downstream, harvest, lm, metrics, runs
from featint.config import ModelConfig, NFMConfig
from featint.joint import JointSAE
from featint.nfm import NFM
from featint.runs import Trained
from featint.sae import TopKSAE

WIDTHS = (100, 200, 500, 1000, 2000)
"""Dictionary sizes of the SAE's curve, besides the profile's own."""
SHARES = (1, 3, 5, 10)
"""Per cent of all parameters that lie in the interaction path, at the same total as an SAE of the three largest widths, or the two largest in a short profile."""
FVU_TOKENS = 30_000
WINDOWS_SHARE = 1 / 16
COMPONENTS = {
    "encoder": ("sae.W_enc", "sae.b_enc"),
    "decoder": ("sae.W_dec",),
    "linear path": ("nfm.W_lin", "nfm.b_lin"),
    "factors V": ("nfm.V",),
    "MLP": ("nfm.W_hidden", "nfm.b_hidden", "nfm.W_out", "nfm.b_out"),
}


def counts(p: Profile) -> pd.Series:
    """Parameters of each component of the joint model at a profile's sizes, counted on a model without memory."""
    with torch.device("meta"):
        model = JointSAE(TopKSAE(p.d_in, p.sae), NFM(p.d_in, p.sae.d_sae, p.nfm))
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    found = pd.Series(
        {part: sum(sizes.pop(name) for name in names) for part, names in COMPONENTS.items()},
        name="parameters",
    )
    if sizes:
        raise ValueError(f"the parameter {next(iter(sizes))} belongs to no component")
    return found


def shares(n: pd.Series) -> dict[str, tuple[float | int, float | int | None]]:
    """The paper's numbers by value id: with its own choice of numerator, and with a consistent one; per cent, or parameters."""
    linear, mlp, total = int(n["linear path"]), int(n["MLP"]), int(n.sum())
    nonlinear = int(n["factors V"]) + mlp
    nfm = linear + nonlinear
    return {
        "parameters": (total, None),
        "nonlinear_share": (100 * nonlinear / total,) * 2,
        "integration_share": (100 * linear / total, 100 * nfm / total),
        "nonlinear_parameters": (mlp, nonlinear),
        "nonlinear_share_of_nfm": (100 * nonlinear / nfm,) * 2,
    }


def accounting(n: pd.Series) -> pd.DataFrame:
    """Components and their sums, with every denominator side by side."""
    rows = n.to_dict() | {
        "V + MLP (nonlinear)": n["factors V"] + n["MLP"],
        "linear path + V + MLP (NFM)": n["linear path"] + n["factors V"] + n["MLP"],
        "all": n.sum(),
    }
    nfm = rows["linear path + V + MLP (NFM)"]
    table = pd.DataFrame({"part": rows.keys(), "parameters": rows.values()})
    table["% of all"] = 100 * table["parameters"] / n.sum()
    inside = ~table["part"].isin(["encoder", "decoder", "all"])
    table["% of NFM"] = (100 * table["parameters"] / nfm).where(inside)
    return table


def size(p: Profile, d_sae: int) -> int:
    """Parameters of an SAE with decoder bias."""
    return d_sae * (2 * p.d_in + 1) + p.d_in


def interacting(p: Profile, d_sae: int, share: float) -> ModelConfig:
    """SAE plus interaction path, no linear one, as large as an SAE of `d_sae` features, with `share` per cent of it in factors and MLP.

    Raises ValueError if that leaves no room for a single factor, or for k features.
    """
    total, d = size(p, d_sae), p.d_in
    width = round(((1 - share / 100) * total - d) / (2 * d + 1))
    b, c = (
        width + 1 + d,
        d - share / 100 * total,
    )  # the path has d_factor^2 + d_factor (width + 1 + d) + d parameters
    d_factor = max(0, round((-b + math.sqrt(b * b - 4 * c)) / 2)) if c < 0 else 0
    if d_factor < 1 or width < p.sae.k:
        raise ValueError(
            f"share = {share!r} % of {total:,} parameters leaves {d_factor} factors and {width} features: at least 1 and k = {p.sae.k}"
        )
    base = variants.get("sae_interaction", p)
    return replace(
        base,
        sae=replace(base.sae, d_sae=width),
        nfm=NFMConfig(d_factor=d_factor, linear=False, dropout=p.nfm.dropout),
    )


def grid(p: Profile) -> dict[tuple[int, float], ModelConfig]:
    """The models of both curves by (width of the equally large SAE, per cent in the interaction path), all trained on a quarter of the tokens."""
    widths = sorted({w for w in WIDTHS if p.sae.k <= w < p.sae.d_sae} | {p.sae.d_sae})
    sae = variants.get("sae_bias", p)
    found = {(w, 0): replace(sae, sae=replace(sae.sae, d_sae=w)) for w in widths}
    found |= {
        (w, share): interacting(p, w, share)
        for w in widths[-2 if p.short else -3 :]
        for share in SHARES
    }
    return {name: variants.short(config) for name, config in found.items()}


def measure(
    models: Mapping[tuple[int, float], Trained], p: Profile, language_model: lm.LanguageModel
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Sums per article of every model of the grid: squared errors on test tokens, as `metrics.by_article`, and KL on test windows, as `behaviour.sums`."""
    acts = activations.load(p.harvest, "test")
    part = acts.subset(torch.arange(min(FVU_TOKENS, len(acts))))
    named = {f"{w}:{share}": m for (w, share), m in models.items()}
    errors = metrics.by_article(
        lambda x: {name: m.model(x).x_hat for name, m in named.items()}, part.pieces(), part.article
    )
    conditions = {
        name: downstream.condition(behaviour.by_path(m, "all"), m.config, acts)
        for name, m in named.items()
    }
    windows = (
        harvest.windows(p.harvest)
        .windows["test"]
        .first(behaviour.share_of(p.splice_windows, WINDOWS_SHARE))
    )
    rows = downstream.evaluate(language_model, windows, p.harvest, conditions)
    return errors, behaviour.sums(behaviour.plain(rows))


def curves(
    models: Mapping[tuple[int, float], Trained], errors: pd.DataFrame, kl: pd.DataFrame
) -> pd.DataFrame:
    """One row per model: width, share, d_sae, d_factor, parameters, fvu, kl, and `as_sae`, the parameters of an SAE with the same FVU over its own.

    `as_sae` is read off the SAE's curve, straight between its points in logarithms; missing beyond the ends.
    """
    fvu, total = metrics.fvu(errors.filter(like="sse/").sum(), errors["sst"].sum()), kl.sum()
    rows = pd.DataFrame(
        [
            {
                "width": w,
                "share": share,
                "d_sae": m.config.sae.d_sae,
                "d_factor": m.config.nfm.d_factor if m.config.nfm else 0,
                "parameters": m.n_parameters,
                "fvu": fvu[f"sse/{w}:{share}"],
                "kl": total[f"kl/{w}:{share}"] / total["tokens"],
            }
            for (w, share), m in models.items()
        ]
    )
    sae = rows[rows["share"] == 0].sort_values("fvu")
    same = np.exp(
        np.interp(
            np.log(rows["fvu"]),
            np.log(sae["fvu"]),
            np.log(sae["parameters"]),
            left=np.nan,
            right=np.nan,
        )
    )
    return rows.assign(as_sae=same / rows["parameters"])


def gains(p: Profile, errors: pd.DataFrame, kl: pd.DataFrame) -> pd.DataFrame:
    """Error and KL removed against the equally large SAE of the profile's width, per cent: rows share_<s>/fvu_gain and share_<s>/kl_gain with intervals."""
    w = p.sae.d_sae
    by_fvu = stats.bootstrap(
        errors,
        lambda t: {
            f"share_{s}/fvu_gain": 100 * (1 - t[f"sse/{w}:{s}"] / t[f"sse/{w}:0"]) for s in SHARES
        },
        p.bootstrap,
    )
    by_kl = stats.bootstrap(
        kl,
        lambda t: {f"share_{s}/kl_gain": cut(t, f"{w}:{s}", f"{w}:0") for s in SHARES},
        p.bootstrap,
    )
    return pd.concat([by_fvu, by_kl])


def gain_rows(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """For `figures.intervals`."""
    return pd.DataFrame(
        [
            {
                "label": f"{s} %",
                "role": "interaction",
                **table.loc[f"share_{s}/{metric}", ["value", "lo", "hi"]],
            }
            for s in SHARES
        ]
    )


def nonlinear_kl(p: Profile, language_model: lm.LanguageModel) -> pd.DataFrame:
    """The interaction path's share of the joint model's cut of its own path's KL, and that cut: rows `as_published` (alone over all) and
    `shapley` (controlled), and `as_published_cut`, `shapley_cut`; per cent, with intervals."""
    models = {name: runs.get(variants.get(name, p)) for name in variants.CHAPTERS["efficiency"]}
    n = behaviour.share_of(p.splice_windows, WINDOWS_SHARE)
    names = tuple(behaviour.JOINT_PATHS)
    published = behaviour.measure_published(models, p, language_model, n, names)
    acts = activations.load(p.harvest, "test")
    windows = harvest.windows(p.harvest).windows["test"].first(n)
    rows = behaviour.plain(
        downstream.evaluate(
            language_model, windows, p.harvest, behaviour.joint_conditions(models["joint"], acts)
        )
    )

    def alone(t: pd.DataFrame) -> dict:
        whole = cut(t, "joint", "joint_own_path")
        return {
            "as_published": 100 * cut(t, "joint_interaction", "joint_own_path") / whole,
            "as_published_cut": whole,
        }

    def shapley(t: pd.DataFrame) -> dict:
        share = stats.path_shares(*(t[f"kl/{name}"] for name in names))["interaction_shapley"]
        return {"shapley": 100 * share, "shapley_cut": cut(t, "joint", "joint_own_path")}

    return pd.concat(
        [
            stats.bootstrap(behaviour.sums(part), f, p.bootstrap)
            for part, f in ((published, alone), (rows, shapley))
        ]
    )


def share_of_a_cut(table: pd.DataFrame, name: str, protocol: str) -> Value:
    """A share of a cut as a result; there is none unless the cut itself is surely above zero."""
    row, whole = table.loc[name], table.loc[f"{name}_cut"]
    if whole.value <= 0 or (not pd.isna(whole.lo) and whole.lo <= 0):
        return Value(
            None,
            int(row.n),
            "no share, since the paths together do not surely lower the KL; n articles",
            protocol,
        )
    return value(row, "%; n articles", protocol)


def values(rows: pd.DataFrame, table: pd.DataFrame, nonlinear: pd.DataFrame) -> dict[str, Value]:
    """The chapter's results file."""
    found = {}
    for name, pair in shares(counts(profiles.paper())).items():
        unit = "parameters" if name.endswith("parameters") else "%"
        for x, protocol in zip(pair, ("as published", "controlled"), strict=True):
            if x is not None:
                found[f"paper_scale/{name}/{protocol.replace(' ', '_')}"] = Value(
                    x, 1, f"{unit}; n models", protocol
                )
    found["joint/nonlinear_kl_share/as_published"] = share_of_a_cut(
        nonlinear, "as_published", "as published"
    )
    found["joint/nonlinear_kl_shapley_share/controlled"] = share_of_a_cut(
        nonlinear, "shapley", "controlled"
    )
    found |= {
        f"{name}/controlled": value(row, "%; n articles", "controlled")
        for name, row in table.iterrows()
    }
    for row in rows.itertuples():
        name = f"size_{row.width}_share_{row.share}"
        worth = None if pd.isna(row.as_sae) else row.as_sae
        for metric, x, unit in (
            ("fvu", row.fvu, "fraction"),
            ("kl", row.kl, "nats"),
            ("parameters", row.parameters, "parameters"),
            ("as_sae", worth, "x"),
        ):
            reason = unit if x is not None else "beyond the SAE's curve"
            found[f"{name}/{metric}/controlled"] = Value(
                x, int(table.n.iloc[0]), f"{reason}; n articles", "controlled"
            )
    return found


def settings(p: Profile, errors: pd.DataFrame, kl: pd.DataFrame) -> dict[str, Value]:
    """What all models of the curves share."""
    tokens = variants.short(variants.get("sae_bias", p)).train.n_tokens
    found = {
        "k": (p.sae.k, "features"),
        "train_tokens": (tokens, "tokens"),
        "fvu_tokens": (int(errors.tokens.sum()), "tokens"),
        "kl_tokens": (int(kl.tokens.sum()), "tokens"),
    }
    return {
        f"setting/{name}": Value(x, x, f"{unit}; n {unit}", "setting")
        for name, (x, unit) in found.items()
    }


def worth_table(rows: pd.DataFrame) -> pd.DataFrame:
    """All models of the curves, for readers."""
    heads = {
        "parameters": "parameters",
        "share": "% interaction",
        "d_sae": "features",
        "d_factor": "factors",
        "fvu": "FVU",
        "kl": "KL",
        "as_sae": "as an SAE",
    }
    return rows.sort_values(["parameters", "share"])[list(heads)].rename(columns=heads)
