"""Clamping: set a feature to a multiple of its value and see how the logits of some words move.

A clamp adds its *change* to the activation at the hook point and leaves everything else, the
reconstruction error included, as it was, so that a multiplier of 1 changes nothing. The published
clamp replaces the activation instead; it stands beside as `published`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from featint import store
from featint.activations import Activations, denormalise, normalise
from featint.joint import JointSAE
from featint.kernels.sparse import Codes
from featint.lm import LanguageModel, Reading, read, resume
from featint.nfm import NFM
from featint.secondary import SecondarySAE

BATCH_TEXTS = 32
Change = Callable[[Float[Tensor, "n d_in"]], Float[Tensor, "n d_in"]]
"""From normalised activations to what is added to them."""


def check_feature(feature: int, fired_tokens: Int[Tensor, " d_sae"]) -> None:
    """Raise a ValueError if a feature is out of range, or dead: active on no training token."""
    if not 0 <= feature < len(fired_tokens):
        raise ValueError(
            f"feature = {feature} is out of range; there are {len(fired_tokens)} features, 0 to "
            f"{len(fired_tokens) - 1}"
        )
    if fired_tokens[feature] == 0:
        live = (fired_tokens > 0).nonzero().squeeze(1)[:5].tolist()
        raise ValueError(
            f"feature = {feature} is dead: it fired on no training token, so that no multiple of "
            f"it differs; live are {live}, ..."
        )


def check_multiplier(multiplier: float) -> None:
    """Raise a ValueError for a multiplier that is not finite."""
    if not math.isfinite(multiplier):
        raise ValueError(f"multiplier = {multiplier!r} must be a finite number, e.g. -4, 0 or 4")


def multiplied(codes: Codes, feature: int, multiplier: float) -> Codes:
    """The codes with one feature's activation times `multiplier`; tokens on which it is not active
    stay as they are.
    """
    check_multiplier(multiplier)
    acts = torch.where(codes.indices == feature, multiplier * codes.acts, codes.acts)
    return codes._replace(acts=acts)


def primary(
    model: JointSAE, feature: int, multiplier: float, paths: Sequence[str] | None = None
) -> Change:
    """Clamp a primary feature as seen by some of the model's parts: its decoder alone, the linear
    path alone; None is all. The change raises ValueError for a part that the model lacks."""
    check_multiplier(multiplier)

    def change(x: Tensor) -> Tensor:
        codes = model.encode(x)
        before, after = model.parts(codes), model.parts(multiplied(codes, feature, multiplier))
        if unknown := set(paths or ()) - set(before):
            raise ValueError(f"paths name {min(unknown)!r}; the model has {', '.join(before)}")
        return sum(after[path] - before[path] for path in paths or before)

    return change


def secondary(model: JointSAE, inside: SecondarySAE, feature: int, multiplier: float) -> Change:
    """Clamp a secondary feature: its direction is added inside the interaction path, before the
    ReLU; what `inside` leaves over stays in place.
    """
    check_multiplier(multiplier)

    def change(x: Tensor) -> Tensor:
        u = model.nfm.hidden(model.encode(x))
        codes = inside.encode(u)
        strength = (multiplier - 1) * torch.where(codes.indices == feature, codes.acts, 0.0).sum(1)
        more = strength[:, None] * inside.direction(feature)
        return ((u + more).relu() - u.relu()) @ model.nfm.W_out

    return change


def random_direction(
    like: Callable[[float], Change], multiplier: float, std: Float[Tensor, " d_in"], seed: int
) -> Change:
    """The control: at every token as much as the clamp `like` adds at this multiplier, measured
    before normalisation, but along one random direction for all tokens.

    Beyond a multiplier of 1 it points along the direction, below 1 against it, as a feature's own
    direction would.
    """
    change = like(multiplier)
    direction = torch.randn(len(std), generator=torch.Generator().manual_seed(seed)).to(std)
    direction = direction / direction.norm() * (1 if multiplier > 1 else -1)
    return lambda x: (change(x) * std).norm(dim=1, keepdim=True) * direction / std


def published(
    model: JointSAE,
    inside: SecondarySAE | None = None,
    feature: int | None = None,
    multiplier: float = 1.0,
    linear: Sequence[int] = (),
) -> Change:
    """What the released code puts in place of the raw activation: the model's output, from raw
    input, without pooling or statistics.

    The interaction path is MLP(codes @ V) with the secondary SAE's reconstruction in place of the
    MLP's first layer, neither z-scored. `feature` of `inside` is multiplied in its codes; the rows
    of the linear path of the features in `linear` are multiplied in its weights.
    """
    check_multiplier(multiplier)

    def replacement(x: Tensor) -> Tensor:
        codes = model.encode(x)
        nfm, scaled = model.nfm, codes
        for row in linear:
            scaled = multiplied(scaled, row, multiplier)
        u = unpooled(nfm, codes)
        if inside is not None:
            found = inside.sae.encode(u)
            clamped = found if feature is None else multiplied(found, feature, multiplier)
            u = inside.sae.decode(clamped)
        return model.sae.decode(codes) + nfm.linear_out(scaled) + u.relu() @ nfm.W_out + nfm.b_out

    return replacement


def unpooled(nfm: NFM, codes: Codes) -> Float[Tensor, "n d_factor"]:
    """The first layer of the interaction path as the released analyses compute it: of codes @ V,
    without products of features."""
    visible = nfm.visible(codes)
    return (visible.acts[..., None] * nfm.V[visible.indices]).sum(1) @ nfm.W_hidden + nfm.b_hidden


@dataclass(frozen=True)
class Site:
    """Prompts read up to the hook point, ready to be run on from there as often as needed."""

    lm: LanguageModel
    reading: Reading
    last: Int[Tensor, " prompts"]
    """Position of each prompt's last token."""
    prompts: list[str]
    words: pd.DataFrame
    """`stimuli.load_words`: word, group, the two factors, token_id."""
    mean: Float[Tensor, " d_in"]
    std: Float[Tensor, " d_in"]
    """Of the training activations of the models that are clamped."""

    @property
    def tokens(self) -> Float[Tensor, "n d_in"]:
        """The normalised activations of all prompts' tokens, separators left out."""
        return self.normalised(self.reading.x)[~self.reading.sinks]

    def normalised(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """Raw activations as z-scores of the clamped models' training activations."""
        return normalise(x, self.mean, self.std)

    def logits(
        self, edit: Callable[[Tensor], Tensor] | None = None, first_position: str = "drop"
    ) -> Float[Tensor, "prompts words"]:
        """Logits of the words after each prompt, with the raw activations (tokens, d_in) replaced
        by `edit` of them.
        """

        def reshaped(x: Tensor) -> Tensor:
            return edit(x.flatten(0, 1)).reshape(x.shape)

        logits = resume(self.lm, self.reading, edit and reshaped, first_position)
        rows = torch.arange(len(logits), device=logits.device)
        return logits[rows, self.last][:, torch.tensor(self.words.token_id.tolist())].double()

    def added(self, change: Change) -> Float[Tensor, "prompts words"]:
        """Logits with a de-normalised change added to the activations, the rest left in place."""
        return self.logits(lambda x: x + change(self.normalised(x)) * self.std)

    def replaced(self, reconstruct: Change) -> Float[Tensor, "prompts words"]:
        """Logits with the activations replaced by their de-normalised reconstruction: a splice."""
        return self.logits(
            lambda x: denormalise(reconstruct(self.normalised(x)), self.mean, self.std)
        )

    def replaced_raw(self, reconstruct: Change) -> Float[Tensor, "prompts words"]:
        """As the released code: raw activations in, output put back as it is, at sinks too."""
        return self.logits(reconstruct, first_position="keep")

    @torch.no_grad()
    def shifts(
        self,
        clamps: Mapping[str, Callable[[float], Change]],
        multipliers: Sequence[float],
        run: Callable[[Change], Tensor] | None = None,
        clean: Float[Tensor, "prompts words"] | None = None,
    ) -> pd.DataFrame:
        """What each clamp, at each multiplier, adds to the logits: one row per condition,
        multiplier, prompt and word, with the columns of `words` and `value`, in logits.

        `run` takes a change to logits, by default by `added`; `clean` are those without a clamp. At
        a multiplier of 1 nothing may move; only the first clamp is run there.
        """
        run, clean = run or self.added, self.logits() if clean is None else clean
        pairs = pd.DataFrame({"prompt": self.prompts}).merge(
            self.words.drop(columns=["token_id"]), how="cross"
        )
        runs = [(name, m) for i, name in enumerate(clamps) for m in multipliers if i == 0 or m != 1]
        frames = []
        for name, m in tqdm(runs, desc="clamp", unit="run", disable=None):
            value = (run(clamps[name](m)) - clean).flatten().tolist()
            frames.append(pairs.assign(value=value, condition=name, multiplier=m))
        return pd.concat(frames, ignore_index=True)

    def firing(self, codes: Codes, d_sae: int) -> Bool[Tensor, "prompts d_sae"]:
        """Which features are active on any token of each prompt; `codes` are those of `tokens`."""
        fires = (codes.dense(d_sae) > 0).to(self.mean.dtype)
        counts = fires.new_zeros(len(self.prompts), d_sae)
        return counts.index_add_(0, (~self.reading.sinks).nonzero()[:, 0], fires) > 0

    @torch.no_grad()
    def moving(
        self, model: JointSAE, inside: SecondarySAE, multipliers: Sequence[float]
    ) -> Bool[Tensor, "prompts d_sae"]:
        """On which prompts clamping a secondary feature changes what the path writes. It may point
        where all ReLUs stay shut: then it fires, but has nothing to move.

        Where no feature moves anything, as in a path that has died, this is where they fire:
        clamping them then shows just that.
        """
        u = model.nfm.hidden(model.encode(self.tokens))
        codes = inside.encode(u)
        moved = torch.zeros_like(codes.acts)
        for m in multipliers:
            more = (m - 1) * codes.acts[..., None] * inside.sae.W_dec[codes.indices] * inside.std
            moved += ((u[:, None] + more).relu() != u[:, None].relu()).any(-1)  # (tokens, k)
        moves = self.firing(codes._replace(acts=moved), inside.d_sae)
        return moves if moves.any() else self.firing(codes, inside.d_sae)


@torch.no_grad()
def mean_activations(
    lm: LanguageModel,
    texts: Sequence[str],
    hook_point: str,
    dictionaries: Mapping[str, Callable[[Float[Tensor, "n d_in"]], Float[Tensor, "n d_sae"]]],
    first_position: str = "drop",
) -> dict[str, pd.DataFrame]:
    """Mean activation of every feature over the tokens of each text: name -> frame (texts,
    features).

    Texts are read after a separator. `dictionaries` take raw activations to dense codes.
    `first_position="drop"` leaves out attention sinks, the separator among them.
    """
    means = {name: [] for name in dictionaries}
    for first in range(0, len(texts), BATCH_TEXTS):
        tokens, last = pad(lm, texts[first : first + BATCH_TEXTS])
        reading = read(lm, tokens, hook_point)
        counted = torch.arange(tokens.shape[1], device=last.device) <= last[:, None]
        if first_position == "drop":
            counted &= ~reading.sinks
        for name, encode in dictionaries.items():
            dense = encode(reading.x[counted])
            sums = dense.new_zeros(len(tokens), dense.shape[1])
            sums.index_add_(0, counted.nonzero()[:, 0], dense)
            means[name].append((sums / counted.sum(1, keepdim=True)).double().cpu())
    return {name: pd.DataFrame(torch.cat(parts).numpy()) for name, parts in means.items()}


def at_prompts(
    lm: LanguageModel,
    prompts: Sequence[str],
    words: pd.DataFrame,
    hook_point: str,
    activations: Activations,
) -> Site:
    """Read prompts, each after a separator, up to the hook point.

    Shorter prompts are filled up on the right with separators: nothing before them sees them, and
    no clamp touches them.
    """
    tokens, last = pad(lm, prompts)
    statistics = (t.to(tokens.device) for t in (activations.mean, activations.std))
    return Site(lm, read(lm, tokens, hook_point), last, list(prompts), words, *statistics)


def pad(
    lm: LanguageModel, texts: Sequence[str]
) -> tuple[Int[Tensor, "texts seq"], Int[Tensor, " texts"]]:
    """Token ids of texts, each after a separator and filled up with separators on the right, and
    each one's last position.
    """
    separator = lm.separator  # looked up in the vocabulary at every call
    ids = lm.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    last = [len(row) for row in ids]
    rows = [[separator, *row] + [separator] * (max(last) - len(row)) for row in ids]
    return torch.tensor(rows, device=store.device()), torch.tensor(last, device=store.device())
