"""What is found, after training, of products of codes that were planted in real activations."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from companion import estimates
from companion.chapters import two_decoders
from featint import activations, reconstruction, runs, store, train
from featint.config import ModelConfig, to_json
from featint.joint import JointSAE
from featint.nfm import NFM

KIND = "detection-limit"
TEST_TOKENS = 24_576
LIVE = {"linear": False, "dropout": 0.0, "normalise": True}
"""The path that lives: no dropout, normalised codes and, in training, no bias of its hidden layer;
the decoder that it stands beside is its linear part."""


def attempt(
    config: ModelConfig,
    plant: Callable[[Tensor], Tensor],
    planting: Mapping,
    look: Callable[[Mapping[str, nn.Module]], dict],
) -> dict:
    """Train three models on planted activations and compare them on planted test articles.

    The `twin` is the config's joint model without interaction path; `joint` is the config's model,
    and `path` a live path (`LIVE`) beside the twin, which is frozen: their gains over the twin,
    [value, lo, hi], in per cent. Beside them its `fvu`, and what `look` makes of the models.

    `plant` takes x (batch, d_in) to what the models see instead; `planting` says in plain values
    what that is, and names the attempt in the store, which keeps what is returned here.
    """
    key = {"model": to_json(config), "planting": dict(planting)}
    if not store.exists(KIND, key):
        models = trained(config, plant)
        test = activations.load(config.harvest, "test", config.train.first_position)
        test = test.subset(torch.arange(min(TEST_TOKENS, len(test))))
        made = reconstruction.paths(models)
        sums = reconstruction.by_article(made, test.pieces().map(plant), test.article)
        errors = sums["sse"].xs("all", axis=1, level="part")
        gains = estimates.gains(errors, [(name, "twin") for name in ("joint", "path")])
        row = gains.set_index("model")[estimates.NUMBERS].astype(float).T.to_dict("list")
        row["fvu"] = errors["twin"].sum() / sums["sst"].to_numpy().sum()
        with store.create(KIND, key, row | look(models), seed=config.train.seed):
            pass  # there is nothing to keep but these numbers
    return store.load(KIND, key).meta


def trained(config: ModelConfig, plant: Callable[[Tensor], Tensor]) -> dict[str, nn.Module]:
    """The models of an `attempt`, by name."""
    acts, _ = runs.training_tokens(config)

    def fit(model: nn.Module, **lr_scale: float) -> nn.Module:
        how = replace(config.train, lr_scale=lr_scale)
        train.fit(model.to(store.device()), acts.batches(how).map(plant), how, label=KIND)
        return model.requires_grad_(False)

    alone = replace(config, nfm=replace(config.nfm, interaction=False))
    twin = two_decoders.merged(fit(runs.build(alone, acts.d_in)))
    seeded = torch.Generator().manual_seed(config.train.seed)
    nfm = NFM(acts.d_in, twin.d_sae, replace(config.nfm, **LIVE), seeded)
    joint = fit(runs.build(config, acts.d_in))
    path = fit(JointSAE(twin, nfm), sae=0.0, **{"nfm.b_hidden": 0.0})
    return {"twin": twin, "joint": joint, "path": path}
