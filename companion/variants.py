"""The models that the chapters compare, by name. Each is one function from a profile and a seed to a full ModelConfig."""

from collections.abc import Callable
from dataclasses import replace

from companion.profiles import Profile
from featint.config import ModelConfig, SAEConfig, TrainConfig, choose

VARIANTS: dict[str, Callable[[Profile, int], ModelConfig]] = {}

# Of the rates 1, 2, 4, 6 and 10 thousandths the joint model does best on validation articles at 4, the profiles' rate, and the SAE at 6.
SAE_BEST_RATE = 1.5
# The paper's sequential model was trained at the 250 most active of 1024 features, with 200 instead of 300 factors.
SEQUENTIAL_K_SHARE = 250 / 1024
SEQUENTIAL_FACTOR_SHARE = 200 / 300
HOLDOUT_SHARE = 0.1  # of the training tokens, drawn at random: the released code's validation set


def variant(
    function: Callable[[Profile, int], ModelConfig],
) -> Callable[[Profile, int], ModelConfig]:
    """Register a model under its function's name; the docstring is what readers see."""
    VARIANTS[function.__name__] = function
    return function


def get(name: str, profile: Profile, seed: int | None = None) -> ModelConfig:
    """The config of a named model at a profile's size; seed None takes the profile's first. Raises ValueError for an unknown name."""
    choose("model", name, tuple(VARIANTS))
    return VARIANTS[name](profile, profile.seeds[0] if seed is None else seed)


def describe(name: str) -> str:
    """What a named model is, in a line."""
    choose("model", name, tuple(VARIANTS))
    return VARIANTS[name].__doc__.split("\n")[0]


def _published(profile: Profile, seed: int, **changes) -> TrainConfig:
    """Trained as the released code does: first positions kept, a tenth of the tokens held out at random."""
    return _train(profile, seed, first_position="keep", holdout_share=HOLDOUT_SHARE, **changes)


def _train(profile: Profile, seed: int, **changes) -> TrainConfig:
    return replace(profile.train, seed=seed, **changes)


@variant
def sae(p: Profile, seed: int) -> ModelConfig:
    """TopK SAE trained alone, the paper's form (no decoder bias)."""
    return ModelConfig(harvest=p.harvest, sae=p.sae, train=_train(p, seed))


@variant
def sae_bias(p: Profile, seed: int) -> ModelConfig:
    """TopK SAE with a decoder bias, trained alone: the bias is all that the linear path adds besides a second decoder."""
    return replace(sae(p, seed), sae=replace(p.sae, decoder_bias=True))


@variant
def sae_tuned(p: Profile, seed: int) -> ModelConfig:
    """TopK SAE at its own best learning rate, 1.5 times the one that suits the joint model best."""
    return replace(sae(p, seed), train=_train(p, seed, lr=p.train.lr * SAE_BEST_RATE))


@variant
def sae_matched(p: Profile, seed: int) -> ModelConfig:
    """TopK SAE as wide as it takes to have the joint model's number of parameters."""
    return replace(
        sae(p, seed),
        sae=replace(p.sae, d_sae=p.sae.d_sae + round(_nfm_parameters(p) / (2 * p.d_in + 1))),
    )


def _nfm_parameters(p: Profile) -> int:
    """Those of linear path, factors and MLP."""
    d_in, d_sae, d_factor = p.d_in, p.sae.d_sae, p.nfm.d_factor
    return d_sae * (d_in + d_factor) + d_factor * (d_factor + 1) + d_in * (d_factor + 2)


@variant
def joint(p: Profile, seed: int) -> ModelConfig:
    """SAE and NFM trained together; the NFM sees all active features."""
    return ModelConfig(harvest=p.harvest, sae=p.sae, nfm=p.nfm, train=_train(p, seed))


@variant
def joint_masked(p: Profile, seed: int) -> ModelConfig:
    """The joint model whose NFM sees the more active half of the features (512 of 1024 in the released code)."""
    return replace(joint(p, seed), nfm=replace(p.nfm, top_n=p.sae.k // 2))


@variant
def joint_no_interaction(p: Profile, seed: int) -> ModelConfig:
    """The joint model without its interaction path: an SAE with two decoders."""
    return replace(joint(p, seed), nfm=replace(p.nfm, interaction=False))


@variant
def sae_interaction(p: Profile, seed: int) -> ModelConfig:
    """SAE with decoder bias and interaction path, trained together, without a linear path."""
    return replace(
        joint(p, seed), sae=replace(p.sae, decoder_bias=True), nfm=replace(p.nfm, linear=False)
    )


@variant
def sequential(p: Profile, seed: int) -> ModelConfig:
    """NFM fitted to the error of the finished SAE, at the SAE's own k."""
    return ModelConfig(
        target="error",
        harvest=p.harvest,
        sae=p.sae,
        nfm=p.nfm,
        train=_train(p, seed),
        base=sae(p, seed),
    )


@variant
def sae_published(p: Profile, seed: int) -> ModelConfig:
    """As `sae`, trained with the windows' first positions kept, as the released code does."""
    return replace(sae(p, seed), train=_published(p, seed))


@variant
def joint_published(p: Profile, seed: int) -> ModelConfig:
    """As `joint`, trained with the windows' first positions kept, as the released code does."""
    return replace(joint(p, seed), train=_published(p, seed))


@variant
def sequential_published(p: Profile, seed: int) -> ModelConfig:
    """NFM on the error of the SAE run at a quarter of its k, first positions kept, as the released code does."""
    return ModelConfig(
        target="error",
        harvest=p.harvest,
        sae=replace(p.sae, k=_cut(p)),
        nfm=replace(p.nfm, d_factor=max(1, round(p.nfm.d_factor * SEQUENTIAL_FACTOR_SHARE))),
        train=_published(p, seed),
        base=sae_published(p, seed),
    )


@variant
def sae_fast_decoder(p: Profile, seed: int) -> ModelConfig:
    """TopK SAE with decoder bias whose decoder learns at twice the rate: what two copies of it amount to under Adam."""
    return replace(sae_bias(p, seed), train=_train(p, seed, lr_scale={"W_dec": 2}))


def short(config: ModelConfig) -> ModelConfig:
    """The same model trained on a quarter of the tokens, to be compared with others that are short."""
    n_tokens = max(config.train.batch_tokens, config.train.n_tokens // 4)
    return replace(config, train=replace(config.train, n_tokens=n_tokens))


@variant
def sae_short(p: Profile, seed: int) -> ModelConfig:
    """TopK SAE with decoder bias, trained on a quarter of the tokens: what the floors are compared with."""
    return short(sae_bias(p, seed))


@variant
def sae_frozen_decoder(p: Profile, seed: int) -> ModelConfig:
    """As `sae_short`, its decoder frozen at its random initial values (a floor, arXiv 2602.14111)."""
    return short(replace(sae_bias(p, seed), train=_train(p, seed, lr_scale={"W_dec": 0})))


@variant
def sae_soft_decoder(p: Profile, seed: int) -> ModelConfig:
    """As `sae_short`, its decoder learning at a fiftieth of the rate, so that it stays near its random initial values."""
    return short(replace(sae_bias(p, seed), train=_train(p, seed, lr_scale={"W_dec": 0.02})))


@variant
def sae_frozen_encoder(p: Profile, seed: int) -> ModelConfig:
    """As `sae_short`, its encoder frozen at its random initial values."""
    return short(
        replace(sae_bias(p, seed), train=_train(p, seed, lr_scale={"W_enc": 0, "b_enc": 0}))
    )


def _cut(p: Profile) -> int:
    return max(1, round(p.sae.k * SEQUENTIAL_K_SHARE))


@variant
def sae_cut(p: Profile, seed: int) -> ModelConfig:
    """TopK SAE trained at the quarter of k at which the released code runs the sequential model's SAE."""
    return replace(sae_bias(p, seed), sae=replace(p.sae, k=_cut(p), decoder_bias=True))


@variant
def sequential_cut(p: Profile, seed: int) -> ModelConfig:
    """NFM fitted to the error of the finished SAE run at a quarter of its k."""
    return replace(sequential(p, seed), sae=replace(p.sae, k=_cut(p)))


@variant
def residual_sae(p: Profile, seed: int) -> ModelConfig:
    """A second TopK SAE on the finished SAE's error, with the NFM's number of parameters, k and optimiser."""
    return replace(
        sae(p, seed),
        target="error",
        sae=replace(p.sae, d_sae=max(p.sae.k, round(_nfm_parameters(p) / (2 * p.d_in + 1)))),
        base=sae(p, seed),
    )


SECONDARY_EXPANSION = 25
SECONDARY_K_SHARE = 0.02


def _secondary(base: ModelConfig) -> ModelConfig:
    width = SECONDARY_EXPANSION * base.nfm.d_factor
    sae = SAEConfig(d_sae=width, k=max(1, round(SECONDARY_K_SHARE * width)))
    return ModelConfig(target="hidden", harvest=base.harvest, sae=sae, train=base.train, base=base)


@variant
def secondary(p: Profile, seed: int) -> ModelConfig:
    """TopK SAE on the inside of the sequential model's interaction path, 25 features per dimension and 2 % of them active."""
    return _secondary(sequential(p, seed))


@variant
def secondary_published(p: Profile, seed: int) -> ModelConfig:
    """As `secondary`, on the model as published."""
    return _secondary(sequential_published(p, seed))


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
    "seeds": "sae sae_tuned sae_fast_decoder joint_no_interaction joint sae_interaction".split(),
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
