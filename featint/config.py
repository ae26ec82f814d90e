"""The settings of every stage, one frozen dataclass each.

A config's JSON form is its identity in the store (`featint.store`).
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

SPLITS = ("train", "validation", "test")
FIRST_POSITIONS = ("drop", "keep")
SEEDS = 2**32  # so many there are


def choose(name: str, value: object, allowed) -> None:
    """Raise a ValueError that names the parameter, the value and what is allowed."""
    if value not in allowed:
        raise ValueError(
            f"{name} = {value!r} is not known; allowed: {', '.join(map(repr, allowed))}"
        )


def at_least(name: str, value: float, low: float, below: float = math.inf) -> None:
    """Raise a ValueError unless `value` is finite, at least `low` and smaller than `below`."""
    if not low <= value < below:  # NaN is nowhere
        most = "" if below == math.inf else f" and less than {below}"
        raise ValueError(f"{name} = {value!r} must be a finite number of at least {low}{most}")


@dataclass(frozen=True, kw_only=True)
class LMConfig:
    """The language model whose activations are read."""

    name: str = "smollm2-135m-instruct"
    """`smollm2-135m-instruct` (shipped by a pinned package, see data/README.md), or any Hugging
    Face causal LM name or folder."""


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """Articles, their split, and the token windows made of them."""

    name: str = "wikipedia-summaries"
    """`wikipedia-summaries` (shipped by a pinned package), or a file or a folder of files, each as
    `corpora.FORMATS` says: .json, .jsonl, .csv, .parquet, .txt."""
    seq_len: int = 128
    """Tokens per window, separator included."""
    validation_fraction: float = 0.05
    """Share of each topic's articles kept for choosing settings."""
    test_fraction: float = 0.15
    """Share of each topic's articles kept for the numbers that are reported."""
    seed: int = 0
    """Seed of the split and of the order of the articles."""

    def __post_init__(self):
        at_least("seq_len", self.seq_len, 4)
        at_least("seed", self.seed, 0, below=SEEDS)
        for name in ("validation_fraction", "test_fraction"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)!r} must lie between 0 and 1")
        held_out = self.validation_fraction + self.test_fraction  # the rest is to train on
        at_least("validation_fraction + test_fraction", held_out, 0, below=1)


PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class HarvestConfig:
    """Which activations are stored.

    All positions are kept on disk; who reads them says whether the first one counts.
    """

    lm: LMConfig = LMConfig()
    corpus: CorpusConfig = CorpusConfig()
    hook_point: str = "blocks.15.hook_resid_post"
    """TransformerLens' name of the site; it is read and written at this same place."""
    dtype: str = "auto"
    """Precision of the language model's weights and arithmetic during the harvest: bfloat16,
    float32, or auto, which is bfloat16 where the processor multiplies it faster and float32
    elsewhere, where bfloat16 would be several times slower."""
    train_windows: int | None = None
    """Windows per split, from the start of the shuffled split; None takes all there are."""
    validation_windows: int | None = None
    test_windows: int | None = None

    def __post_init__(self):
        choose("dtype", self.dtype, PRECISIONS)
        for split in SPLITS:
            if (n := getattr(self, f"{split}_windows")) is not None:
                at_least(f"{split}_windows", n, 1)


@dataclass(frozen=True, kw_only=True)
class SAEConfig:
    """A TopK sparse autoencoder."""

    d_sae: int
    """Number of features."""
    k: int
    """Active features per token."""
    decoder_bias: bool = False
    """Add a learned `b_dec` to the reconstruction; the paper's SAE has none."""
    threshold: bool = False
    """Those features are active that are beyond their own thresholds, at most `k` of them."""
    source: str | None = None
    """Where a finished SAE of somebody else's lies (`foreign`); None: it is trained here."""
    sha256: str | None = None
    """Of its weights."""

    def __post_init__(self):
        at_least("d_sae", self.d_sae, 1)
        if not 1 <= self.k <= self.d_sae:
            raise ValueError(
                f"k = {self.k} must lie between 1 and d_sae = {self.d_sae}: no token can have more "
                "active features than there are"
            )


FORMS = {"nfm": "relu", "gelu": "gelu", "products": None, "polynomial": None, "mlp": "relu"}
"""What an interaction path may make of the codes (`nfm.NFM`), and the activation of its MLP."""


@dataclass(frozen=True, kw_only=True)
class NFMConfig:
    """A neural factorization machine on sparse codes."""

    d_factor: int
    """Width of the factor embedding V (the paper's K = 300)."""
    top_n: int | None = None
    """The NFM sees only the largest `top_n` codes of a token; None shows it all."""
    linear: bool = True
    """With the linear path `codes @ W_lin + b_lin`."""
    interaction: bool = True
    """With the interaction path `MLP(bi_interaction)`."""
    dropout: float = 0.15
    """Dropout on the pooled interaction vector, in training only."""
    form: str = "nfm"
    """What the interaction path makes of the codes, one of `FORMS`: `nfm` is the paper's."""
    normalise: bool = False
    """The interaction path sees each token's codes divided by their root mean square, so that
    products do not grow with its norm."""

    def __post_init__(self):
        at_least("d_factor", self.d_factor, 1)
        if self.top_n is not None:
            at_least("top_n", self.top_n, 1)
        at_least("dropout", self.dropout, 0, below=1)
        choose("form", self.form, FORMS)
        if not (self.linear or self.interaction):
            raise ValueError(
                "an NFM needs its linear path, its interaction path or both: linear = interaction "
                "= False leaves nothing"
            )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a model is fitted.

    Counts are in tokens, so that a change of batch size leaves the budget alone.
    """

    n_tokens: int
    """Training tokens seen, repeats included."""
    batch_tokens: int = 1024
    """Tokens per step."""
    lr: float = 1e-3
    """Adam's learning rate at the start."""
    lr_end_factor: float = 0.1
    """The learning rate falls linearly to `lr * lr_end_factor` ..."""
    decay_fraction: float = 0.8
    """... over this share of the steps, and stays there."""
    lr_scale: Mapping[str, float] = field(default_factory=dict)
    """Factor on the learning rate of the parameters whose name begins so, e.g. {"sae": 0} freezes a
    joint model's SAE."""
    adam_eps: float = 1e-8
    """Adam's epsilon; the released code uses 1e-5."""
    clip_norm: float = 1.0
    """Largest norm of the whole gradient."""
    dead_after_tokens: int = 100_000
    """A feature that has not fired for so many tokens counts as dead."""
    first_position: str = "drop"
    """`drop` leaves out all attention sinks, not windows' first positions alone: separators
    wherever they stand, and tokens as large (`lm.LanguageModel.sinks`). `keep` trains on every
    position."""
    holdout_share: float = 0.0
    """Share of the training split's tokens, drawn at random, that is left out: the released code's
    validation set (0.1 there)."""
    seed: int = 0
    """Seed of initialisation, order of the tokens and dropout."""
    chunk_tokens: int | None = None
    """Train on one chunk of so many consecutive tokens after the other, each z-scored by itself, as
    the released code does. None mixes all tokens in every pass."""
    chunk_passes: int = 1
    """Passes over a chunk, in a row, before the next chunk comes and this one never again."""
    half_precision: bool = False
    """Round gradients, weights and Adam's moments to float16 at every step, as if they were kept in
    it, and compute in float32. Most second moments, squares of small gradients, are then lost, and
    Adam becomes gradient descent with momentum."""

    def __post_init__(self):
        lowest = {"batch_tokens": 1, "n_tokens": self.batch_tokens, "dead_after_tokens": 1}
        lowest |= dict.fromkeys(("lr", "lr_end_factor", "adam_eps", "clip_norm"), 0)
        for name, low in (lowest | {"chunk_passes": 1}).items():
            at_least(name, getattr(self, name), low)
        for prefix, factor in self.lr_scale.items():
            at_least(f"lr_scale[{prefix!r}]", factor, 0)
        if self.chunk_tokens is not None:
            at_least("chunk_tokens", self.chunk_tokens, 1)
        choose("first_position", self.first_position, FIRST_POSITIONS)
        at_least("holdout_share", self.holdout_share, 0, below=1)
        at_least("seed", self.seed, 0, below=SEEDS)
        if not 0 < self.decay_fraction <= 1:
            raise ValueError(f"decay_fraction = {self.decay_fraction!r} must lie in (0, 1]")

    @property
    def n_steps(self) -> int:
        """Optimiser steps: whole batches in `n_tokens`."""
        return self.n_tokens // self.batch_tokens


TARGETS = ("x", "error", "hidden")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """All that decides a trained model: what it is fitted to, what it is and how it is fitted.

    ======  ==========  ===  ==================================================================
    target  base        nfm  the model
    ======  ==========  ===  ==================================================================
    x       --          --   an SAE
    x       --          yes  joint: SAE and NFM, trained together
    x       an SAE      yes  warm: the same, starting from a finished SAE
    error   any of x    --   residual: an SAE on what the base leaves, x - x_hat
    error   an SAE      yes  sequential: an NFM on what the base's SAE leaves; the SAE is frozen
    hidden  has an NFM  --   secondary: an SAE on the inside of the base's interaction path
    ======  ==========  ===  ==================================================================

    Raises ValueError for any other combination, and for a base that reads other activations.
    """

    target: str = "x"
    """`x`, the activation; `error`, a base model's; `hidden`, the first layer of the MLP in a
    base's interaction path before its ReLU, d_factor wide (`nfm.NFM.hidden`)."""
    harvest: HarvestConfig
    sae: SAEConfig
    """Of a sequential or warm model: the base's SAE, which may be run at another k than its
    base."""
    nfm: NFMConfig | None = None
    train: TrainConfig
    base: "ModelConfig | None" = None
    """The finished model that this one builds on."""

    def __post_init__(self):
        choose("target", self.target, TARGETS)
        if self.nfm is not None and self.nfm.top_n is not None and self.nfm.top_n > self.sae.k:
            raise ValueError(
                f"top_n = {self.nfm.top_n} is larger than k = {self.sae.k}: the NFM can see at "
                "most the k active features"
            )
        if self.base is not None:
            self._check_base(self.base)
        elif self.target != "x":
            raise ValueError(f"target = {self.target!r} is a finished model's: it takes a base")
        if self.freezes_sae and (own := [n for n in self.train.lr_scale if n.startswith("sae")]):
            raise ValueError(
                f"lr_scale names {own[0]!r}, but the SAE of a model with an NFM on the error is "
                "frozen"
            )

    def _check_base(self, base: "ModelConfig") -> None:
        """Raise ValueError if this model cannot build on `base`."""
        if (base.harvest, base.train.first_position) != (self.harvest, self.train.first_position):
            raise ValueError(
                "a model must be trained on its base's activations, attention sinks "
                "(first_position) dropped or kept as there"
            )
        if base.target != "x" and base.nfm is None:
            raise ValueError(f"base must reconstruct x, but is an SAE on target = {base.target!r}")
        if self.target == "hidden":
            if self.nfm is not None:
                raise ValueError(f"target = 'hidden' takes an SAE alone, not nfm = {self.nfm!r}")
            if base.nfm is None or not base.nfm.interaction or not FORMS[base.nfm.form]:
                raise ValueError(
                    "target = 'hidden' is the hidden layer of an interaction path, "
                    f"which the base (nfm = {base.nfm!r}) lacks"
                )
        elif self.nfm is None and self.target == "x":
            raise ValueError(
                "an SAE on target = 'x' takes no base; target = 'error' fits it to a base's error"
            )
        elif self.nfm and (base.nfm or replace(base.sae, k=self.sae.k) != self.sae):
            raise ValueError(
                f"a model with an NFM takes over its base's SAE, sae = {self.sae}, but the base "
                f"has sae = {base.sae}, nfm = {base.nfm!r}: only k may differ"
            )

    @property
    def finished(self) -> bool:
        """Whether it is somebody else's SAE, which is read and not trained."""
        return self.nfm is None and self.sae.source is not None

    @property
    def freezes_sae(self) -> bool:
        """Whether the SAE stays as it is, because an NFM is fitted to what it leaves."""
        return self.target == "error" and self.nfm is not None


LATER = (("chunk_tokens", None), ("chunk_passes", 1), ("half_precision", False))
LATER += (("threshold", False), ("source", None), ("sha256", None), ("given", None))
"""Fields that came later, with the values under which all is as before they came."""


def to_json(config) -> dict:
    """A config as plain JSON values, without fields at their value in `LATER`: what was made before
    there was such a field keeps its place in the store."""
    return asdict(config, dict_factory=lambda pairs: dict(p for p in pairs if p not in LATER))
