"""How much of a comparison is the seed's doing: paired differences over seeds, and which features come back."""

import itertools

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from featint import activations, metrics, runs, stats, variants
from featint.profiles import Profile
from featint.results import Value
from featint.runs import Trained

GAINS = (
    ("joint", "sae"), ("joint", "sae_tuned"), ("joint", "joint_no_interaction"), ("joint_no_interaction", "sae_fast_decoder"), ("sae_interaction", "sae"),
)  # fmt: skip
ROLES = {
    "sae": "sae", "sae_tuned": "sae", "sae_fast_decoder": "sae", "joint_no_interaction": "linear", "joint": "joint", "sae_interaction": "interaction",
}  # fmt: skip
MATCH = 0.7
"""Cosine from which two directions count as the same feature."""


def trained(p: Profile) -> dict[str, dict[int, Trained]]:
    """The chapter's models: name -> seed -> model."""
    return {name: {seed: runs.get(variants.get(name, p, seed)) for seed in p.seeds} for name in variants.CHAPTERS["seeds"]}


def measured(models: dict[str, dict[int, Trained]], p: Profile) -> pd.DataFrame:
    """Test FVU of every model: rows seeds, columns names."""
    acts = activations.load(p.harvest, "test")
    flat = {(name, seed): m.model for name, by_seed in models.items() for seed, m in by_seed.items()}
    total = metrics.by_article(lambda x: {str(key): model(x).x_hat for key, model in flat.items()}, acts.pieces(), acts.article).sum()
    found = pd.Series({key: metrics.fvu(total[f"sse/{key}"], total["sst"]) for key in flat})
    return found.unstack(0)[list(models)].rename_axis(index="seed")


def estimates(fvu: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds with Student's t interval (none from one seed): rows `<model>/fvu` and, paired by seed, `<a>/gain_vs_<b>` in per cent."""
    columns = {f"{name}/fvu": fvu[name] for name in fvu}
    columns |= {f"{a}/gain_vs_{b}": 100 * (1 - fvu[a] / fvu[b]) for a, b in GAINS}
    rows = {name: stats.interval_over_seeds(values.tolist()) for name, values in columns.items()}
    return pd.DataFrame({name: e._asdict() for name, e in rows.items()}).T


def directions(model: nn.Module) -> Float[Tensor, "d_sae d_in"]:
    """Unit vectors that the features write: rows of the decoder, or of decoder plus linear path, since only the sum is learned."""
    sae, nfm = getattr(model, "sae", model), getattr(model, "nfm", None)
    written = sae.W_dec if nfm is None or not nfm.config.linear else sae.W_dec + nfm.W_lin
    return nn.functional.normalize(written, dim=1)


def recurring(a: Float[Tensor, "n d_in"], b: Float[Tensor, "m d_in"]) -> float:
    """Share of the unit vectors of `a` with one in `b` at a cosine of at least `MATCH`."""
    best = torch.cat([(part @ b.T).amax(1) for part in a.split(1024)])
    return (best >= MATCH).double().mean().item()


def recurrence(models: dict[str, dict[int, Trained]]) -> pd.DataFrame:
    """Per model, over ordered pairs of seeds: the share of features that are not dead and come back, and the same among random directions.

    Columns model, recurring, lowest, highest, random, pairs. Empty with one seed.
    """
    rows = []
    for name, by_seed in models.items():
        alive = {seed: directions(m.model)[m.silent_tokens < m.config.train.dead_after_tokens] for seed, m in by_seed.items()}
        pairs = list(itertools.permutations(alive.values(), 2))
        if not pairs:
            continue
        shares = pd.Series([recurring(a, b) for a, b in pairs])
        chance = nn.functional.normalize(torch.randn(pairs[0][1].shape, generator=torch.Generator().manual_seed(0)), dim=1)
        rows.append({
            "model": f"`{name}`", "recurring": shares.mean(), "lowest": shares.min(), "highest": shares.max(),
            "random": recurring(pairs[0][0].cpu(), chance), "pairs": len(shares),
        })  # fmt: skip
    return pd.DataFrame(rows, columns=["model", "recurring", "lowest", "highest", "random", "pairs"])


def gain_rows(table: pd.DataFrame) -> pd.DataFrame:
    """For `figures.intervals`."""
    return pd.DataFrame([
        {"label": f"{a}\nover {b}", "role": ROLES[a], **table.loc[f"{a}/gain_vs_{b}", ["value", "lo", "hi"]]} for a, b in GAINS
    ])  # fmt: skip


def values(table: pd.DataFrame, recurrence: pd.DataFrame) -> dict[str, Value]:
    """The chapter's results file."""
    found = {}
    for name, row in table.iterrows():
        unit = "fraction" if name.endswith("fvu") else "%"
        found[f"{name}/controlled"] = Value(
            row.value, int(row.n), f"{unit}; n seeds", "controlled", None if row.lo is None else (row.lo, row.hi)
        )
    for row in recurrence.itertuples():
        found[f"{row.model.strip('`')}/recurring/controlled"] = Value(
            row.recurring, int(row.pairs), "share; n ordered pairs of seeds", "controlled"
        )
    return found
