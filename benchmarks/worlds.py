"""Planted worlds up to sixteen times as wide as the chapter's, too large for the CPU: `python -m benchmarks.worlds OUT.json`.

The chapter's own world comes first, trained in bfloat16 on the GPU: it must find what it finds in float32 on the CPU.
"""

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd

from companion.chapters import planted_truth
from companion.chapters.planted_truth import Attempt
from featint import store

WIDE = {
    "n_features": 256,
    "d_in": 256,
    "n_active": 8,
    "n_products": 128,
    "d_factor": 256,
    "noise": 0.025,
}
WIDER = {
    "n_features": 1024,
    "d_in": 1024,
    "n_active": 20,
    "n_products": 320,
    "d_factor": 640,
    "noise": 0.0125,
}
WORLDS = {  # about as many products per token and as much noise per activation in all of them
    "64": Attempt(n_tokens=600_000),
    "256": Attempt(**WIDE, n_tokens=2_400_000, batch_tokens=1024),
    "1024": (wider := Attempt(**WIDER, n_tokens=10_000_000, batch_tokens=4096)),
    "1024, half the dimensions": replace(wider, d_in=512),
    "1024, four times the tokens": replace(wider, n_tokens=40_000_000),
}
RATES = {"256": (0.001, 0.003), "1024": (0.0005, 0.001, 0.002)}
"""Learning rates tried; each model takes the best on a seed of its own. The chapter's world keeps its rate."""
TUNING_SEED = 99
MODELS = list(planted_truth.WITH_PAIRS)
KEPT = "recall_difference recall_factors auprc_difference reported false cosine fvu fvu_refit fvu_refit_pairs fvu_linear_floor fvu_floor".split()


def sweep(world: str, rates: dict[str, float], seeds: int) -> list[Attempt]:
    """Every model with its learning rate, from every seed."""
    return [
        replace(WORLDS[world], model=m, lr=rates.get(m, WORLDS[world].lr), seed=s)
        for m in MODELS
        for s in range(seeds)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="the JSON file to write, after every stage")
    parser.add_argument("--seeds", type=int, default=5)
    asked, began, rows = parser.parse_args(), time.monotonic(), []

    def run(stage: dict[str, list[Attempt]]) -> dict[str, pd.DataFrame]:
        tables = planted_truth.run(stage)
        for name, table in tables.items():
            kept = [*asdict(WORLDS["64"]), *(c for c in KEPT if c in table)]
            rows.extend(json.loads(table[kept].assign(world=name).to_json(orient="records")))
            by = ["model", "lr"]
            found = table.groupby(by, sort=False)[["recall_difference", "fvu"]].agg(
                ["mean", "min", "max"]
            )
            print(
                f"{time.monotonic() - began:5.0f} s  {name}\n{found.round(3).to_string()}",
                flush=True,
            )
        store.write_json(asked.out, {"provenance": store.provenance(), "rows": rows})
        return tables

    tuning = {
        f"tuning {name}": planted_truth.attempts(
            WORLDS[name], model=MODELS, lr=rates, seed=[TUNING_SEED]
        )
        for name, rates in RATES.items()
    }
    tables = run(tuning | {"64": sweep("64", {}, asked.seeds)})
    best = {}
    for name in RATES:
        table = tables[f"tuning {name}"]
        best[name] = (
            table.loc[table.groupby("model")["fvu"].idxmin()].set_index("model")["lr"].to_dict()
        )
    run({name: sweep(name, best[name], asked.seeds) for name in ("256", "1024")})
    for name in list(WORLDS)[3:]:
        run({name: sweep(name, best["1024"], asked.seeds)})
    print(f"written to {asked.out}")


if __name__ == "__main__":
    main()
