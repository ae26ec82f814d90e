"""From a ModelConfig to a trained model, taken from the store or trained and put there."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from featint import activations, foreign, store, train
from featint.activations import Activations
from featint.config import ModelConfig
from featint.joint import JointSAE
from featint.nfm import NFM
from featint.sae import TopKSAE
from featint.secondary import SecondarySAE

KIND = "models"
COUNTS = ("fired_tokens", "silent_tokens")
VALIDATION_TOKENS = 4096
STATISTICS_TOKENS = 1 << 17  # random training tokens behind a secondary SAE's statistics
HOLDOUT_SEED = 0  # not the training's: all seeds of a model leave out the same tokens


@dataclass
class Trained:
    """A trained model with its records."""

    config: ModelConfig
    model: TopKSAE | JointSAE | SecondarySAE
    history: pd.DataFrame
    """As `train.Training.history`."""
    fired_tokens: Tensor
    """(d_sae,) training tokens on which each feature was active."""
    silent_tokens: Tensor
    """(d_sae,) training tokens since each feature was last active."""
    seconds: float
    """How long the training took."""
    provenance: dict
    """Of the training: seed, time, versions, device."""
    sha256: str
    """Of the file with the weights."""

    @property
    def n_parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    @property
    def dead(self) -> Tensor:
        """(d_sae,) whether a feature has been silent for `dead_after_tokens` or longer."""
        return self.silent_tokens >= self.config.train.dead_after_tokens


def _initial(
    config: ModelConfig, d_in: int, generator: torch.Generator | None = None
) -> TopKSAE | JointSAE | SecondarySAE:
    """A model of the right shape for what it reads, (batch, d_in), with random initial values."""
    sae = TopKSAE(d_in, config.sae, generator)
    if config.target == "hidden":
        return SecondarySAE(sae, torch.zeros(d_in), torch.ones(d_in))
    if config.nfm is None:
        return sae
    return JointSAE(sae, NFM(d_in, config.sae.d_sae, config.nfm, generator))


def build(config: ModelConfig, d_in: int) -> TopKSAE | JointSAE | SecondarySAE:
    """The untrained model for activations x (batch, d_in); its seed decides its initial values.

    With an NFM and a base it takes over the base's SAE, at its own k. A secondary SAE has no
    statistics yet, and a finished SAE of somebody else's is as it will stay.
    """
    width = config.base.nfm.d_factor if config.target == "hidden" else d_in
    model = _initial(config, width, torch.Generator().manual_seed(config.train.seed))
    if config.nfm is not None and config.base is not None:
        model.sae.load_state_dict(get(config.base).model.state_dict())
    elif config.finished:
        state = foreign.read(config.sae.source, training_tokens(config)[0])
        model.load_state_dict({name: state[name] for name in model.state_dict()})
    return model


def get(config: ModelConfig) -> Trained:
    """The trained model of this config; trains it on the spot, with a progress bar, if the store
    lacks it.

    Raises StoreError if an artefact is damaged.
    """
    if not store.exists(KIND, config):
        fit(config)
    artefact = store.load(KIND, config)
    tensors = load_file(artefact.file("model.safetensors"))
    counts = {name: tensors.pop(f"counts/{name}") for name in COUNTS}
    model = _initial(config, artefact.meta["d_in"])
    model.load_state_dict(tensors)
    model.requires_grad_(False).eval().to(store.device())
    return Trained(
        config,
        model,
        pd.DataFrame(artefact.meta["history"]),
        **counts,
        seconds=artefact.meta["seconds"],
        provenance=artefact.manifest["provenance"],
        sha256=artefact.manifest["files"]["model.safetensors"]["sha256"],
    )


def checkpoint_of(config: ModelConfig) -> Path:
    """Where the unfinished training of this config keeps its state."""
    return store.cache() / "checkpoints" / store.key(config)


def training_tokens(config: ModelConfig) -> tuple[Activations, Activations]:
    """The activations that a model is trained on, and those of the same text held out from it.

    The latter are a random share, `holdout_share`: the same for every seed, none by default.
    """
    acts = activations.load(config.harvest, "train", config.train.first_position)
    return acts.split_tokens(config.train.holdout_share, seed=HOLDOUT_SEED)


def target_of(config: ModelConfig) -> Callable[[Tensor], Tensor]:
    """From x (batch, d_in) to what a model of this config reads and reconstructs, (batch, d).

    That is x itself where there is an NFM: to fit x with a frozen SAE is to fit its error.
    """
    if config.target == "x" or config.nfm is not None:
        return lambda x: x
    base = get(config.base).model
    if config.target == "error":
        return lambda x: x - base(x).x_hat
    return lambda x: base.nfm.hidden(base.encode(x))


def fit(config: ModelConfig, label: str | None = None) -> None:
    """Train a model and store it; goes on from its checkpoint if an earlier run was killed.

    `label` stands before the progress bar. A finished SAE of somebody else's reads the same tokens
    at a rate of 0, so that what fires is counted alike.

    Raises FloatingPointError for a loss that is not finite.
    """
    began = time.monotonic()
    store.writable(store.path(KIND, config).parent)
    settings = config.train
    acts, _ = training_tokens(config)
    target = target_of(config)
    model = build(config, acts.d_in)
    if config.target == "hidden":
        order = torch.randperm(len(acts), generator=torch.Generator().manual_seed(settings.seed))
        some = acts.subset(order[:STATISTICS_TOKENS])
        model.standardise(torch.cat([u.double().cpu() for u in some.pieces().map(target)]))
    if config.freezes_sae:
        settings = replace(settings, lr_scale={"sae": 0.0, **settings.lr_scale})
    if config.finished:
        settings = replace(settings, lr=0.0, lr_scale={"W": 0.0})
    # As in training, the validation split is z-scored with the training split's statistics.
    held_out = activations.load(config.harvest, "validation", settings.first_position)
    validation = target(held_out.pieces(VALIDATION_TOKENS)[0])
    model = model.to(store.device())
    training = train.fit(
        model,
        acts.batches(settings).map(target),
        settings,
        loss_fn=model.loss if config.target == "hidden" else train.mse,
        validation=validation,
        checkpoint=checkpoint_of(config),
        label=label or f"{type(model).__name__} on {config.target}",
    )
    meta = {
        "d_in": validation.shape[1],
        "history": training.history.to_dict("records"),
        "seconds": round(time.monotonic() - began, 1),
    }
    with store.create(KIND, config, meta, seed=config.train.seed) as folder:
        state = {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}
        counts = {f"counts/{name}": getattr(training, name).cpu() for name in COUNTS}
        save_file(state | counts, folder / "model.safetensors")
    store.discard(checkpoint_of(config))
