"""What the language model does with a reconstruction: its next-token distribution with x replaced by x_hat, against the clean one."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from featint.activations import Activations
from featint.config import HarvestConfig, ModelConfig
from featint.corpora import Windows
from featint.lm import BATCH_WINDOWS, LanguageModel, Reading, read, resume

Condition = Callable[[Float[Tensor, "n d_in"]], Float[Tensor, "n d_in"]]
"""From raw activations x to their raw replacement x_hat."""


def condition(reconstruct: Condition, trained: ModelConfig, activations: Activations) -> Condition:
    """A reconstruction of normalised activations as a condition on raw ones: normalise, reconstruct, invert.

    Raises ValueError if the model was trained at another hook point, on another language model or with other statistics than `activations`.
    """
    there, here = trained.harvest, activations.config
    pairs = {
        "language model": (there.lm.name, here.lm.name),
        "hook point": (there.hook_point, here.hook_point),
        "statistics": (
            f"{there}, first_position={trained.train.first_position!r}",
            f"{here}, first_position={activations.first_position!r}",
        ),
    }
    for what, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise ValueError(
                f"the {trained.kind} model was trained with the {what} {theirs}, but is to be spliced with the {what} {ours}"
            )

    return lambda x: activations.denormalise(reconstruct(activations.normalise(x)))


def zero_ablation(x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_in"]:
    """Nothing in place of x."""
    return torch.zeros_like(x)


def mean_ablation(mean: Float[Tensor, " d_in"]) -> Condition:
    """The training split's mean in place of x."""
    return lambda x: mean.to(x).expand_as(x)


class Clean(NamedTuple):
    """The clean distribution of one window."""

    logits: Float[Tensor, "seq d_vocab"]
    """Shifted so that the largest is 0."""
    p: Float[Tensor, "seq d_vocab"]
    log_sum: Float[Tensor, " seq"]
    """Of the exponentials of `logits`."""
    top: Int[Tensor, " seq"]

    @classmethod
    def of(cls, logits: Float[Tensor, "seq d_vocab"]) -> "Clean":
        shifted, top = centre(logits)
        p = shifted.exp()
        total = p.sum(-1, keepdim=True)
        return cls(shifted, p / total, total.squeeze(-1).log(), top)


def centre(
    logits: Float[Tensor, "seq d_vocab"],
) -> tuple[Float[Tensor, "seq d_vocab"], Int[Tensor, " seq"]]:
    """Logits less their maximum, and where it is. Near 0 float32 keeps the digits that a KL of 1e-6 needs."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    largest, top = logits.max(-1, keepdim=True)
    return logits - largest, top.squeeze(-1)


def compare(
    clean: Clean, logits: Float[Tensor, "seq d_vocab"], target: Int[Tensor, " seq"]
) -> dict[str, Tensor]:
    """KL(clean || spliced) and both cross-entropies on the target in nats, and whether the likeliest token is the same; each (seq,)."""
    shifted, top = centre(logits)
    log_sum = shifted.exp().sum(-1).log()
    at = target[:, None]
    return {
        "kl": ((clean.p * (clean.logits - shifted)).sum(-1) - clean.log_sum + log_sum).clamp(min=0),
        "ce_clean": clean.log_sum - clean.logits.gather(1, at).squeeze(1),
        "ce_spliced": log_sum - shifted.gather(1, at).squeeze(1),
        "top1_same": clean.top == top,
    }


def directions(
    like: Float[Tensor, "batch seq d_in"], first_window: int, draw: int, seed: int
) -> Float[Tensor, "batch seq d_in"]:
    """Random unit vectors. They depend on seed, draw and window alone, so that all conditions meet the same ones at any batch size."""
    each = [
        np.random.default_rng([seed, draw, first_window + i]).standard_normal(
            like.shape[1:], np.float32
        )
        for i in range(len(like))
    ]
    return torch.nn.functional.normalize(torch.from_numpy(np.stack(each)), dim=-1).to(like)


def reconstructed(
    name: str,
    function: Condition,
    reading: Reading,
    edited: Bool[Tensor, "batch seq"],
    first_window: int,
) -> Tensor:
    """x with the edited positions replaced. Raises ValueError if the replacement is not finite, with the condition's and the window's name."""
    x_hat = reading.x.clone()
    x_hat[edited] = function(reading.x[edited]).to(x_hat)
    bad = ~x_hat.isfinite().flatten(1).all(1)
    if bad.any():
        window = first_window + int(bad.nonzero()[0])
        raise ValueError(
            f"condition {name!r} gave NaN or infinity in window {window}; nothing was evaluated from there on"
        )
    return x_hat


@torch.no_grad()
def evaluate(
    lm: LanguageModel,
    windows: Windows,
    harvest: HarvestConfig,
    conditions: Mapping[str, Condition],
    draws: int = 0,
    seed: int = 0,
    first_position: str = "drop",
    batch_windows: int = BATCH_WINDOWS,
) -> pd.DataFrame:
    """Splice every condition into the model and compare, window batch by window batch; no logits are kept.

    Parameters
    ----------
    windows
        Test windows.
    harvest
        Says where x is read and replaced; see `condition` for models trained on it.
    conditions
        By name. Each sees the raw activations of the tokens that it replaces.
    draws
        Epsilon-random twins of each condition (Gurnee 2024): x plus a random vector that has the norm of the condition's own error at that token.

    Returns one row per condition, draw, window and position that is replaced and has a next token in its window: `condition`, `draw` (-1 for
    the condition itself, 0, 1, ... for its epsilon-random twins), `window`, `position`, `article`, `kl`, `ce_clean`, `ce_spliced` (nats),
    `top1_same`, `error_norm`.

    Raises ValueError if `lm` is not the one of `harvest`, or for a reconstruction that is not finite.
    """
    if lm.config != harvest.lm:
        raise ValueError(
            f"the activations are of the language model {harvest.lm.name!r}, but {lm.config.name!r} is to be spliced into"
        )
    frames = []
    with tqdm(total=len(windows.tokens), desc="splice", unit="window", disable=None) as bar:
        for first in range(0, len(windows.tokens), batch_windows):
            tokens = windows.tokens[first : first + batch_windows]
            reading = read(lm, tokens, harvest.hook_point)
            edited = ~reading.sinks if first_position == "drop" else torch.ones_like(reading.sinks)
            counted = edited.cpu() & (torch.arange(tokens.shape[1]) < tokens.shape[1] - 1)
            where = counted.nonzero()
            origin = {
                "window": first + where[:, 0],
                "position": where[:, 1],
                "article": windows.article[first : first + len(tokens)][counted],
            }
            clean = [Clean.of(logits) for logits in resume(lm, reading)]
            target = tokens.roll(-1, 1).to(reading.x.device)
            for name, draw, x_hat in replacements(conditions, reading, edited, first, draws, seed):
                logits = resume(lm, reading, lambda x, x_hat=x_hat: x_hat, first_position)
                found = [compare(*window) for window in zip(clean, logits, target, strict=True)]
                columns = {
                    key: torch.stack([f[key] for f in found]).cpu()[counted] for key in found[0]
                }
                columns["error_norm"] = (x_hat - reading.x).norm(dim=-1).cpu()[counted]
                frames.append(
                    pd.DataFrame(
                        {
                            "condition": name,
                            "draw": draw,
                            **{k: v.numpy() for k, v in (origin | columns).items()},
                        }
                    )
                )
            bar.update(len(tokens))
    frame = pd.concat(frames, ignore_index=True)
    return frame.astype(
        {
            "condition": pd.CategoricalDtype(list(conditions)),
            "draw": "int8",
            "window": "int32",
            "position": "int32",
        }
    )


def replacements(
    conditions: Mapping[str, Condition],
    reading: Reading,
    edited: Bool[Tensor, "batch seq"],
    first_window: int,
    draws: int,
    seed: int,
) -> Iterator[tuple[str, int, Tensor]]:
    """Name, draw and x_hat (batch, seq, d_in) of every condition and its epsilon-random twins."""
    for name, function in conditions.items():
        x_hat = reconstructed(name, function, reading, edited, first_window)
        yield name, -1, x_hat
        norm = (x_hat - reading.x).norm(dim=-1, keepdim=True)
        for draw in range(draws):
            yield name, draw, reading.x + norm * directions(reading.x, first_window, draw, seed)


def ce_loss_recovered(frame: pd.DataFrame, ablation: str) -> pd.Series:
    """(ablated - spliced) / (ablated - clean), mean cross-entropies over tokens; by condition and draw: 1 is as good as clean, 0 as bad as `ablation`.

    Raises ValueError if `ablation` is not among the frame's conditions.
    """
    if not (frame.condition == ablation).any():
        raise ValueError(
            f"ablation = {ablation!r} is not among the conditions {', '.join(map(str, frame.condition.unique()))}"
        )
    mean = frame.groupby(["condition", "draw"], observed=True)[["ce_clean", "ce_spliced"]].mean()
    ablated = mean.ce_spliced[ablation, -1]
    return ((ablated - mean.ce_spliced) / (ablated - mean.ce_clean)).rename("ce_loss_recovered")
