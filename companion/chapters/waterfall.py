"""The differences between the published protocol and a controlled one as switches."""

from dataclasses import dataclass

import pandas as pd
import torch

from companion import published, variants
from companion.profiles import Profile, altered
from featint import activations, reconstruction, runs
from featint.activations import Activations
from featint.config import ModelConfig, choose

REFERENCES = "sae sae_bias sae_tuned sae_fast_decoder joint_no_interaction".split()
SWITCHES = {
    "reference": ("own path", *REFERENCES),
    "text": ("first training windows", "training split", "test articles"),
    "first_position": ("keep", "drop"),
    "nfm_sees": ("all", "half"),
}
SPLIT_TOKENS = 40_000
"""Random tokens of the training split that stand for the whole of it."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How the joint model's gain is measured. The defaults are the published protocol."""

    reference: str = "own path"
    """Whose error the joint model's is compared with: its own SAE path's, or that of a model
    trained for itself."""
    text: str = "first training windows"
    """The tokens on which both errors are measured."""
    first_position: str = "keep"
    """Whether attention sinks (windows' first positions, separators, tokens of as large a norm)
    are among the tokens, in training, normalisation and evaluation. With `keep` a random tenth of
    the training tokens is left out of training, as in the released code."""
    nfm_sees: str = "all"
    """The codes that the NFM sees: all active features, or the larger half of them (the mask in
    the released code)."""

    def __post_init__(self):
        for name, allowed in SWITCHES.items():
            choose(name, getattr(self, name), allowed)


def trained_as(name: str, protocol: Protocol, p: Profile, seed: int | None = None) -> ModelConfig:
    """A named model, its first positions and mask as the protocol says; seed as `variants.get`."""
    config = variants.get(name, p, seed)
    drop = {"train": {"first_position": "drop"}}
    config = altered(config, variants.PUBLISHED if protocol.first_position == "keep" else drop)
    if protocol.nfm_sees == "half" and config.nfm is not None:
        config = altered(config, {"nfm": {"top_n": max(1, config.sae.k // 2)}})
    return config


def training_text(protocol: Protocol, p: Profile) -> Activations:
    """The training activations on which a protocol measures."""
    acts = activations.load(p.harvest, "train", protocol.first_position)
    if protocol.text == "first training windows":
        return published.joint_tokens(acts, p)
    order = torch.randperm(len(acts), generator=torch.Generator().manual_seed(p.seeds[0]))
    return acts.subset(order[:SPLIT_TOKENS].sort().values)


def errors(protocol: Protocol, p: Profile, *others: str) -> pd.DataFrame:
    """Sums per seed of the profile and article: columns `joint`, the protocol's reference and the
    others that are named, squared errors, and `tokens`. The tokens are the same for all seeds."""
    names, own = dict.fromkeys(["joint", protocol.reference, *others]), "own path"
    acts = None if protocol.text == "test articles" else training_text(protocol, p)
    of_seeds = {}
    for seed in p.seeds:
        configs = {n: trained_as(n, protocol, p, seed) for n in names if n != own}
        if acts is None:
            of_seeds[seed] = reconstruction.sums(configs)
        else:
            paths = reconstruction.paths({name: runs.get(c).model for name, c in configs.items()})
            of_seeds[seed] = reconstruction.by_article(paths, acts.pieces(), acts.article)
    sums = pd.concat(of_seeds, names=["seed"])
    places = {own: ("joint", "own_path")}
    columns = {name: sums["sse"][places.get(name, (name, "all"))] for name in names}
    return pd.DataFrame(columns | {"tokens": sums["tokens"]})
