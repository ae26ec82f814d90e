"""One sentence through the language model, clean and with its activations replaced."""

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from featint import downstream, lm
from featint.downstream import Clean, Condition


class Sentence(NamedTuple):
    """A sentence and the model's predictions after each of its tokens."""

    tokens: pd.DataFrame
    """A row per token, the separator first: `token`, its number and text; `length` of the clean
    activation; whether it is a `sink`."""
    logits: dict[str, Float[Tensor, "seq d_vocab"]]
    """By condition; `clean` first."""
    kl: pd.DataFrame
    """KL(clean || spliced) of the prediction after each token, in nats: rows tokens without the
    separator, columns conditions."""
    kl_random: pd.DataFrame
    """The same of random errors as long as each condition's own, mean over draws."""


@torch.no_grad()
def splice(
    model: lm.LanguageModel,
    text: str,
    hook_point: str,
    conditions: Mapping[str, Condition],
    draws: int = 0,
    first_position: str = "drop",
) -> Sentence:
    """Run a text clean and once per condition and random twin, its separator first, as every window
    of the harvest begins. `first_position="drop"` leaves the attention sinks clean.

    Raises ValueError for a text of fewer than two tokens, or a replacement that is not finite.
    """
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) < 2:
        few = f"sentence = {text!r} has {len(ids)} tokens; at least 2 are needed"
        raise ValueError(f"{few}, so that there is one to predict from and one to predict")
    tokens = torch.tensor([model.separator, *ids])
    words = [model.tokenizer.decode([token]).strip() or "␣" for token in tokens.tolist()]
    words = pd.Index([f"{i} {word}" for i, word in enumerate(words)], name="token")  # all differ
    reading = lm.read(model, tokens[None], hook_point)
    edited = ~reading.sinks if first_position == "drop" else torch.ones_like(reading.sinks)
    logits = {"clean": lm.resume(model, reading)[0]}
    clean, target, kl = Clean.of(logits["clean"]), tokens.roll(-1).to(reading.x.device), {}
    for name, draw, x_hat in downstream.replacements(conditions, reading, edited, 0, draws, 0):
        after = lm.resume(model, reading, lambda x, x_hat=x_hat: x_hat, first_position)[0]
        kl[name, draw] = downstream.compare(clean, after, target)["kl"].cpu().numpy()
        if draw < 0:
            logits[name] = after
    rows = {"length": reading.x[0].norm(dim=-1).cpu(), "sink": reading.sinks[0].cpu()}
    kl = pd.DataFrame(kl, words, dtype=float).iloc[1:].T  # a row per condition and draw
    twins = kl.drop(index=-1, level=1).groupby(level=0, sort=False).mean().T
    return Sentence(pd.DataFrame(rows, words).reset_index(), logits, kl.xs(-1, level=1).T, twins)
