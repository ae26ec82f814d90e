"""What the language model does with a reconstruction: its next-token distribution with x replaced
by x_hat, against the clean one.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from tqdm import tqdm

from featint.activations import Activations
from featint.config import HarvestConfig, ModelConfig
from featint.corpora import Windows
from featint.lm import LanguageModel, Reading, read, resume
from featint.reconstruction import PATHS
from featint.runs import Trained

Condition = Callable[[Float[Tensor, "n d_in"]], Float[Tensor, "n d_in"]]
"""From raw activations x to their raw replacement x_hat."""


def condition(reconstruct: Condition, trained: ModelConfig, activations: Activations) -> Condition:
    """A reconstruction of normalised activations as a condition on raw ones: normalise,
    reconstruct, invert.

    Raises ValueError if the model was trained at another hook point, on another language model or
    with other statistics than `activations`.
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
                f"the model was trained with the {what} {theirs}, "
                f"but is to be spliced with the {what} {ours}"
            )

    return lambda x: activations.denormalise(reconstruct(activations.normalise(x)))


def of_model(trained: Trained, activations: Activations, path: str = "all") -> Condition:
    """A trained model's reconstruction, by all its parts or a path of `reconstruction.PATHS`, as a
    condition on raw activations. Raises as `condition`."""
    return condition(by_path(trained.model, path), trained.config, activations)


def by_path(model: nn.Module, path: str = "all") -> Condition:
    """A model's reconstruction by a path of `reconstruction.PATHS`, in its training's units."""

    def reconstruct(x: Tensor) -> Tensor:
        parts = model.parts(model.encode(x))
        return sum(parts[part] for part in PATHS[path] if part in parts)

    return reconstruct


def shrunk(function: Condition, factor: float) -> Condition:
    """The condition with its error multiplied by `factor`: less of it, in the same direction."""
    return lambda x: x + factor * (function(x) - x)


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
    """Logits less their maximum, and where it is.

    Near 0 float32 keeps the digits that a KL of 1e-6 needs.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    largest, top = logits.max(-1, keepdim=True)
    return logits - largest, top.squeeze(-1)


def compare(
    clean: Clean, logits: Float[Tensor, "seq d_vocab"], target: Int[Tensor, " seq"]
) -> dict[str, Tensor]:
    """KL(clean || spliced) and both cross-entropies on the target in nats, and whether the
    likeliest token is the same; each (seq,).
    """
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
    """Random unit vectors.

    They depend on seed, draw and window alone, so that all conditions meet the same ones at any
    batch size.
    """
    windows = range(first_window, first_window + len(like))
    streams = [np.random.default_rng([seed, draw, window]) for window in windows]
    each = [stream.standard_normal(like.shape[1:], np.float32) for stream in streams]
    return torch.nn.functional.normalize(torch.from_numpy(np.stack(each)), dim=-1).to(like)


def reconstructed(
    name: str,
    function: Condition,
    reading: Reading,
    edited: Bool[Tensor, "batch seq"],
    first_window: int,
) -> Tensor:
    """x with the edited positions replaced.

    Raises ValueError if the replacement is not finite, with the condition's and the window's name.
    """
    x_hat = reading.x.clone()
    x_hat[edited] = function(reading.x[edited]).to(x_hat)
    bad = ~x_hat.isfinite().flatten(1).all(1)
    if bad.any():
        window = first_window + int(bad.nonzero()[0])
        raise ValueError(
            f"condition {name!r} gave NaN or infinity in window {window}; nothing was evaluated "
            "from there on"
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
    start: int = 0,
    batch_windows: int = 2,
) -> pd.DataFrame:
    """Splice every condition into the model at the hook point of `harvest` and compare, window
    batch by window batch, from window `start` on; no logits are kept. A batch's take 2 GB if it has
    8 windows of 128 tokens and 50,000 words, and 8 at a time are no faster on a CPU than 2.

    `draws` epsilon-random twins of each condition (Gurnee 2024) are x plus a random vector that
    has the norm of the condition's own error at that token. `first_position="drop"` leaves the
    attention sinks, every window's first position among them, clean and does not count them.

    Returns one row per condition, draw, window and position that is replaced and has a next token
    in its window: `condition`, `draw` (-1 for the condition itself, 0, 1, ... for its twins),
    `window`, `position`, `article`, `kl`, `ce_clean`, `ce_spliced` (nats), `top1_same` (the
    likeliest token is the clean one), `error_norm`.

    Raises ValueError if `lm` is not the one of `harvest`, or for a reconstruction that is not
    finite.
    """
    if lm.config != harvest.lm:
        raise ValueError(
            f"the activations are of the language model {harvest.lm.name!r}, "
            f"but {lm.config.name!r} is to be spliced into"
        )
    frames, n = [], len(windows.tokens)
    with tqdm(total=n - start, desc="splice", unit="window", disable=None) as bar:
        for first in range(start, n, batch_windows):
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
                compared = [compare(*window) for window in zip(clean, logits, target, strict=True)]
                columns = {
                    key: torch.stack([c[key] for c in compared]).cpu()[counted]
                    for key in compared[0]
                }
                columns["error_norm"] = (x_hat - reading.x).norm(dim=-1).cpu()[counted]
                rows = {key: value.numpy() for key, value in (origin | columns).items()}
                frames.append(pd.DataFrame({"condition": name, "draw": draw} | rows))
            bar.update(len(tokens))
    floats = dict.fromkeys(("kl", "ce_clean", "ce_spliced", "error_norm"), float)
    return pd.concat(frames, ignore_index=True).astype(floats)


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


def sums(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of `evaluate` summed per article; means, ratios and gains are quotients of these.

    Returns a frame indexed by article with the column levels `measure` and `condition`: `kl`,
    `ce_spliced`, `error_norm` and `top1_same` of each condition, `kl_random` of its epsilon-random
    twins, mean over draws, if it has any; `tokens` and `ce_clean` belong to no condition ("").

    Raises ValueError unless all conditions were evaluated on the same tokens.
    """
    keys, measures = ["article", "condition"], ["kl", "ce_spliced", "error_norm", "top1_same"]
    own, twins = frame[frame.draw < 0].assign(tokens=1), frame[frame.draw >= 0]
    total = own.groupby(keys, observed=True)[[*measures, "ce_clean", "tokens"]].sum().unstack()
    uneven = total["tokens"].nunique(axis=1, dropna=False) > 1
    if uneven.any():
        raise ValueError(
            f"the conditions {', '.join(map(str, total['tokens']))} were evaluated on different "
            f"tokens of article {uneven.idxmax()}: evaluate all on the same windows"
        )
    parts = {measure: total[measure] for measure in measures}
    if len(twins):
        n_draws = twins.draw.nunique()
        parts["kl_random"] = twins.groupby(keys, observed=True)["kl"].sum().unstack() / n_draws
    for shared in ("ce_clean", "tokens"):
        parts[shared] = total[shared].iloc[:, :1].set_axis([""], axis=1)
    return pd.concat(parts, axis=1, names=["measure", "condition"])
