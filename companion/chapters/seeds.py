"""How much of a comparison is the seed's doing: paired differences over seeds, and which features come back."""

import itertools

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from companion import places, results, stats, variants
from companion.profiles import Profile
from companion.results import Value
from featint import heldout, metrics, runs
from featint.runs import Trained

GAINS = (
    ("joint", "sae"),
    ("joint", "sae_tuned"),
    ("joint", "joint_no_interaction"),
    ("joint_no_interaction", "sae_fast_decoder"),
    ("sae_interaction", "sae"),
)
ROLES = {
    "sae": "sae",
    "sae_tuned": "sae",
    "sae_fast_decoder": "sae",
    "joint_no_interaction": "linear",
    "joint": "joint",
    "sae_interaction": "interaction",
}
MATCH = 0.7
"""Cosine from which two directions count as the same feature."""


def trained(p: Profile) -> dict[str, dict[int, Trained]]:
    """The chapter's models: name -> seed -> model."""
    return {
        name: {seed: runs.get(variants.get(name, p, seed)) for seed in p.seeds}
        for name in variants.CHAPTERS["seeds"]
    }


def measured(models: dict[str, dict[int, Trained]]) -> pd.DataFrame:
    """Test FVU of every model: rows seeds, columns names."""
    flat = {
        (name, seed): m.config for name, by_seed in models.items() for seed, m in by_seed.items()
    }
    total = heldout.sums({f"{name}@{seed}": config for (name, seed), config in flat.items()}).sum()
    found = pd.Series(
        {key: metrics.fvu(total["sse/{}@{}/all".format(*key)], total["sst"]) for key in flat}
    )
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
        alive = {
            seed: directions(m.model)[m.silent_tokens < m.config.train.dead_after_tokens]
            for seed, m in by_seed.items()
        }
        pairs = list(itertools.permutations(alive.values(), 2))
        if not pairs:
            continue
        shares = pd.Series([recurring(a, b) for a, b in pairs])
        chance = nn.functional.normalize(
            torch.randn(pairs[0][1].shape, generator=torch.Generator().manual_seed(0)), dim=1
        )
        rows.append(
            {
                "model": f"`{name}`",
                "recurring": shares.mean(),
                "lowest": shares.min(),
                "highest": shares.max(),
                "random": recurring(pairs[0][0].cpu(), chance),
                "pairs": len(shares),
            }
        )
    return pd.DataFrame(
        rows, columns=["model", "recurring", "lowest", "highest", "random", "pairs"]
    )


def committed(profile: str = "full") -> tuple[pd.DataFrame, pd.DataFrame]:
    """The chapter's committed results of a profile: as `estimates`, and the columns model, recurring, pairs of `recurrence`.

    Raises StoreError if there are none.
    """
    values = results.read(places.DATA / "results" / profile / "seeds.json")["values"]
    rows = {name.removesuffix("/controlled"): v for name, v in values.items()}
    again = [
        {"model": f"`{name.split('/')[0]}`", "recurring": v["value"], "pairs": v["n"]}
        for name, v in rows.items()
        if name.endswith("/recurring")
    ]
    ends = {name: (None, None) if v["ci"] is None else v["ci"] for name, v in rows.items()}
    table = {
        name: {"value": v["value"], "lo": ends[name][0], "hi": ends[name][1], "n": v["n"]}
        for name, v in rows.items()
        if not name.endswith("/recurring")
    }
    return pd.DataFrame(table).T, pd.DataFrame(again, columns=["model", "recurring", "pairs"])


def gain_rows(table: pd.DataFrame) -> pd.DataFrame:
    """For `figures.intervals`."""
    return pd.DataFrame(
        [
            {
                "label": f"{a}\nover {b}",
                "role": ROLES[a],
                **table.loc[f"{a}/gain_vs_{b}", ["value", "lo", "hi"]],
            }
            for a, b in GAINS
        ]
    )


def values(table: pd.DataFrame, recurrence: pd.DataFrame) -> dict[str, Value]:
    """The chapter's results file."""
    found = {}
    for name, row in table.iterrows():
        unit = "fraction" if name.endswith("fvu") else "%"
        found[f"{name}/controlled"] = Value(
            row.value,
            int(row.n),
            f"{unit}; n seeds",
            "controlled",
            None if row.lo is None else (row.lo, row.hi),
        )
    for row in recurrence.itertuples():
        found[f"{row.model.strip('`')}/recurring/controlled"] = Value(
            row.recurring, int(row.pairs), "share; n ordered pairs of seeds", "controlled"
        )
    return found
