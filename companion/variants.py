"""The models that the chapters compare, by name: what each is, and what sets it apart from another.

A model's config follows from a profile and a seed.
"""

from dataclasses import replace
from typing import NamedTuple

from companion.profiles import Profile
from featint.config import ModelConfig, SAEConfig, choose

HOLDOUT_SHARE = 0.1  # of the training tokens, drawn at random: the released code's validation set
SECONDARY_EXPANSION, SECONDARY_K_SHARE = 25, 0.02


def _nfm_as_features(p: Profile) -> int:
    """How many more features give an SAE the parameters of linear path, factors and MLP."""
    d_in, d_sae, d_factor = p.d_in, p.sae.d_sae, p.nfm.d_factor
    nfm = d_sae * (d_in + d_factor) + d_factor * (d_factor + 1) + d_in * (d_factor + 2)
    return round(nfm / (2 * d_in + 1))


def _cut(p: Profile, _) -> int:
    """The paper's sequential model was trained at the 250 most active of 1024 features."""
    return max(1, round(p.sae.k * (250 / 1024)))


def _secondary_sae(_, like: ModelConfig) -> SAEConfig:
    width = SECONDARY_EXPANSION * like.nfm.d_factor
    return SAEConfig(d_sae=width, k=max(1, round(SECONDARY_K_SHARE * width)))


PUBLISHED = {"train.first_position": "keep", "train.holdout_share": HOLDOUT_SHARE}
HIDDEN = {"target": "hidden", "nfm": None, "sae": _secondary_sae}


class Variant(NamedTuple):
    """A model by what sets it apart from another; all begin with `sae`, the profile's SAE."""

    text: str
    """What readers see."""
    like: str
    """The model that it is like."""
    changes: dict
    """What differs, by place in the ModelConfig: values, or functions of the profile and the config
    of the model that it is like; `base` is the name of a model."""


VARIANTS = {
    "sae": Variant("TopK SAE trained alone, the paper's form (no decoder bias).", "", {}),
    "sae_bias": Variant(
        "TopK SAE with a decoder bias, trained alone: the bias is all that the linear path adds "
        "besides a second decoder.",
        "sae",
        {"sae.decoder_bias": True},
    ),
    # Of the rates 1, 2, 4, 6 and 10 thousandths the joint model does best on validation articles at
    # 4, the profiles' rate, and the SAE at 6.
    "sae_tuned": Variant(
        "TopK SAE at its own best learning rate, 1.5 times the one that suits the joint model "
        "best.",
        "sae",
        {"train.lr": lambda p, _: p.train.lr * 1.5},
    ),
    "sae_matched": Variant(
        "TopK SAE as wide as it takes to have the joint model's number of parameters.",
        "sae",
        {"sae.d_sae": lambda p, _: p.sae.d_sae + _nfm_as_features(p)},
    ),
    "joint": Variant(
        "SAE and NFM trained together; the NFM sees all active features.",
        "sae",
        {"nfm": lambda p, _: p.nfm},
    ),
    "joint_masked": Variant(
        "The joint model whose NFM sees the more active half of the features (512 of 1024 in the "
        "released code).",
        "joint",
        {"nfm.top_n": lambda p, _: p.sae.k // 2},
    ),
    "joint_no_interaction": Variant(
        "The joint model without its interaction path: an SAE with two decoders.",
        "joint",
        {"nfm.interaction": False},
    ),
    "sae_interaction": Variant(
        "SAE with decoder bias and interaction path, trained together, without a linear path.",
        "joint",
        {"sae.decoder_bias": True, "nfm.linear": False},
    ),
    "sequential": Variant(
        "NFM fitted to the error of the finished SAE, at the SAE's own k.",
        "joint",
        {"target": "error", "base": "sae"},
    ),
    "sae_published": Variant(
        "As `sae`, trained with the windows' first positions kept, as the released code does.",
        "sae",
        PUBLISHED,
    ),
    "joint_published": Variant(
        "As `joint`, trained with the windows' first positions kept, as the released code does.",
        "joint",
        PUBLISHED,
    ),
    "sequential_published": Variant(
        "NFM on the error of the SAE run at a quarter of its k, first positions kept, as the "
        "released code does.",
        "sequential_cut",
        PUBLISHED
        | {"base": "sae_published"}
        | {"nfm.d_factor": lambda p, _: max(1, round(p.nfm.d_factor * (200 / 300)))},
    ),
    "sae_fast_decoder": Variant(
        "TopK SAE with decoder bias whose decoder learns at twice the rate: what two copies of it "
        "amount to under Adam.",
        "sae_bias",
        {"train.lr_scale": {"W_dec": 2}},
    ),
    "sae_short": Variant(
        "TopK SAE with decoder bias, trained on a quarter of the tokens: what the floors are "
        "compared with.",
        "sae_bias",
        {"train.n_tokens": lambda p, _: max(p.train.batch_tokens, p.train.n_tokens // 4)},
    ),
    "sae_frozen_decoder": Variant(
        "As `sae_short`, its decoder frozen at its random initial values (a floor, arXiv "
        "2602.14111).",
        "sae_short",
        {"train.lr_scale": {"W_dec": 0}},
    ),
    "sae_soft_decoder": Variant(
        "As `sae_short`, its decoder learning at a fiftieth of the rate, so that it stays near "
        "its random initial values.",
        "sae_short",
        {"train.lr_scale": {"W_dec": 0.02}},
    ),
    "sae_frozen_encoder": Variant(
        "As `sae_short`, its encoder frozen at its random initial values.",
        "sae_short",
        {"train.lr_scale": {"W_enc": 0, "b_enc": 0}},
    ),
    "sae_cut": Variant(
        "TopK SAE trained at the quarter of k at which the released code runs the sequential "
        "model's SAE.",
        "sae_bias",
        {"sae.k": _cut},
    ),
    "sequential_cut": Variant(
        "NFM fitted to the error of the finished SAE run at a quarter of its k.",
        "sequential",
        {"sae.k": _cut},
    ),
    "residual_sae": Variant(
        "A second TopK SAE on the finished SAE's error, with the NFM's number of parameters, k "
        "and optimiser.",
        "sae",
        {"target": "error", "base": "sae"}
        | {"sae.d_sae": lambda p, _: max(p.sae.k, _nfm_as_features(p))},
    ),
    "secondary": Variant(
        "TopK SAE on the inside of the sequential model's interaction path, 25 features per "
        "dimension and 2 % of them active.",
        "sequential",
        HIDDEN | {"base": "sequential"},
    ),
    "secondary_published": Variant(
        "As `secondary`, on the model as published.",
        "sequential_published",
        HIDDEN | {"base": "sequential_published"},
    ),
}


def get(name: str, profile: Profile, seed: int | None = None) -> ModelConfig:
    """The config of a named model at a profile's size; seed None takes the profile's first. Raises
    ValueError for an unknown name."""
    choose("model", name, tuple(VARIANTS))
    _, like, changes = VARIANTS[name]
    if not like:
        train = replace(profile.train, seed=profile.seeds[0] if seed is None else seed)
        return ModelConfig(harvest=profile.harvest, sae=profile.sae, train=train)
    config, parts = get(like, profile, seed), {}
    for place, value in changes.items():
        part, _, field = place.partition(".")
        if place == "base":
            value = get(value, profile, seed)
        elif callable(value):
            value = value(profile, config)
        was = parts.get(part, getattr(config, part))
        parts[part] = replace(was, **{field: value}) if field else value
    return replace(config, **parts)


def describe(name: str) -> str:
    """What a named model is, in a line."""
    choose("model", name, tuple(VARIANTS))
    return VARIANTS[name].text


CHAPTERS = {
    "reconstruction": (
        "sae sae_bias sae_tuned sequential joint joint_no_interaction sae_published "
        "sequential_published joint_published"
    ).split(),
    "interactions": "sequential secondary sequential_published secondary_published".split(),
    "norms": "sae joint sae_published joint_published".split(),
    "two_decoders": "sae joint joint_no_interaction joint_masked".split(),
    "behaviour": (
        "sae sae_tuned sae_matched sequential joint joint_no_interaction sae_published "
        "sequential_published joint_published"
    ).split(),
    "reading_a_splice": "sae sequential joint".split(),
    "efficiency": "sae_short joint joint_published".split(),
    "waterfall": (
        "sae sae_tuned joint_no_interaction joint joint_masked sae_published joint_published"
    ).split(),
    "best_chance": "sae_short joint sae_interaction sequential".split(),
    "seeds": ("sae sae_tuned sae_fast_decoder joint_no_interaction joint sae_interaction").split(),
    "baselines": (
        "sae sae_bias sae_tuned sae_fast_decoder sae_matched joint_no_interaction "
        "sae_interaction joint sequential residual_sae sae_cut sequential_cut sae_short "
        "sae_frozen_decoder sae_soft_decoder sae_frozen_encoder sae_published"
    ).split(),
}
"""The models that each results chapter reads, which the flow trains beforehand. A notebook that is
not listed, such as a walkthrough on toy data, needs none."""
SEEDED = {
    "seeds": CHAPTERS["seeds"],
    "behaviour": "sae sequential joint joint_no_interaction".split(),
    "norms": ["joint"],
}
"""Those of them that a chapter reads from every seed of the profile; all others from the first."""


def of_chapter(chapter: str, profile: Profile) -> list[ModelConfig]:
    """The configs of all models that a chapter reads at a profile's size; none for a notebook that
    is not listed."""
    seeded = SEEDED.get(chapter, [])
    return [
        get(name, profile, seed)
        for name in CHAPTERS.get(chapter, [])
        for seed in (profile.seeds if name in seeded else profile.seeds[:1])
    ]
