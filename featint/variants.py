"""The models that the chapters compare, by name. Each is one function from a profile and a seed to a full ModelConfig."""

from collections.abc import Callable
from dataclasses import replace

from featint.config import ModelConfig, TrainConfig, choose
from featint.profiles import Profile

VARIANTS: dict[str, Callable[[Profile, int], ModelConfig]] = {}

# The paper's sequential model was trained at the 250 most active of 1024 features, with 200 instead of 300 factors.
SEQUENTIAL_K_SHARE = 250 / 1024
SEQUENTIAL_FACTOR_SHARE = 200 / 300


def variant(function: Callable[[Profile, int], ModelConfig]) -> Callable[[Profile, int], ModelConfig]:
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
    return _train(profile, seed, first_position="keep", holdout_share=0.1, **changes)


def _train(profile: Profile, seed: int, **changes) -> TrainConfig:
    return replace(profile.train, seed=seed, **changes)


@variant
def sae(p: Profile, seed: int) -> ModelConfig:
    """TopK SAE trained alone, the paper's form (no decoder bias)."""
    return ModelConfig(kind="sae", harvest=p.harvest, sae=p.sae, train=_train(p, seed))


@variant
def sae_bias(p: Profile, seed: int) -> ModelConfig:
    """TopK SAE with a decoder bias, trained alone: the bias is all that the linear path adds besides a second decoder."""
    return replace(sae(p, seed), sae=replace(p.sae, decoder_bias=True))


@variant
def sae_matched(p: Profile, seed: int) -> ModelConfig:
    """TopK SAE as wide as it takes to have the joint model's number of parameters."""
    d_in, d_sae, d_factor = p.d_in, p.sae.d_sae, p.nfm.d_factor
    nfm = d_sae * (d_in + d_factor) + d_factor * (d_factor + 1) + d_in * (d_factor + 2)
    return replace(sae(p, seed), sae=replace(p.sae, d_sae=d_sae + round(nfm / (2 * d_in + 1))))


@variant
def joint(p: Profile, seed: int) -> ModelConfig:
    """SAE and NFM trained together; the NFM sees all active features."""
    return ModelConfig(kind="joint", harvest=p.harvest, sae=p.sae, nfm=p.nfm, train=_train(p, seed))


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
    return replace(joint(p, seed), sae=replace(p.sae, decoder_bias=True), nfm=replace(p.nfm, linear=False))


@variant
def sequential(p: Profile, seed: int) -> ModelConfig:
    """NFM fitted to the error of the finished SAE, at the SAE's own k."""
    return ModelConfig(
        kind="sequential", harvest=p.harvest, sae=p.sae, nfm=p.nfm, train=_train(p, seed, lr_scale={"sae": 0}), base=sae(p, seed),
    )  # fmt: skip


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
        kind="sequential", harvest=p.harvest,
        sae=replace(p.sae, k=max(1, round(p.sae.k * SEQUENTIAL_K_SHARE))),
        nfm=replace(p.nfm, d_factor=max(1, round(p.nfm.d_factor * SEQUENTIAL_FACTOR_SHARE))),
        train=_published(p, seed, lr_scale={"sae": 0}), base=sae_published(p, seed),
    )  # fmt: skip


CHAPTERS: dict[str, tuple[str, ...]] = {
    "reconstruction": (
        "sae",
        "sae_bias",
        "sequential",
        "joint",
        "joint_no_interaction",
        "sae_published",
        "sequential_published",
        "joint_published",
    ),
}
"""The models that each results chapter reads. A notebook that is not listed, such as a walkthrough on toy data, needs none."""
