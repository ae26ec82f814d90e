"""Claim C1, measured: how much of the activations each model explains, under both protocols."""

from typing import NamedTuple

import pandas as pd
import torch

from companion import stats, variants
from companion.profiles import Profile
from companion.results import Value
from featint import activations, metrics, runs
from featint.activations import Activations
from featint.runs import Trained

GAINS = {
    "joint/gain_vs_sae": ("joint", "sae"),
    "joint/gain_vs_sae_tuned": ("joint", "sae_tuned"),
    "joint/gain_vs_sae_bias": ("joint", "sae_bias"),
    "joint_no_interaction/gain_vs_sae_bias": ("joint_no_interaction", "sae_bias"),
    "joint/interaction_gain": ("joint", "joint_no_interaction"),
    "sequential/gain_vs_sae": ("sequential", "sae"),
}
"""Controlled comparisons: 100 (error of the second - error of the first) / error of the second."""
CHUNK_WINDOWS = 79
JOINT_TOKENS = 1000
"""The released code's last evaluation of the joint model: so many random tokens of the first so many training windows."""
HELD_OUT_TOKENS = 10 * 1024
"""And of its SAE and sequential model: at most ten batches of tokens left out at random."""
SUBSETS = {
    "own path": "own_path",
    "+ linear": "plus_linear",
    "+ interaction": "plus_interaction",
    "all": "all",
}


def overview(models: dict[str, Trained]) -> pd.DataFrame:
    """One row per model: what it is, its size, its dead features and how long it took to train."""
    return pd.DataFrame(
        [
            {
                "model": f"`{name}`",
                "what it is": variants.describe(name),
                "parameters": m.n_parameters,
                "dead": metrics.dead_share(m.silent_tokens, m.config.train.dead_after_tokens),
                "seconds": m.seconds,
            }
            for name, m in models.items()
        ]
    )


def reduction(t: pd.DataFrame, ours: str, baseline: str) -> pd.Series:
    """Per cent of the baseline's squared error that is gone."""
    return 100 * (1 - t[f"sse/{ours}"] / t[f"sse/{baseline}"])


def controlled(sums: pd.DataFrame, d_in: int, draws: int) -> pd.DataFrame:
    """All held-out estimates, articles drawn anew `draws` times: rows `<model>/mse`, `<model>/fvu/<path>`, gains and path shares; columns value, lo, hi, n.

    `sums` is `heldout.sums`', with the models of `GAINS`.
    """
    models = [
        c.removeprefix("sse/").removesuffix("/all")
        for c in sums
        if c.startswith("sse/") and c.endswith("/all")
    ]

    def statistic(t: pd.DataFrame) -> dict:
        found = {
            f"{m}/fvu/{path}": metrics.fvu(t[f"sse/{m}/{path}"], t["sst"])
            for m in models
            for path in metrics.PATHS
        }
        found |= {f"{m}/mse": t[f"sse/{m}/all"] / (t["tokens"] * d_in) for m in models}
        found |= {f"{m}/explained_variance": 100 * (1 - found[f"{m}/fvu/all"]) for m in models}
        found |= {name: reduction(t, f"{a}/all", f"{b}/all") for name, (a, b) in GAINS.items()}
        shares = stats.path_shares(
            *(
                t[f"sse/sequential/{path}"]
                for path in ("own_path", "plus_linear", "plus_interaction", "all")
            )
        )
        return found | {
            f"sequential/{path}_share": 100 * shares[f"{path}_shapley"]
            for path in ("linear", "interaction")
        }

    return stats.bootstrap(sums, statistic, draws)


class Published(NamedTuple):
    """The estimates by the released code's definitions."""

    estimates: pd.DataFrame
    """Rows by value id, columns value, lo, hi, n (articles)."""
    n: dict[str, int]
    """Tokens behind each measurement."""


def as_published(models: dict[str, Trained], p: Profile) -> Published:
    """The joint and sequential reductions against the models' own SAE paths, on training windows, first positions kept.

    `models` holds `sae_published`, `joint_published` and `sequential_published`.
    """
    joint, sequential, sae = (
        models[f"{name}_published"] for name in ("joint", "sequential", "sae")
    )
    whole = activations.load(p.harvest, "train", "keep")
    chunk = (whole.where < CHUNK_WINDOWS * p.harvest.corpus.seq_len).nonzero().squeeze(1)
    chosen = chunk[
        torch.randperm(len(chunk), generator=torch.Generator().manual_seed(p.seeds[0]))[
            :JOINT_TOKENS
        ]
    ]
    trained, held_out = runs.training_tokens(sequential.config)
    sets = {
        "joint": (joint, whole.subset(chosen.sort().values)),
        "sequential_train": (
            sequential,
            trained.subset(torch.arange(min(HELD_OUT_TOKENS, len(trained)))),
        ),
        "sequential_validation": (
            sequential,
            held_out.subset(torch.arange(min(HELD_OUT_TOKENS, len(held_out)))),
        ),
        "sae": (sae, held_out.subset(torch.arange(min(HELD_OUT_TOKENS, len(held_out))))),
    }
    tables = {name: _published_set(name, m, acts, p.bootstrap) for name, (m, acts) in sets.items()}
    return Published(
        pd.concat(tables.values()), {name: len(acts) for name, (_, acts) in sets.items()}
    )


def _published_set(name: str, trained: Trained, acts: Activations, draws: int) -> pd.DataFrame:
    model, _, split = name.partition("_")
    sums = metrics.by_article(metrics.paths({model: trained.model}), acts.pieces(), acts.article)
    end, own = ("", f"{model}_own_path") if model == "joint" else (f"_{split}", f"{model}_sae")

    def statistic(t: pd.DataFrame) -> dict:
        n = t["tokens"] * acts.d_in
        found = {f"{model}/mse{end}": t[f"sse/{model}/all"] / n}
        if model == "sae":
            return {
                "sae/mse": found["sae/mse_"],
                "sae/explained_variance": 100 * (1 - metrics.fvu(t["sse/sae/all"], t["sst"])),
            }
        found |= {f"{own}/mse{end}": t[f"sse/{model}/own_path"] / n}
        found |= {
            f"{model}/gain_{split or 'own_path'}": reduction(t, f"{model}/all", f"{model}/own_path")
        }
        if split == "validation":
            return found
        linear, interaction = (
            t[f"{model}/abs/{path}_out"] / t["tokens"] for path in ("linear", "interaction")
        )
        share = 100 * linear / (linear + interaction)
        sizes = {
            "linear_magnitude": linear,
            "interaction_magnitude": interaction,
            "linear_share": share,
            "interaction_share": 100 - share,
        }
        return found | {f"{model}/{key}": value for key, value in sizes.items()}

    return stats.bootstrap(sums, statistic, draws)


def unit(name: str) -> str:
    """The unit of a value id of this chapter."""
    metric = name.split("/")[1]
    if metric.startswith("mse"):
        return "MSE"
    return (
        "fraction" if metric == "fvu" else "mean |output|" if metric.endswith("magnitude") else "%"
    )


def values(published: Published, controlled: pd.DataFrame) -> dict[str, Value]:
    """The chapter's results file."""
    found = {}
    for protocol, table in (("as published", published.estimates), ("controlled", controlled)):
        for name, row in table.iterrows():
            key = f"{name}/{protocol.replace(' ', '_')}"
            found[key] = Value(
                row.value, int(row.n), f"{unit(name)}; n articles", protocol, (row.lo, row.hi)
            )
    return found


def fvu_rows(table: pd.DataFrame, roles: dict[str, str]) -> pd.DataFrame:
    """Held-out FVU of the models in `roles`, for `figures.intervals`."""
    return pd.DataFrame(
        [
            {"label": name, "role": role, **table.loc[f"{name}/fvu/all", ["value", "lo", "hi"]]}
            for name, role in roles.items()
        ]
    )


def gain_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The controlled comparisons, for `figures.intervals`."""
    roles = {"joint": "joint", "joint_no_interaction": "linear", "sequential": "sequential"}
    return pd.DataFrame(
        [
            {
                "label": f"{a}\nover {b}",
                "role": "interaction" if name == "joint/interaction_gain" else roles[a],
                **table.loc[name, ["value", "lo", "hi"]],
            }
            for name, (a, b) in GAINS.items()
        ]
    )


def protocol_rows(published: Published, table: pd.DataFrame) -> pd.DataFrame:
    """Joint and sequential gain under both protocols, for `figures.paired_bars`."""
    wanted = [
        ("joint", "as published", published.estimates.loc["joint/gain_own_path"]),
        ("joint", "controlled", table.loc["joint/gain_vs_sae"]),
        ("sequential", "as published", published.estimates.loc["sequential/gain_validation"]),
        ("sequential", "controlled", table.loc["sequential/gain_vs_sae"]),
    ]
    return pd.DataFrame(
        [
            {"label": label, "protocol": protocol, **row[["value", "lo", "hi"]]}
            for label, protocol, row in wanted
        ]
    )


def path_table(
    table: pd.DataFrame,
    models: tuple[str, ...] = ("joint", "joint_no_interaction", "sequential", "sae"),
) -> pd.DataFrame:
    """Held-out FVU of each model's parts: rows are models, columns subsets of paths."""
    rows = {
        f"`{m}`": {label: table.loc[f"{m}/fvu/{path}", "value"] for label, path in SUBSETS.items()}
        for m in models
    }
    return pd.DataFrame(rows).T.rename_axis("model")
