"""The models that the chapters compare, by name: what each is, and what sets it apart from another.

A model's config follows from a profile and a seed.
"""

import re
from dataclasses import replace

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
VARIANTS: dict[str, tuple[str, dict]] = {
    "sae": ("", {}),
    "sae_bias": ("sae", {"sae.decoder_bias": True}),
    # Of the rates 1, 2, 4, 6 and 10 thousandths the joint model does best on validation articles at
    # 4, the profiles' rate, and the SAE at 6.
    "sae_tuned": ("sae", {"train.lr": lambda p, _: p.train.lr * 1.5}),
    "sae_matched": ("sae", {"sae.d_sae": lambda p, _: p.sae.d_sae + _nfm_as_features(p)}),
    "joint": ("sae", {"nfm": lambda p, _: p.nfm}),
    "joint_masked": ("joint", {"nfm.top_n": lambda p, _: p.sae.k // 2}),
    "joint_no_interaction": ("joint", {"nfm.interaction": False}),
    "sae_interaction": ("joint", {"sae.decoder_bias": True, "nfm.linear": False}),
    "sequential": ("joint", {"target": "error", "base": "sae"}),
    "sae_published": ("sae", PUBLISHED),
    "joint_published": ("joint", PUBLISHED),
    "sequential_published": (
        "sequential_cut",  # with 200 instead of 300 factors
        PUBLISHED
        | {"base": "sae_published"}
        | {"nfm.d_factor": lambda p, _: max(1, round(p.nfm.d_factor * (200 / 300)))},
    ),
    "sae_fast_decoder": ("sae_bias", {"train.lr_scale": {"W_dec": 2}}),
    "sae_short": (
        "sae_bias",
        {"train.n_tokens": lambda p, _: max(p.train.batch_tokens, p.train.n_tokens // 4)},
    ),
    "sae_frozen_decoder": ("sae_short", {"train.lr_scale": {"W_dec": 0}}),
    "sae_soft_decoder": ("sae_short", {"train.lr_scale": {"W_dec": 0.02}}),
    "sae_frozen_encoder": ("sae_short", {"train.lr_scale": {"W_enc": 0, "b_enc": 0}}),
    "sae_cut": ("sae_bias", {"sae.k": _cut}),
    "sequential_cut": ("sequential", {"sae.k": _cut}),
    "residual_sae": (
        "sae",
        {"target": "error", "base": "sae"}
        | {"sae.d_sae": lambda p, _: max(p.sae.k, _nfm_as_features(p))},
    ),
    "secondary": ("sequential", HIDDEN | {"base": "sequential"}),
    "secondary_published": ("sequential_published", HIDDEN | {"base": "sequential_published"}),
}
"""By name the model that each is like, and what differs: values by their place in the ModelConfig,
or functions of the profile and the model that it is like; `base` is a name. All begin with `sae`:
the profile's SAE, trained alone."""


def _by_name(lines: str) -> dict[str, str]:
    """Lines `name: text` as a dictionary; a line that is indented goes on with the one above."""
    known = re.findall(r"^(\w+): (.+(?:\n .+)*)", lines, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in known}


DESCRIPTIONS = _by_name("""
sae: TopK SAE trained alone, the paper's form (no decoder bias).
sae_bias: TopK SAE with a decoder bias, trained alone: the bias is all that the linear path adds
    besides a second decoder.
sae_tuned: TopK SAE at its own best learning rate, 1.5 times the one that suits the joint model
    best.
sae_matched: TopK SAE as wide as it takes to have the joint model's number of parameters.
joint: SAE and NFM trained together; the NFM sees all active features.
joint_masked: The joint model whose NFM sees the more active half of the features (512 of 1024 in
    the released code).
joint_no_interaction: The joint model without its interaction path: an SAE with two decoders.
sae_interaction: SAE with decoder bias and interaction path, trained together, without a linear
    path.
sequential: NFM fitted to the error of the finished SAE, at the SAE's own k.
sae_published: As `sae`, trained with the windows' first positions kept, as the released code does.
joint_published: As `joint`, trained with the windows' first positions kept, as the released code
    does.
sequential_published: NFM on the error of the SAE run at a quarter of its k, first positions kept,
    as the released code does.
sae_fast_decoder: TopK SAE with decoder bias whose decoder learns at twice the rate: what two copies
    of it amount to under Adam.
sae_short: TopK SAE with decoder bias, trained on a quarter of the tokens: what the floors are
    compared with.
sae_frozen_decoder: As `sae_short`, its decoder frozen at its random initial values (a floor, arXiv
    2602.14111).
sae_soft_decoder: As `sae_short`, its decoder learning at a fiftieth of the rate, so that it stays
    near its random initial values.
sae_frozen_encoder: As `sae_short`, its encoder frozen at its random initial values.
sae_cut: TopK SAE trained at the quarter of k at which the released code runs the sequential model's
    SAE.
sequential_cut: NFM fitted to the error of the finished SAE run at a quarter of its k.
residual_sae: A second TopK SAE on the finished SAE's error, with the NFM's number of parameters, k
    and optimiser.
secondary: TopK SAE on the inside of the sequential model's interaction path, 25 features per
    dimension and 2 % of them active.
secondary_published: As `secondary`, on the model as published.
""")
"""What readers see of each."""


def get(name: str, profile: Profile, seed: int | None = None) -> ModelConfig:
    """The config of a named model at a profile's size; seed None takes the profile's first. Raises
    ValueError for an unknown name."""
    choose("model", name, tuple(VARIANTS))
    like, changes = VARIANTS[name]
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
    return DESCRIPTIONS[name]


_READ = _by_name("""
reconstruction: sae sae_bias sae_tuned sequential joint joint_no_interaction sae_published
    sequential_published joint_published
interactions: sequential secondary sequential_published secondary_published
norms: sae joint sae_published joint_published
two_decoders: sae joint joint_no_interaction joint_masked
behaviour: sae sae_tuned sae_matched sequential joint joint_no_interaction sae_published
    sequential_published joint_published
reading_a_splice: sae sequential joint
efficiency: sae_short joint joint_published
waterfall: sae sae_tuned joint_no_interaction joint joint_masked sae_published joint_published
best_chance: sae_short joint sae_interaction sequential
seeds: sae sae_tuned sae_fast_decoder joint_no_interaction joint sae_interaction
baselines: sae sae_bias sae_tuned sae_fast_decoder sae_matched joint_no_interaction sae_interaction
    joint sequential residual_sae sae_cut sequential_cut sae_short sae_frozen_decoder
    sae_soft_decoder sae_frozen_encoder sae_published
""")
CHAPTERS = {chapter: models.split() for chapter, models in _READ.items()}
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
