"""The models that the chapters compare, by name: what each is, and what sets it apart from another.

A model's config follows from a profile and a seed.
"""

import tomllib
from dataclasses import replace

from companion import places
from companion.profiles import Profile, altered
from featint.config import ModelConfig, NFMConfig, SAEConfig, choose

with open(places.DATA / "models.toml", "rb") as _file:
    VARIANTS, WORDS, CHAPTERS, SEEDED, RATES, GIVEN = tomllib.load(_file).values()
"""What readers see of each model, in a line and in a table; the models that each chapter reads, and
those that it reads from every seed; by family, the multiple of the learning rate that suits it;
what a finished SAE that a reader gives takes the place of, and what is then built on it."""
HOLDOUT_SHARE = 0.1  # of the training tokens, drawn at random: the released code's validation set
PUBLISHED = {"train": {"first_position": "keep", "holdout_share": HOLDOUT_SHARE}}
CHUNK_TOKENS = round((1 - HOLDOUT_SHARE) * 79 * 128)  # of the 79 windows that it reads at a time
RELEASED = {"lr": 1e-4, "batch_tokens": 64, "adam_eps": 1e-5, "decay_fraction": 4_000 / 715_000}
RELEASED |= {"chunk_tokens": CHUNK_TOKENS, "chunk_passes": 10, "half_precision": True}
SECONDARY_EXPANSION, SECONDARY_K_SHARE = 25, 0.02


def differences(p: Profile) -> dict[str, tuple[str, dict]]:
    """For each model but `sae`, the profile's SAE: the model that it is like, and what differs from
    that one's ModelConfig, as for `altered`; `base` is the name of a model."""
    d_sae, d_factor, more = p.sae.d_sae, p.nfm.d_factor, nfm_as_features(p, p.nfm)
    # The paper's sequential model was trained at the 250 most active of 1024 features, its NFM 200
    # wide where the joint model's has 300.
    cut = {"sae": {"k": max(1, round(p.sae.k * (250 / 1024)))}}
    d_narrow = max(1, round(d_factor * (200 / 300)))
    narrow = {"nfm": {"d_factor": d_narrow}}
    half = {"sae": {"k": max(1, p.sae.k // 2)}}
    as_many = {"d_sae": max(p.sae.k, more)}  # parameters as the NFM
    short = max(p.train.batch_tokens, p.train.n_tokens // 4)

    def inside(base: str, width: int) -> dict:
        """The SAE on the hidden layer of a model with an NFM of that width."""
        features = SECONDARY_EXPANSION * width
        sae = SAEConfig(d_sae=features, k=max(1, round(SECONDARY_K_SHARE * features)))
        return {"target": "hidden", "base": base, "nfm": None, "sae": sae}

    def at_rate(family: str) -> dict:
        """Training at the learning rate that suits this family best."""
        return {"train": {"lr": p.train.lr * RATES[family]}}

    return {
        "sae_bias": ("sae", {"sae": {"decoder_bias": True}}),
        "sae_tuned": ("sae", at_rate("sae")),
        "sae_matched": ("sae", {"sae": {"d_sae": d_sae + more}}),
        "joint": ("sae", {"nfm": p.nfm}),
        "joint_masked": ("joint", {"nfm": {"top_n": p.sae.k // 2}}),
        "joint_no_interaction": ("joint", {"nfm": {"interaction": False}}),
        "sae_interaction": ("joint", {"sae": {"decoder_bias": True}, "nfm": {"linear": False}}),
        "sequential": ("joint", {"target": "error", "base": "sae"}),
        "sequential_tuned": ("sequential", {"base": "sae_tuned"} | at_rate("sequential")),
        "sae_twice": ("sae_tuned", {"train": {"n_tokens": 2 * p.train.n_tokens}}),
        "sae_half": ("sae_tuned", half),
        "residual_half": ("residual_sae", half | {"base": "sae_half"} | at_rate("residual_sae")),
        "sae_published": ("sae", PUBLISHED),
        "sae_tuned_published": ("sae_tuned", PUBLISHED),
        "joint_published": ("joint", PUBLISHED),
        "joint_no_interaction_published": ("joint_no_interaction", PUBLISHED),
        "sequential_published": ("sequential_cut", PUBLISHED | narrow | {"base": "sae_published"}),
        "sae_released": ("sae_published", {"train": RELEASED}),
        "joint_released": ("joint_published", {"train": RELEASED}),
        "sae_fast_decoder": ("sae_bias", {"train": {"lr_scale": {"W_dec": 2}}}),
        "sae_short": ("sae_bias", {"train": {"n_tokens": short}}),
        "sae_frozen_decoder": ("sae_short", {"train": {"lr_scale": {"W_dec": 0}}}),
        "sae_soft_decoder": ("sae_short", {"train": {"lr_scale": {"W_dec": 0.02}}}),
        "sae_frozen_encoder": ("sae_short", {"train": {"lr_scale": {"W_enc": 0, "b_enc": 0}}}),
        "sae_cut": ("sae_bias", cut),
        "sequential_cut": ("sequential", cut),
        "residual_sae": ("sae", {"target": "error", "base": "sae", "sae": as_many}),
        "secondary": ("sequential", inside("sequential", d_factor)),
        "secondary_published": ("sequential_published", inside("sequential_published", d_narrow)),
    }


def nfm_as_features(p: Profile, nfm: NFMConfig) -> int:
    """How many more features give an SAE the parameters of an NFM."""
    d_in, d_sae, m = p.d_in, p.sae.d_sae, nfm.d_factor
    n = d_sae * m + m * (m + 1) + d_in * (m + 1) + nfm.linear * (d_sae + 1) * d_in
    return round(n / (2 * d_in + 1))


def get(name: str, profile: Profile, seed: int | None = None) -> ModelConfig:
    """The config of a named model at a profile's size; seed None takes the profile's first. Raises
    ValueError for an unknown name."""
    choose("model", name, tuple(VARIANTS))
    if name not in GIVEN["models"]:
        profile = replace(profile, given=None)
    if name == "sae":
        train = replace(profile.train, seed=profile.seeds[0] if seed is None else seed)
        return ModelConfig(harvest=profile.harvest, sae=profile.given or profile.sae, train=train)
    like, changes = differences(profile)[name]
    config = get(like, profile, seed)
    if "base" in changes:
        base = get(changes["base"], profile, seed)
        own = {} if base.sae.source == config.sae.source else {"sae": base.sae}
        changes = own | changes | {"base": base}
    return altered(config, changes)


def seeds(name: str, chapter: str, profile: Profile) -> tuple[int, ...]:
    """The seeds from which a chapter reads a model: all of the profile's, or its first."""
    return profile.seeds[: None if name in SEEDED.get(chapter, []) else 1]


def of_chapter(chapter: str, profile: Profile) -> list[ModelConfig]:
    """The configs of all models that a chapter reads at a profile's size; none for a notebook that
    is not listed."""
    names = CHAPTERS.get(chapter, [])
    return [get(name, profile, s) for name in names for s in seeds(name, chapter, profile)]
