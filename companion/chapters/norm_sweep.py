"""When does a second mode appear? The joint model trained anew with one setting changed at a time, and the norms that result."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from companion import variants
from companion.chapters import norms
from companion.profiles import Profile
from companion.results import Value
from featint import runs, store, train
from featint.config import ModelConfig, to_json

KIND = "norm-sweep"
WHOLE = ("full", "paper")
"""Profiles that sweep at their own size. The others, to stay within seconds, take a quarter of the features and a sixth of the tokens."""
RELEASED_BATCH, RELEASED_EPS = 64, 1e-5
SURE = 0.05  # a dip test below it, corrected for all settings, counts as more than one mode


def settings(p: Profile) -> dict[str, tuple[ModelConfig, bool]]:
    """Name -> (model, whether weights, gradients and Adam's moments are kept in half precision). All derive from `joint_published`."""
    if p.name not in WHOLE:
        small = replace(p.sae, d_sae=p.sae.d_sae // 4, k=max(1, p.sae.k // 4))
        p = replace(p, sae=small, train=replace(p.train, n_tokens=p.train.n_tokens // 6))
    base = variants.get("joint_published", p)

    def changed(config: ModelConfig = base, **train_changes) -> ModelConfig:
        return replace(config, train=replace(config.train, **train_changes))

    def wide(factor: float) -> ModelConfig:
        return replace(
            base,
            sae=replace(p.sae, d_sae=int(p.sae.d_sae * factor), k=max(1, int(p.sae.k * factor))),
        )

    masked = replace(base, nfm=replace(p.nfm, top_n=max(1, p.sae.k // 2)))
    released = changed(
        masked, lr=p.train.lr / 10, batch_tokens=RELEASED_BATCH, adam_eps=RELEASED_EPS
    )
    return {
        "as the chapter's": (base, False),
        "half the width": (wide(0.5), False),
        "twice the width": (wide(2), False),
        "a tenth of the learning rate": (changed(lr=p.train.lr / 10), False),
        "a third of the steps": (changed(n_tokens=p.train.n_tokens // 3), False),
        f"batches of {RELEASED_BATCH}": (changed(batch_tokens=RELEASED_BATCH), False),
        "the NFM sees the upper half": (masked, False),
        "half precision": (changed(adam_eps=RELEASED_EPS), True),
        "all of the last four, a tenth of the rate": (released, True),
    }


def run(config: ModelConfig, half: bool) -> pd.DataFrame:
    """The `norms.history` of a model trained so; taken from the store, which keeps norms and counts only, or trained (and resumed if it was killed)."""
    key = {"model": to_json(config), "half": half}
    if not store.exists(KIND, key):
        acts, _ = runs.training_tokens(config)
        model = runs.build(config, acts.d_in).to(store.device())
        batches = acts.batches(config.train.n_tokens, config.train.batch_tokens, config.train.seed)
        checkpoint = store.cache() / "checkpoints" / f"{KIND}-{store.key(key)}.safetensors"
        with half_precision() if half else full_precision():
            fitted = train.fit(model, batches, config.train, checkpoint=checkpoint, label=KIND)
        table = norms.describe(config, norms.decoder(model), fitted.fired_tokens.cpu())
        with store.create(
            KIND, key, {"dead": fitted.history.dead_share.iloc[-1]}, seed=config.train.seed
        ) as folder:
            save_file(
                {name: torch.tensor(table[name].to_numpy()) for name in table},
                folder / "norms.safetensors",
            )
    artefact = store.load(KIND, key)
    table = pd.DataFrame(
        {name: x.numpy() for name, x in load_file(artefact.file("norms.safetensors")).items()}
    )
    table.attrs["dead"] = artefact.meta["dead"]
    return table


def sweep(p: Profile) -> dict[str, pd.DataFrame]:
    """`run` for all settings of a profile."""
    return {name: run(*setting) for name, setting in settings(p).items()}


def summary(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per setting: are there two modes, how many features are below the split, how many are rare or dead, and does the norm follow the updates."""
    rows = []
    tests = norms.modes(tables)
    for name, table in tables.items():
        log = tests.loc[(name, "all", "log s")]
        at = norms.PUBLISHED_SPLIT / norms.PUBLISHED_START * table.start.mean()
        rows.append(
            {
                "setting": name,
                "features": len(table),
                "two by mixture": "yes" if norms.two_modes(log) else "no",
                "dip's p": log.p_holm,
                "median growth": (table.s / table.start).median(),
                "below the paper's multiple": (table.s < at).mean(),
                "rare": table.rare.mean(),
                "dead": table.attrs["dead"],
                "Spearman with updates": table.s.corr(table.updates, method="spearman"),
            }
        )
    return pd.DataFrame(rows)


def values(found: pd.DataFrame) -> dict[str, Value]:
    """Of `summary`, for the results file: each setting's dip test and Spearman correlation with updates, and in how many settings there are two modes."""
    result = {}
    for row in found.to_dict("records"):
        slug = row["setting"].replace("'", "").replace(",", "").replace(" ", "_")
        for name, column, unit in (
            ("dip_p", "dip's p", "p"),
            ("corr_updates", "Spearman with updates", "Spearman r"),
        ):
            x = row[column]
            known = not pd.isna(x)
            unit = f"{unit if known else 'could not be computed'}; n features"
            result[f"sweep/{slug}/{name}/as_published"] = Value(
                float(x) if known else None, row["features"], unit, "as published"
            )
    counts = {
        "two_by_dip": (found["dip's p"] < SURE).sum(),
        "two_by_mixture": (found["two by mixture"] == "yes").sum(),
    }
    return result | {
        f"sweep/{name}/as_published": Value(
            int(count), len(found), "settings; n settings", "as published"
        )
        for name, count in counts.items()
    }


@contextmanager
def full_precision() -> Iterator[None]:
    """Train as usual."""
    yield


@contextmanager
def half_precision() -> Iterator[None]:
    """Train with gradients, weights and Adam's moments rounded to float16 at every step, as if they were kept in it; products stay in float32.

    Most second moments, squares of small gradients, are then 0, and Adam becomes gradient descent with momentum (released code; `adam_eps` 1e-5).
    """

    def round_gradients(optimizer, *_):
        for p in parameters(optimizer):
            p.grad.copy_(p.grad.half())

    def round_state(optimizer, *_):
        with torch.no_grad():
            for p in parameters(optimizer):
                p.copy_(p.half())
                for moment in ("exp_avg", "exp_avg_sq"):
                    optimizer.state[p][moment].copy_(optimizer.state[p][moment].half())

    hooks = (
        register_optimizer_step_pre_hook(round_gradients),
        register_optimizer_step_post_hook(round_state),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def parameters(optimizer) -> Iterator[torch.Tensor]:
    """All parameters with a gradient."""
    return (p for group in optimizer.param_groups for p in group["params"] if p.grad is not None)
