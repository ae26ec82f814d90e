"""What keeps an interaction path alive? Planted worlds, true codes, one change at a time: `python -m benchmarks.paths OUT.json`.

Every kind of path meets every learning rate on a seed of its own. The kind and rate with the least error then meet five other
seeds, with the true codes and with codes that are learned in sequence or jointly. Five to ten minutes on a GPU.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from math import comb
from pathlib import Path

import pandas as pd
import torch
from joblib import Parallel, delayed
from torch import Tensor
from torch.nn import functional

from benchmarks.worlds import MODELS, TUNING_SEED, WORLDS
from companion.chapters.planted_truth import FLOOR, N_TEST, TEST, Attempt, fitted
from featint import geometry, planted, store
from featint.config import NFMConfig
from featint.kernels.sparse import Codes
from featint.nfm import NFM

RATES = (0.001, 0.003, 0.01)
MEAN_SQUARE = 1 + 1 / 12  # of a code that is present, uniform between 0.5 and 1.5
STILL = 1e-3


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How an interaction path differs from the released one with the rest as it is."""

    activation: str = "relu"
    """Of the MLP's hidden layer; `none` writes the pooled products straight to the output, without MLP."""
    scaled: bool = False
    """V starts so large that pooled products have variance 1, the hidden layer so that they keep it."""
    hidden_bias: bool = True
    """Train the hidden layer's bias, else it stays at 0."""
    dropout: float = 0.0


KINDS = {
    "as released": Kind(dropout=0.15),
    "without dropout": Kind(),
    "bias held at 0": Kind(hidden_bias=False),
    "scaled start": Kind(scaled=True),
    "scaled start, bias held at 0": Kind(scaled=True, hidden_bias=False),
    "GELU": Kind(activation="gelu"),
    "GELU, scaled start": Kind(activation="gelu", scaled=True),
    "products straight to the output": Kind(activation="none"),
    "products straight to the output, scaled start": Kind(activation="none", scaled=True),
}


class InteractionPath(NFM):
    """An NFM whose interaction path is of that kind."""

    def __init__(
        self, kind: Kind, n_active: int, d_in: int, d_sae: int, config: NFMConfig, generator
    ):
        super().__init__(d_in, d_sae, replace(config, dropout=kind.dropout), generator)
        self.activation = kind.activation
        if kind.scaled:
            with torch.no_grad():
                pooled = comb(n_active, 2) * MEAN_SQUARE**2  # variance at std(V) = 1
                self.V.mul_(pooled**-0.25 / 0.05)
                self.W_hidden.mul_((2 / config.d_factor) ** 0.5 / 0.01)

    def top(self, codes: Codes) -> Tensor:
        """(batch, d_factor) what W_out reads."""
        if self.activation == "none":
            return self.pooled(codes)
        return getattr(functional, self.activation)(self.hidden(codes))

    def interaction_out(self, codes: Codes) -> Tensor:
        return self.top(codes) @ self.W_out + self.b_out


def silent(tops: Tensor) -> float:
    """Share of the columns of (tokens, units) that stay within a thousandth of the widest one's range."""
    ranges = tops.amax(0) - tops.amin(0)
    return (ranges <= STILL * ranges.max()).double().mean().item()


@torch.no_grad()
def measured(a: Attempt, kind: str) -> dict:
    """Train an attempt's model with that kind of path and measure it on fresh tokens."""
    world, true = planted.World(a), a.model == "true_codes"
    a = replace(a, hidden_bias=KINDS[kind].hidden_bias)
    with torch.enable_grad():
        model = fitted(a, world, partial(InteractionPath, KINDS[kind], a.n_active))
    fit, test = (world.draw(N_TEST, planted.step_generator(a.seed, s)) for s in (FLOOR, TEST))
    rows = torch.cat([test.codes, test.x], 1) if true else test.x
    codes, match = model.encode(rows), torch.arange(a.n_features)
    row = asdict(a) | {"kind": kind, "fvu": planted.fvu(test.x, model(rows).x_hat)}
    row["fvu_linear_floor"], row["fvu_floor"] = world.floors(fit, test)
    row["silent"] = silent(model.nfm.top(codes))
    if not true:
        cosine, match = planted.matched(geometry.directions(model), world.directions)
        row["cosine"] = cosine.median().item()
    on = store.device()
    codes = Codes(*(part.to(on) for part in codes))
    found = planted.pairs_found(model.nfm.to(on), codes, match.to(on), world)
    return row | {name: found[name] for name in ("recall_difference", "auprc_difference")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="the JSON file to write, after every stage")
    parser.add_argument("--worlds", nargs="+", default=["256", "1024"], choices=list(WORLDS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    asked, began, rows = parser.parse_args(), time.monotonic(), []

    def run(world: str, stage: str, todo: list[tuple[Attempt, str]]) -> pd.DataFrame:
        frame = pd.DataFrame(Parallel(n_jobs=-1)(delayed(measured)(*one) for one in todo))
        frame = frame.assign(world=world, stage=stage)
        rows.extend(json.loads(frame.to_json(orient="records")))
        store.write_json(asked.out, {"provenance": store.provenance(), "rows": rows})
        by = frame.groupby(["kind", "model", "lr"], sort=False)
        shown = by[["recall_difference", "fvu", "silent"]].mean().round(4)
        print(
            f"{time.monotonic() - began:5.0f} s  {world}, {stage}\n{shown.to_string()}", flush=True
        )
        return frame

    def least(frame: pd.DataFrame) -> pd.Series:
        return frame.loc[frame["fvu"].idxmin()]

    for world in asked.worlds:
        base = replace(WORLDS[world], seed=TUNING_SEED)
        grid = [(replace(base, lr=lr), kind) for kind, lr in product(KINDS, asked.rates)]
        best = least(run(world, "kinds", grid))
        learned = [replace(base, model=m, lr=lr) for m, lr in product(MODELS[1:], asked.rates)]
        tuned = run(world, "rates", [(a, best["kind"]) for a in learned])
        rates = {m: least(tuned[tuned["model"] == m])["lr"] for m in MODELS[1:]}
        rates[MODELS[0]] = best["lr"]
        final = [
            replace(base, model=m, lr=rates[m], seed=s) for m in MODELS for s in range(asked.seeds)
        ]
        run(world, "seeds", [(a, best["kind"]) for a in final])
    print(f"written to {asked.out}")


if __name__ == "__main__":
    main()
