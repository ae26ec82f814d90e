"""The interaction atlas: what each feature of the joint model does on held-out text, as one JSON
file that a page without server can search."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from companion import places, variants
from companion.profiles import Profile
from featint import activations, harvest, lm, pair_effects, runs, store
from featint.activations import Activations
from featint.joint import JointSAE
from featint.kernels.sparse import Codes

MIN_FIRED = 10  # held-out tokens: features that fire, and pairs that meet, on fewer are out
CONTEXTS, PROMOTED, PARTNERS = 3, 6, 5
WORDS = 15  # of an excerpt, the marked one included
MOST = 10_000  # features: those that fire most often, so that the file stays below 10 MB
CANDIDATES, TOGETHER = 12, 8  # pairs per feature whose effect is measured; tokens on which it is
ROUNDING = 1e-6  # of float32: an effect below it is none
CHUNK = 128  # features at a time


def path(profile: Profile) -> Path:
    """Where a profile's atlas lies."""
    return places.BUILD / "atlas" / profile.label / "atlas.json"


def build(profile: Profile) -> Path:
    """Write the atlas of the profile's joint model; returns the file's path."""
    trained = runs.get(variants.get("joint", profile))
    test = activations.load(profile.harvest, "test", profile.train.first_position)
    model, language_model = trained.model.cpu(), lm.load(profile.harvest.lm)
    with torch.no_grad():
        pieces = [model.encode(x.cpu()) for x in test.pieces()]
    codes = Codes(*map(torch.cat, zip(*pieces, strict=True)))
    fired = firings(codes)
    count = np.bincount(fired["feature"], minlength=model.d_sae)
    mean = np.bincount(fired["feature"], fired["act"], model.d_sae) / np.maximum(count, 1)
    topic, lift = topics(fired, test.topic.numpy(), len(test.topics), model.d_sae)
    norm = model.sae.W_dec.detach().norm(dim=1).numpy()
    rounded = {"rate": count / len(test), "norm": norm, "mean": mean, "lift": lift}
    features = pd.DataFrame(rounded).map(digits).assign(topic=topic)
    often = pd.Series(count)[count >= MIN_FIRED].nlargest(MOST).index.sort_values()
    features = features.loc[often].rename_axis("id").reset_index()
    live = np.array(often)
    windows = harvest.windows(profile.harvest).windows["test"].tokens
    limits = {"least": MIN_FIRED, "candidates": CANDIDATES, "tokens": TOGETHER, "most": PARTNERS}
    of, levels = torch.from_numpy(live), torch.from_numpy(mean).float()
    partners = pair_effects.partners(model.nfm, codes, of, levels, **limits)
    partner = {i: [] for i in live}
    for row in partners[partners["effect"] > ROUNDING].itertuples():
        partner[row.feature].append([row.partner, digits(row.effect), row.n])
    excerpts = contexts(fired[fired["feature"].isin(live)], test, windows, language_model)
    tokens = promoted(model, live, test.std, language_model)
    lists = {"contexts": excerpts, "promoted": tokens, "partners": partner}
    features = features.assign(**{name: features["id"].map(of) for name, of in lists.items()})
    about = {
        "profile": profile.label,
        "d_sae": model.d_sae,
        "k": profile.sae.k,
        "d_in": test.d_in,
        "hook_point": profile.harvest.hook_point,
        "tokens": len(test),
        "articles": len(test.article.unique()),
        "min_fired": MIN_FIRED,
        "topics": test.topics,
        "provenance": trained.provenance,
    }
    plain = {"ensure_ascii": False, "allow_nan": False, "separators": (",", ":")}
    text = json.dumps({"about": about, "features": features.to_dict("records")}, **plain)
    store.write_bytes(path(profile), text.encode())
    return path(profile)


def digits(x: float) -> float:
    """Four significant digits."""
    return float(f"{x:.4g}")


def firings(codes: Codes) -> pd.DataFrame:
    """Where features are active, in the order of tokens, rows of the codes: token, feature, act."""
    token, place = (codes.acts > 0).nonzero(as_tuple=True)
    feature, act = codes.indices[token, place], codes.acts[token, place]
    return pd.DataFrame({"token": token.int(), "feature": feature.int(), "act": act})


def topics(
    fired: pd.DataFrame, topic: np.ndarray, n_topics: int, d_sae: int
) -> tuple[np.ndarray, np.ndarray]:
    """For each feature the topic in which it fires at the highest rate, and that rate over its rate
    in all text (0 if it never fires). `topic` is that of each token."""
    at = fired["feature"].to_numpy(np.int64) * n_topics + topic[fired["token"]]
    times = np.bincount(at, minlength=d_sae * n_topics).reshape(d_sae, n_topics)
    rates = times / np.maximum(np.bincount(topic, minlength=n_topics), 1)
    return rates.argmax(1), rates.max(1) * len(topic) / np.maximum(times.sum(1), 1)


def contexts(
    fired: pd.DataFrame,
    acts: Activations,
    tokens: Int[Tensor, "n_windows seq"],
    language_model: lm.LanguageModel,
) -> dict[int, list]:
    """For each feature the excerpts around its largest activations, one per article: [before,
    token, after, title, activation]. `tokens` are the windows from which `acts` was read."""
    n, seq = acts.config.test_windows or len(tokens), tokens.shape[1]
    article = activations.load(acts.config, "test", "keep").article.reshape(n, seq)
    decode, text = language_model.tokenizer.decode, tokens[:n] != language_model.separator
    largest = fired.iloc[np.lexsort((-fired["act"], fired["feature"]))]
    largest = largest.assign(article=acts.article.numpy()[largest["token"]])
    largest = largest.drop_duplicates(["feature", "article"]).groupby("feature").head(CONTEXTS)
    shown: dict[int, list] = {}
    for row in largest.itertuples():
        window, position = divmod(int(acts.where[row.token]), seq)
        here = (article[window] == row.article) & text[window]
        words = excerpt(decode, tokens[window].tolist(), here.tolist(), position)
        words = [*words, acts.titles[row.article], digits(row.act)]
        shown.setdefault(row.feature, []).append(words)
    return shown


def excerpt(
    decode: Callable[[list[int]], str], tokens: list[int], here: list[bool], position: int
) -> tuple[str, str, str]:
    """The text around one token, at most `WORDS` words of it: before, the token, after. `here` says
    which tokens belong to its article."""
    first, last = position, position
    while first > 0 and here[first - 1] and position - first < 2 * WORDS:
        first -= 1
    while last + 1 < len(tokens) and here[last + 1] and last - position < 2 * WORDS:
        last += 1
    ends = position, position + 1, last + 1
    until, through, whole = (decode(tokens[first:end]) for end in ends)
    # A character of several bytes may be cut between tokens; what the texts share is whole.
    before, upto = os.path.commonprefix([until, through]), os.path.commonprefix([through, whole])
    parts = before, upto[len(before) :], whole[len(upto) :]
    before, token, after = (re.sub(r"\s+", " ", part) for part in parts)
    before = re.findall(r"\S+\s*", before)[-(WORDS // 2) :]
    return "".join(before), token, "".join(re.findall(r"\s*\S+", after)[: WORDS // 2])


@torch.no_grad()
def promoted(
    model: JointSAE, live: np.ndarray, std: Float[Tensor, " d_in"], language_model: lm.LanguageModel
) -> dict[int, list[str]]:
    """For each feature the tokens that the language model would predict if the residual stream held
    nothing but the feature's direction.

    The direction is what the feature writes through both decoders, W_dec + W_lin, times `std`: that
    of raw activations. Later layers are skipped. Tokens that differ only in space count once.
    """
    bridge, decode = language_model.bridge, language_model.tokenizer.decode
    directions = (model.sae.W_dec + model.nfm.W_lin)[torch.from_numpy(live)] * std
    tokens = {}
    for start in range(0, len(live), CHUNK):
        part = directions[start : start + CHUNK, None].to(store.device())
        logits = bridge.unembed(bridge.ln_final(part)).squeeze(1)
        best = logits.topk(min(4 * PROMOTED, logits.shape[1])).indices.tolist()
        for i, ids in zip(live[start : start + CHUNK].tolist(), best, strict=True):
            words = (decode([token]).strip() for token in ids)
            different = dict.fromkeys(w for w in words if w and "\ufffd" not in w)
            tokens[i] = list(different)[:PROMOTED]
    return tokens
