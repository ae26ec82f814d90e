"""Does the decoder of a finished SAE, fitted anew on the whole text, catch up with an NFM on the error? `python -m benchmarks.refit`.

The chapter *Baselines* fits it on a part of the text that the NFM is trained on; here least squares reads all of it. A few minutes,
with the laptop's models; writes `results/bench/refit.json`.
"""

import time
from dataclasses import replace

import pandas as pd
import torch

from companion import estimates, profiles, results, variants
from companion.chapters import baselines
from featint import activations, reconstruction, runs
from featint.kernels import sparse


@torch.no_grad()
def main() -> None:
    began, p = time.monotonic(), replace(profiles.laptop(), name="bench")
    models = {name: runs.get(variants.get(name, p)) for name in ("sae", "sequential_cut")}
    sae, nfm = (trained.model for trained in models.values())
    cut, harvest = models["sequential_cut"].config.sae.k, models["sae"].config.harvest

    def dense(x):
        return sae.encode(x).top(cut).dense(sae.d_sae)

    held_out = activations.load(harvest, "validation").pieces(runs.VALIDATION_TOKENS)[0]
    pairs = ((dense(x), x) for x in activations.load(harvest, "train").pieces())
    fit = baselines.ridge(pairs, (dense(held_out), held_out))
    decoder, bias = (torch.from_numpy(part).float() for part in fit)
    x_hats = {
        "sae_at_cut": lambda x: sae.decode(sae.encode(x).top(cut)),
        "refit_at_cut": lambda x: sparse.decode(sae.encode(x).top(cut), decoder) + bias,
        "sequential_cut": lambda x: nfm(x).x_hat,
    }
    test = activations.load(harvest, "test")
    sums = reconstruction.by_article(
        lambda x: {(name, "all"): f(x) for name, f in x_hats.items()}, test.pieces(), test.article
    )
    errors = sums["sse"].xs("all", axis=1, level="part")
    pairs = [("refit_at_cut", "sae_at_cut"), ("sequential_cut", "refit_at_cut")]
    fvu = estimates.ratios(errors, sums["sst"], quantity="fvu", unit="fraction")
    found = pd.concat([fvu, estimates.gains(errors, pairs)])
    print(found[["model", "quantity", "baseline", "value", "lo", "hi"]].to_string())
    print(results.save(p, "refit", found, p.seeds[0], time.monotonic() - began))


if __name__ == "__main__":
    main()
