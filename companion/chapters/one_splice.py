"""One sentence through the language model, clean and with its activations replaced: what changes, token by token."""

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from featint import downstream, lm
from featint.downstream import Clean, Condition


class Sentence(NamedTuple):
    """A sentence and the model's predictions after each of its tokens, clean and for every reconstruction."""

    words: list[str]
    """The tokens as text, each with its number, so that no two are equal; the separator comes first."""
    tokens: Int[Tensor, " seq"]
    reading: lm.Reading
    logits: dict[str, Float[Tensor, "seq d_vocab"]]
    """By condition; `clean` first."""


def splice(
    model: lm.LanguageModel,
    text: str,
    hook_point: str,
    conditions: Mapping[str, Condition],
    first_position: str = "drop",
) -> Sentence:
    """Run a text clean and once per condition, its separator first, as every window of the harvest begins.

    Raises ValueError for a text of fewer than two tokens, or a replacement that is not finite.
    """
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) < 2:
        raise ValueError(
            f"sentence = {text!r} has {len(ids)} tokens; at least 2 are needed, so that there is one to predict from and one to predict"
        )
    tokens = torch.tensor([model.separator, *ids])
    reading = lm.read(model, tokens[None], hook_point)
    logits = {"clean": lm.resume(model, reading)[0]}
    edited = ~reading.sinks if first_position == "drop" else torch.ones_like(reading.sinks)
    for name, function in conditions.items():
        x_hat = downstream.reconstructed(name, function, reading, edited, 0)
        logits[name] = lm.resume(model, reading, lambda x, x_hat=x_hat: x_hat, first_position)[0]
    words = [
        f"{i} {model.tokenizer.decode([token]).strip() or '␣'}"
        for i, token in enumerate(tokens.tolist())
    ]
    return Sentence(words, tokens, reading, logits)


def kl_by_token(sentence: Sentence) -> pd.DataFrame:
    """KL(clean || spliced) of the prediction after each token, in nats: rows tokens, columns conditions. The separator is left out."""
    clean = Clean.of(sentence.logits["clean"])
    target = sentence.tokens.roll(-1).to(clean.top.device)
    found = {
        name: downstream.compare(clean, logits, target)["kl"].cpu().numpy()
        for name, logits in sentence.logits.items()
        if name != "clean"
    }
    return pd.DataFrame(found, index=pd.Index(sentence.words, name="token")).iloc[1:]


def top_tokens(
    model: lm.LanguageModel, sentence: Sentence, place: int, roles: Mapping[str, str], n: int = 4
) -> pd.DataFrame:
    """The n likeliest next tokens after token number `place`: columns panel (condition), token, probability, role (of `plots.COLOURS`).

    Raises ValueError if there is no such token.
    """
    if not 1 <= place < len(sentence.words):
        raise ValueError(
            f"place = {place} must be a token's number, from 1 to {len(sentence.words) - 1}"
        )
    rows = []
    for name, logits in sentence.logits.items():
        top = logits[place].float().softmax(-1).topk(n)
        for p, token in zip(top.values.tolist(), top.indices.tolist(), strict=True):
            rows.append(
                {
                    "panel": name,
                    "token": repr(model.tokenizer.decode([token]))[1:-1],
                    "probability": p,
                    "role": roles[name],
                }
            )
    return pd.DataFrame(rows)


@torch.no_grad()
def random_twins(
    model: lm.LanguageModel, sentence: Sentence, function: Condition, draws: int, seed: int = 0
) -> pd.Series:
    """KL per token, in nats, of random errors as long as the condition's own: mean over draws, indexed as `kl_by_token`."""
    reading, clean = sentence.reading, Clean.of(sentence.logits["clean"])
    x_hat = downstream.reconstructed("random", function, reading, ~reading.sinks, 0)
    norm, target = (
        (x_hat - reading.x).norm(dim=-1, keepdim=True),
        sentence.tokens.roll(-1).to(clean.top.device),
    )
    found = []
    for draw in range(draws):
        x = reading.x + norm * downstream.directions(reading.x, 0, draw, seed)
        found.append(
            downstream.compare(clean, lm.resume(model, reading, lambda _, x=x: x)[0], target)[
                "kl"
            ].cpu()
        )
    return pd.Series(
        torch.stack(found).mean(0).numpy(), index=pd.Index(sentence.words, name="token")
    ).iloc[1:]


def norms(sentence: Sentence) -> pd.DataFrame:
    """The length of the clean activation at every token, and whether it counts as an attention sink."""
    length = sentence.reading.x[0].norm(dim=-1).cpu().numpy()
    return pd.DataFrame(
        {
            "token": sentence.words,
            "length": length,
            "sink": ["yes" if s else "" for s in sentence.reading.sinks[0].tolist()],
        }
    )
