"""What the joint model's gain is made of: models that differ from it in one thing each, on held-out text and in the language model."""

import copy
from collections.abc import Callable
from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor, nn

from companion import stats, variants
from companion.chapters import behaviour, leftovers
from companion.profiles import Profile
from companion.results import Value
from featint import downstream, harvest, heldout, lm, metrics, runs
from featint.activations import Activations
from featint.runs import Trained

EQUAL = {
    "sae": "sae",
    "sae_bias": "sae",
    "sae_tuned": "sae",
    "sae_fast_decoder": "sae",
    "sae_matched": "sae",
    "joint_no_interaction": "linear",
    "sae_interaction": "interaction",
    "joint": "joint",
}
"""Trained from scratch with equal tokens, steps and optimiser, and, but for `sae_tuned`, equal learning rates; roles in `plots.COLOURS`."""
AFTER = {"sae": "sae", "ridge_on_x": "linear", "residual_sae": "sae", "sequential": "sequential"}
"""Fitted to the error of the finished `sae`."""
CUT = {
    "sae_at_cut": "sae",
    "refit_at_cut": "linear",
    "sequential_cut": "sequential",
    "sae_cut": "sae",
}
"""At the quarter of k at which the released code runs the sequential model's SAE."""
FLOORS = {
    "sae_short": "sae",
    "sae_soft_decoder": "random",
    "sae_frozen_decoder": "random",
    "sae_frozen_encoder": "random",
}
"""Models of random parts, trained for a quarter of the tokens."""
TRAINED = (*EQUAL, "sequential", "sae_cut", "sequential_cut", *FLOORS)
"""Trained models that reconstruct x by themselves."""
SPLICED = (*EQUAL, "sequential", "residual_sae")
GAINS = {
    "bias": ("sae_bias", "sae"),
    "its own learning rate": ("sae_tuned", "sae"),
    "decoder twice as fast": ("sae_fast_decoder", "sae_bias"),
    "two decoders": ("joint_no_interaction", "sae_bias"),
    "two decoders, beyond the speed": ("joint_no_interaction", "sae_fast_decoder"),
    "as many parameters": ("sae_matched", "sae"),
    "interactions alone": ("sae_interaction", "sae_bias"),
    "interactions, last": ("joint", "joint_no_interaction"),
    "all": ("joint", "sae"),
    "all, beyond the tuned SAE": ("joint", "sae_tuned"),
    "NFM on the error": ("sequential", "sae"),
    "SAE on the error": ("residual_sae", "sae"),
    "ridge regression on the error": ("ridge_on_x", "sae"),
    "NFM at the cut k": ("sequential_cut", "sae_at_cut"),
    "decoder fitted anew at the cut k": ("refit_at_cut", "sae_at_cut"),
    "SAE trained at the cut k": ("sae_cut", "sae_at_cut"),
    "NFM beyond the decoder fitted anew": ("sequential_cut", "refit_at_cut"),
    "training against a frozen decoder": ("sae_short", "sae_frozen_decoder"),
}
"""Comparisons: per cent of the second model's error that the first removes."""
WINDOWS_SHARE = 1 / 8
BOUND = 1.0
"""The smallest gain on a finished SAE's error that would matter, in per cent: a twentieth of what the paper reports for its NFM."""

Reconstruct = Callable[[Tensor], Tensor]


@torch.no_grad()
def reconstructions(models: dict[str, Trained]) -> dict[str, Reconstruct]:
    """Every model of the chapter as a function from normalised x to x_hat, those of `added` among them."""
    return {name: of(m.model) for name, m in models.items() if name in TRAINED} | added(models)


def of(model: nn.Module) -> Reconstruct:
    """A model as a function from x to x_hat."""
    return lambda x: model(x).x_hat


@torch.no_grad()
def added(models: dict[str, Trained]) -> dict[str, Reconstruct]:
    """What is made of the finished `sae`: its decoder fitted anew, its k cut, something fitted to its error added."""
    sae, second = models["sae"], models["residual_sae"].model
    weights, constant = leftovers.error_from_x(sae.config)
    cut = copy.copy(sae.model)
    cut.config = replace(sae.config.sae, k=models["sae_cut"].config.sae.k)
    refit = leftovers.refitted(sae.config, cut.config.k)

    def on_the_error(x: Tensor) -> Tensor:
        x_hat = sae.model(x).x_hat
        return x_hat + second(x - x_hat).x_hat

    return {
        "residual_sae": on_the_error,
        "ridge_on_x": lambda x: sae.model(x).x_hat + x @ weights + constant,
        "sae_at_cut": of(cut),
        "refit_at_cut": of(refit),
    }


def measured(
    functions: dict[str, Reconstruct], models: dict[str, Trained], acts: Activations
) -> pd.DataFrame:
    """Sums per article (`metrics.by_article`) of every reconstruction on test text: columns `tokens`, `sst`, `sse/<name>`."""
    stored = heldout.sums({name: models[name].config for name in functions if name in TRAINED})
    own = {f"sse/{name}/all": f"sse/{name}" for name in functions if name in TRAINED}
    fresh = measured_now({name: f for name, f in functions.items() if name not in TRAINED}, acts)
    return stored[["tokens", "sst", *own]].rename(columns=own).join(fresh.filter(like="sse/"))


def measured_now(functions: dict[str, Reconstruct], acts: Activations) -> pd.DataFrame:
    """Sums per article of reconstructions on any text."""
    return metrics.by_article(
        lambda x: {name: f(x) for name, f in functions.items()}, acts.pieces(), acts.article
    )


def controlled(sums: pd.DataFrame, draws: int) -> pd.DataFrame:
    """Held-out FVU of all models and the gains of `GAINS`, paired by token, articles drawn anew: rows `<model>/fvu` and `<a>/gain_vs_<b>`."""
    names = [c.removeprefix("sse/") for c in sums if c.startswith("sse/")]

    def statistic(t: pd.DataFrame) -> dict:
        gains = {
            f"{a}/gain_vs_{b}": 100 * (1 - t[f"sse/{a}"] / t[f"sse/{b}"]) for a, b in GAINS.values()
        }
        return {f"{name}/fvu": metrics.fvu(t[f"sse/{name}"], t["sst"]) for name in names} | gains

    return stats.bootstrap(sums, statistic, draws)


def spliced(
    functions: dict[str, Reconstruct], models: dict[str, Trained], test: Activations, p: Profile
) -> pd.DataFrame:
    """KL and cross-entropy recovered of the models in `SPLICED` on a share of the profile's splice windows: rows `<model>/kl`, `<model>/ce_recovered`.

    Recovered is measured from the activations' mean in place of x (0) to the clean model (1); articles drawn anew.
    """
    windows = (
        harvest.windows(p.harvest)
        .windows["test"]
        .first(behaviour.share_of(p.splice_windows, WINDOWS_SHARE))
    )
    conditions = {
        name: downstream.condition(functions[name], models[name].config, test) for name in SPLICED
    }
    conditions["mean"] = downstream.mean_ablation(test.mean)
    frame = downstream.evaluate(lm.load(p.harvest.lm), windows, p.harvest, conditions)
    sums = (
        frame.assign(tokens=1)
        .groupby(["article", "condition"], observed=True)[
            ["tokens", "kl", "ce_clean", "ce_spliced"]
        ]
        .sum()
    )
    wide = sums.unstack("condition")
    wide.columns = [f"{name}/{what}" for what, name in wide.columns]

    def statistic(t: pd.DataFrame) -> dict:
        found = {}
        for name in SPLICED:
            lost, all_lost = (t[f"{c}/ce_spliced"] - t[f"{c}/ce_clean"] for c in (name, "mean"))
            found |= {
                f"{name}/kl": t[f"{name}/kl"] / t[f"{name}/tokens"],
                f"{name}/ce_recovered": 100 * (1 - lost / all_lost),
            }
        gains = [(a, b) for a, b in GAINS.values() if a in SPLICED and b in SPLICED]
        return found | {
            f"{a}/kl_gain_vs_{b}": 100 * (1 - t[f"{a}/kl"] / t[f"{b}/kl"]) for a, b in gains
        }

    return stats.bootstrap(wide, statistic, p.bootstrap)


def published_control(p: Profile) -> pd.DataFrame:
    """The released code's second SAE (L1, its own learning rate) on the first one's error: per cent removed, tokens held out at random."""
    config = variants.get("sae_published", p)
    first, second = runs.get(config).model, leftovers.l1_on_error(config)
    _, held_out = runs.training_tokens(config)
    part = held_out.subset(torch.arange(min(10 * config.train.batch_tokens, len(held_out))))
    functions = {
        "first": lambda x: first(x).x_hat,
        "both": lambda x: (x_hat := first(x).x_hat) + second(x - x_hat).x_hat,
    }
    sums = measured_now(functions, part)
    return stats.bootstrap(
        sums,
        lambda t: {"residual_sae/gain": 100 * (1 - t["sse/both"] / t["sse/first"])},
        p.bootstrap,
    )


def closeness(models: dict[str, Trained]) -> pd.DataFrame:
    """How far the floors' decoders turned from their random initial directions: median cosine over features."""
    rows = []
    for name in FLOORS:
        model = models[name].model
        before = runs.build(models[name].config, model.W_dec.shape[1]).W_dec.detach()
        cosine = torch.nn.functional.cosine_similarity(model.W_dec, before, dim=1)
        rows.append(
            {"model": f"`{name}`", "median": cosine.median().item(), "lowest": cosine.min().item()}
        )
    return pd.DataFrame(rows)


def fvu_rows(table: pd.DataFrame, roles: dict[str, str]) -> pd.DataFrame:
    """For `figures.intervals`."""
    return pd.DataFrame(
        [
            {"label": name, "role": role, **table.loc[f"{name}/fvu", ["value", "lo", "hi"]]}
            for name, role in roles.items()
        ]
    )


def gain_rows(table: pd.DataFrame, labels: list[str]) -> pd.DataFrame:
    """Comparisons of `GAINS` by their labels, for `figures.intervals`."""
    roles = EQUAL | AFTER | CUT | FLOORS
    rows = []
    for label in labels:
        a, b = GAINS[label]
        rows.append(
            {
                "label": f"{label}:\n{a} over {b}",
                "role": roles[a],
                **table.loc[f"{a}/gain_vs_{b}", ["value", "lo", "hi"]],
            }
        )
    return pd.DataFrame(rows)


def splice_table(table: pd.DataFrame) -> pd.DataFrame:
    """KL and cross-entropy recovered as readers see them."""
    return pd.DataFrame(
        [
            {
                "model": f"`{name}`",
                "KL, nats": table.loc[f"{name}/kl", "value"],
                "95 % interval": "{lo:.4f} to {hi:.4f}".format(**table.loc[f"{name}/kl"]),
                "CE recovered, %": table.loc[f"{name}/ce_recovered", "value"],
            }
            for name in SPLICED
        ]
    )


def values(table: pd.DataFrame, spliced: pd.DataFrame, published: pd.DataFrame) -> dict[str, Value]:
    """The chapter's results file."""
    found = {}
    for name, row in pd.concat([table, spliced]).iterrows():
        metric = name.split("/")[1]
        unit = "fraction" if metric == "fvu" else "nats" if metric == "kl" else "%"
        found[f"{name}/controlled"] = Value(
            row.value, int(row.n), f"{unit}; n articles", "controlled", (row.lo, row.hi)
        )
    own = published.loc["residual_sae/gain"]
    found["residual_sae/gain/as_published"] = Value(
        own.value, int(own.n), "%; n articles", "as published", (own.lo, own.hi)
    )
    gain = table.loc["residual_sae/gain_vs_sae"]
    ends = (gain.lo / BOUND, gain.hi / BOUND)
    found["residual_sae/gain_over_bound/controlled"] = Value(
        gain.value / BOUND, int(gain.n), "x; n articles", "controlled", ends
    )
    return found


def control_table(published: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The two second SAEs and the ridge regression side by side."""
    rows = {
        "SAE, as published (L1)": published.loc["residual_sae/gain"],
        "SAE, matched to the NFM (TopK)": table.loc["residual_sae/gain_vs_sae"],
        "ridge regression from x": table.loc["ridge_on_x/gain_vs_sae"],
    }
    return pd.DataFrame(
        [
            {
                "fitted to the error": label,
                "error removed, %": row.value,
                "95 % interval": f"{row.lo:.2f} to {row.hi:.2f}",
                "articles": int(row.n),
            }
            for label, row in rows.items()
        ]
    )
