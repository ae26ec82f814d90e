"""From a ModelConfig to a trained model: taken from the store if it is there, else trained and put there."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from featint import activations, store, train
from featint.activations import Activations
from featint.config import ModelConfig
from featint.joint import JointSAE
from featint.nfm import NFM
from featint.sae import TopKSAE
from featint.secondary import SecondarySAE

KIND = "models"
VALIDATION_TOKENS = 4096
STATISTICS_TOKENS = (
    1 << 17
)  # random training tokens behind a secondary SAE's mean and standard deviation
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


def build(config: ModelConfig, d_in: int) -> TopKSAE | JointSAE:
    """The untrained model; its seed decides its initial values. A sequential or warm joint model takes over its base's SAE, at its own k."""
    generator = torch.Generator().manual_seed(config.train.seed)
    sae = TopKSAE(d_in, config.sae, generator)
    if config.nfm is None:
        return sae
    if config.base is not None:
        sae.load_state_dict(get(config.base).model.state_dict())
    return JointSAE(sae, NFM(d_in, config.sae.d_sae, config.nfm, generator))


def get(config: ModelConfig) -> Trained:
    """The trained model of this config; trains it on the spot, with a progress bar, if the store lacks it.

    Raises StoreError if its activations have not been harvested or an artefact is damaged.
    """
    if not store.exists(KIND, config):
        fit(config)
    artefact = store.load(KIND, config)
    tensors = load_file(artefact.file("model.safetensors"))
    counts = {name: tensors.pop(f"counts/{name}") for name in ("fired_tokens", "silent_tokens")}
    d_in = artefact.meta["d_in"]
    sae = TopKSAE(d_in, config.sae)
    if config.kind == "secondary":
        model = SecondarySAE(sae, torch.zeros(d_in), torch.ones(d_in))
    else:
        model = (
            sae if config.nfm is None else JointSAE(sae, NFM(d_in, config.sae.d_sae, config.nfm))
        )
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
    return store.cache() / "checkpoints" / f"{store.key(config)}.safetensors"


def training_tokens(config: ModelConfig) -> tuple[Activations, Activations]:
    """The activations that a model is trained on, and those of the training windows that are held out from it (none unless it asks for them)."""
    acts = activations.load(config.harvest, "train", config.train.first_position)
    return acts.split_tokens(config.train.holdout_share, seed=HOLDOUT_SEED)


class Errors(Sequence):
    """Batches of x turned into batches of a finished model's error, x - x_hat."""

    def __init__(self, batches: Sequence[Tensor], model: TopKSAE | JointSAE):
        self.batches, self.model = batches, model

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, step: int) -> Tensor:
        x = self.batches[step]
        return x - self.model(x).x_hat


class Hidden(Sequence):
    """Batches of x turned into batches of u, the inside of a finished model's interaction path."""

    def __init__(self, batches: Sequence[Tensor], model: TopKSAE | JointSAE):
        self.batches, self.model = batches, model

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, step: int) -> Tensor:
        return self.model.nfm.hidden(self.model.encode(self.batches[step]))


def build_secondary(
    config: ModelConfig, base: TopKSAE | JointSAE, acts: Activations
) -> SecondarySAE:
    """The untrained secondary SAE, with the statistics of `base`'s interaction path on random training tokens.

    Raises ValueError if the base has no hidden layer in an interaction path, or was trained on other tokens' statistics.
    """
    nfm = config.base.nfm
    if nfm is None or not nfm.interaction or nfm.form == "polynomial":
        raise ValueError(
            f"a secondary model reads the hidden layer of an interaction path, which its base ({config.base.kind}, nfm = {nfm!r}) lacks"
        )
    if (config.base.harvest, config.base.train.first_position) != (
        config.harvest,
        config.train.first_position,
    ):
        raise ValueError(
            "a secondary model must be trained on its base's activations, first positions dropped or kept as there"
        )
    chosen = torch.randperm(len(acts), generator=torch.Generator().manual_seed(config.train.seed))[
        :STATISTICS_TOKENS
    ]
    u = torch.cat([piece.double() for piece in Hidden(acts.subset(chosen).pieces(), base)])
    sae = TopKSAE(nfm.d_factor, config.sae, torch.Generator().manual_seed(config.train.seed))
    return SecondarySAE(sae, u.mean(0).float().cpu(), u.std(0, correction=0).float().cpu())


def fit(config: ModelConfig, label: str | None = None) -> Path:
    """Train a model and store it; goes on from its checkpoint if an earlier run was killed. Returns the artefact's folder."""
    began = time.monotonic()
    acts, _ = training_tokens(config)
    base = None if config.base is None else get(config.base).model
    model = (
        build_secondary(config, base, acts)
        if config.kind == "secondary"
        else build(config, acts.d_in)
    ).to(store.device())
    batches: Sequence[Tensor] = activations.Batches(
        acts, config.train.n_tokens, config.train.batch_tokens, config.train.seed
    )
    # The same normalisation as in training: the validation split is z-scored with the training split's statistics.
    held_out = activations.load(config.harvest, "validation", config.train.first_position)
    validation = held_out.pieces(VALIDATION_TOKENS)[0]
    if config.kind == "sae" and base is not None:
        batches, validation = Errors(batches, base), validation - base(validation).x_hat
    elif config.kind == "secondary":
        batches, validation = Hidden(batches, base), base.nfm.hidden(base.encode(validation))
    training = train.fit(
        model,
        batches,
        config.train,
        loss_fn=model.loss if config.kind == "secondary" else train.mse,
        validation=validation,
        checkpoint=checkpoint_of(config),
        label=label or config.kind,
    )
    meta = {
        "d_in": validation.shape[1],
        "history": training.history.to_dict("records"),
        "seconds": round(time.monotonic() - began, 1),
    }
    with store.create(KIND, config, meta, seed=config.train.seed) as folder:
        state = {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}
        counts = {
            "counts/fired_tokens": training.fired_tokens.cpu(),
            "counts/silent_tokens": training.silent_tokens.cpu(),
        }
        save_file(state | counts, folder / "model.safetensors")
    return store.path(KIND, config)
