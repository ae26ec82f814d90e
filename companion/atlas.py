"""The interaction atlas: what each feature of the joint model does on held-out text, as one JSON file that a page without server can search."""

import itertools
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from torch import Tensor

from companion import places, variants
from companion.profiles import Profile
from featint import activations, harvest, lm, pairs, runs, store
from featint.activations import Activations
from featint.joint import JointSAE
from featint.kernels.sparse import Codes

MIN_FIRED = 10  # held-out tokens: a feature that fires on fewer is left out, and a pair that fires together on fewer
CONTEXTS, PROMOTED, PARTNERS = 3, 6, 5
WORDS = 15  # of an excerpt, the marked one included
MOST = 10_000  # features: those that fire most often, so that the file stays below 10 MB
CANDIDATES, TOGETHER = (
    12,
    8,
)  # pairs per feature whose effect is measured, and tokens on which it is
ROUNDING = 1e-6  # of float32: an effect below it is none
CHUNK, ROWS = 128, 4096  # features at a time, for logits; tokens at a time, for effects


@dataclass(frozen=True)
class Firings:
    """Every (token, feature) at which a feature is active, in the order of tokens."""

    codes: Codes
    """Of all tokens."""
    token: np.ndarray
    """Row of the activations."""
    feature: np.ndarray
    act: np.ndarray
    d_sae: int

    @property
    def n_tokens(self) -> int:
        return len(self.codes.acts)

    @cached_property
    def count(self) -> np.ndarray:
        """(d_sae,) tokens on which each feature is active."""
        return np.bincount(self.feature, minlength=self.d_sae)

    @cached_property
    def mean(self) -> np.ndarray:
        """(d_sae,) mean activation where active; 0 for features that never are."""
        return np.bincount(self.feature, self.act, self.d_sae) / np.maximum(self.count, 1)


def path(profile: Profile) -> Path:
    """Where a profile's atlas lies."""
    return places.BUILD / "atlas" / profile.label / "atlas.json"


def build(profile: Profile) -> Path:
    """Write the atlas of the profile's joint model and return the file's path. Raises StoreError if there are no activations."""
    trained = runs.get(variants.get("joint", profile))
    test = activations.load(profile.harvest, "test")
    model, language_model = trained.model.cpu(), lm.load(profile.harvest.lm)
    found = firings(model, test)
    live = np.flatnonzero(found.count >= MIN_FIRED)
    live = np.sort(live[np.argsort(-found.count[live], kind="stable")[:MOST]])
    topic, lift = topics(found, test.topic.numpy(), len(test.topics))
    excerpts = contexts(
        found, live, test, harvest.windows(profile.harvest).windows["test"].tokens, language_model
    )
    tokens, partner = promoted(model, live, test.std, language_model), partners(model, found, live)
    features = [
        {
            "id": int(i),
            "rate": digits(found.count[i] / found.n_tokens),
            "norm": digits(float(model.sae.W_dec[i].norm())),
            "mean": digits(found.mean[i]),
            "topic": int(topic[i]),
            "lift": digits(lift[i]),
            "contexts": excerpts[i],
            "promoted": tokens[i],
            "partners": partner[i],
        }
        for i in live.tolist()
    ]
    about = {
        "profile": profile.label,
        "d_sae": found.d_sae,
        "k": profile.sae.k,
        "d_in": test.d_in,
        "hook_point": profile.harvest.hook_point,
        "tokens": found.n_tokens,
        "articles": len(test.article.unique()),
        "min_fired": MIN_FIRED,
        "topics": test.topics,
        "provenance": trained.provenance,
    }
    text = json.dumps(
        {"about": about, "features": features},
        ensure_ascii=False,
        allow_nan=False,
        separators=(",", ":"),
    )
    store.write_bytes(path(profile), text.encode())
    return path(profile)


def digits(x: float) -> float:
    """Four significant digits."""
    return float(f"{x:.4g}")


@torch.no_grad()
def firings(model: JointSAE, acts: Activations) -> Firings:
    """Where the model's features are active."""
    codes = Codes(
        *map(torch.cat, zip(*(model.encode(x.cpu()) for x in acts.pieces()), strict=True))
    )
    token, place = (codes.acts > 0).nonzero(as_tuple=True)
    return Firings(
        codes,
        token.int().numpy(),
        codes.indices[token, place].int().numpy(),
        codes.acts[token, place].numpy(),
        model.d_sae,
    )


def topics(found: Firings, topic: np.ndarray, n_topics: int) -> tuple[np.ndarray, np.ndarray]:
    """For each feature the topic in which it fires at the highest rate, and that rate over its rate in all text (0 if it never fires).

    `topic` is that of each token.
    """
    table = np.bincount(
        found.feature.astype(np.int64) * n_topics + topic[found.token],
        minlength=found.d_sae * n_topics,
    )
    rates = table.reshape(found.d_sae, n_topics) / np.maximum(
        np.bincount(topic, minlength=n_topics), 1
    )
    return rates.argmax(1), rates.max(1) * found.n_tokens / np.maximum(found.count, 1)


def contexts(
    found: Firings,
    live: np.ndarray,
    acts: Activations,
    tokens: Int[Tensor, "n_windows seq"],
    language_model: lm.LanguageModel,
) -> dict[int, list]:
    """For each feature the excerpts around its largest activations, one per article: [before, token, after, title, activation].

    `tokens` are the windows from which `acts` was read.
    """
    n, seq = acts.config.test_windows or len(tokens), tokens.shape[1]
    everywhere = activations.load(acts.config, "test", "keep")
    article, tokens = everywhere.article.reshape(n, seq), tokens[:n]
    decode, text = language_model.tokenizer.decode, tokens != language_model.separator
    order = np.lexsort((-found.act, found.feature))
    starts = np.searchsorted(found.feature[order], np.arange(found.d_sae + 1))
    shown = {}
    for i in live.tolist():
        shown[i], seen = [], set()
        for at in order[starts[i] : starts[i + 1]]:
            row = int(found.token[at])
            if (title := int(acts.article[row])) in seen:
                continue
            seen.add(title)
            window, position = divmod(int(acts.where[row]), seq)
            here = (article[window] == title) & text[window]
            words = excerpt(decode, tokens[window].tolist(), here.tolist(), position)
            shown[i].append([*words, acts.titles[title], digits(float(found.act[at]))])
            if len(shown[i]) == CONTEXTS:
                break
    return shown


def excerpt(
    decode: Callable[[list[int]], str], tokens: list[int], here: list[bool], position: int
) -> tuple[str, str, str]:
    """The text around one token, at most `WORDS` words of it: before, the token, after. `here` says which tokens belong to its article."""
    first, last = position, position
    while first > 0 and here[first - 1] and position - first < 2 * WORDS:
        first -= 1
    while last + 1 < len(tokens) and here[last + 1] and last - position < 2 * WORDS:
        last += 1
    until, through, whole = (
        decode(tokens[first:end]) for end in (position, position + 1, last + 1)
    )
    # A character of several bytes may be cut between tokens; what the texts have in common is whole.
    before, upto = os.path.commonprefix([until, through]), os.path.commonprefix([through, whole])
    before, token, after = (
        re.sub(r"\s+", " ", text) for text in (before, upto[len(before) :], whole[len(upto) :])
    )
    around = WORDS // 2
    return (
        "".join(re.findall(r"\S+\s*", before)[-around:]),
        token,
        "".join(re.findall(r"\s*\S+", after)[:around]),
    )


@torch.no_grad()
def promoted(
    model: JointSAE, live: np.ndarray, std: Float[Tensor, " d_in"], language_model: lm.LanguageModel
) -> dict[int, list[str]]:
    """For each feature the tokens that the language model would predict if the residual stream held nothing but the feature's direction.

    The direction is what the feature writes through both decoders, W_dec + W_lin, times `std`: that of raw activations. Layers after the hook point
    are skipped. Tokens that differ only in space around them count once.
    """
    bridge, decode = language_model.bridge, language_model.tokenizer.decode
    directions = (model.sae.W_dec + model.nfm.W_lin)[torch.from_numpy(live)] * std
    found = {}
    for part, which in zip(
        directions.split(CHUNK), np.split(live, range(CHUNK, len(live), CHUNK)), strict=True
    ):
        logits = bridge.unembed(bridge.ln_final(part[:, None].to(store.device()))).squeeze(1)
        for i, best in zip(
            which.tolist(),
            logits.topk(min(4 * PROMOTED, logits.shape[1])).indices.tolist(),
            strict=True,
        ):
            words = (decode([token]).strip() for token in best)
            found[i] = list(dict.fromkeys(word for word in words if word and "\ufffd" not in word))[
                :PROMOTED
            ]
    return found


def partners(model: JointSAE, found: Firings, live: np.ndarray) -> dict[int, list]:
    """For each feature the others with which it interacts most: [feature, effect, tokens on which both are active].

    The effect is measured in company, on up to `TOGETHER` tokens on which both are active (see `effects_together`). Asked are pairs that are active
    together on at least `MIN_FIRED` tokens and are, by the model's weights (`pairs.factor_effects`), among the `CANDIDATES` strongest of either feature.
    """
    chosen = np.isin(found.feature, live)
    place = np.searchsorted(live, found.feature[chosen])
    ones = np.ones(len(place), dtype=np.int32)
    active = sparse.csr_array(
        (ones, (found.token[chosen], place)), shape=(found.n_tokens, len(live))
    )
    met = sparse.triu(active.T @ active, k=1).tocoo()
    often = met.data >= MIN_FIRED
    a, b, n = met.row[often], met.col[often], met.data[often]
    if not len(a):
        return {int(i): [] for i in live}
    couples = torch.from_numpy(np.stack([live[a], live[b]], 1).astype(np.int64))
    sample = Codes(*(t[:: max(1, found.n_tokens // 4096)] for t in found.codes))
    weights = pairs.factor_effects(
        model.nfm, couples, torch.from_numpy(found.mean).float(), sample
    ).numpy()
    asked = np.unique(np.concatenate(strongest(a, b, weights, len(live), CANDIDATES)))
    a, b, n = a[asked], b[asked], n[asked]
    effect = effects_together(model, found, couples[asked], active.tocsc(), np.stack([a, b], 1))
    best = strongest(a, b, effect, len(live), PARTNERS)
    return {
        int(i): [
            [int(live[b[at] if a[at] == row else a[at]]), digits(float(effect[at])), int(n[at])]
            for at in best[row]
            if effect[at] > ROUNDING
        ]
        for row, i in enumerate(live)
    }


def strongest(
    a: np.ndarray, b: np.ndarray, score: np.ndarray, n_features: int, n: int
) -> list[np.ndarray]:
    """For each feature the n pairs (a, b) with the highest scores of which it is one, best first, as indices into the pairs."""
    end, pair = np.concatenate([a, b]), np.tile(np.arange(len(a)), 2)
    order = np.lexsort((-score[pair], end))
    starts = np.searchsorted(end[order], np.arange(n_features + 1))
    return [pair[order[start : min(start + n, stop)]] for start, stop in itertools.pairwise(starts)]


@torch.no_grad()
def effects_together(
    model: JointSAE,
    found: Firings,
    couples: Int[Tensor, "n 2"],
    active: sparse.csc_array,
    columns: np.ndarray,
) -> np.ndarray:
    """Mean length of the mixed second difference of the interaction path's output on tokens on which both features of a pair are active.

    f(as it is) - f(without i) - f(without j) + f(without both), all other features as they are; in units of x. Up to `TOGETHER` tokens, evenly spread.
    `active` says which token (row) has which feature (column), and `columns` where the pairs of `couples` are in it.
    """
    tokens = [active.indices[start:stop] for start, stop in itertools.pairwise(active.indptr)]
    rows, pair = [], []
    for at, (i, j) in enumerate(columns):
        both = np.intersect1d(tokens[i], tokens[j], assume_unique=True)
        rows.append(both[np.unique(np.linspace(0, len(both) - 1, TOGETHER).astype(int))])
        pair.append(np.full(len(rows[-1]), at))
    row, pair = (torch.from_numpy(np.concatenate(parts).astype(np.int64)) for parts in (rows, pair))
    total = []
    for r, p in zip(row.split(ROWS), pair.split(ROWS), strict=True):
        acts, indices = (t[r] for t in found.codes)
        i, j = (indices != couples[p, end][:, None] for end in (0, 1))
        with_both, without_i, without_j, without = (
            model.nfm.interaction_out(Codes(acts * mask, indices)) for mask in (1, i, j, i & j)
        )
        total.append((with_both - without_i - without_j + without).norm(dim=1))
    return np.bincount(pair.numpy(), torch.cat(total).numpy()) / np.bincount(pair.numpy())
