"""The sizes of a run. A profile is a function that returns a full set of configs; a new one is a
few lines derived from another.

All keep the paper's ratios: k / d_sae = 2.05 %, d_factor / d_in = 0.094, and d_sae / d_in is
7.1, in the short profiles 3.6 and less (paper: 15.6).
"""

import math
from dataclasses import dataclass, replace

from featint import store
from featint.config import HarvestConfig, LMConfig, NFMConfig, SAEConfig, TrainConfig, choose

USABLE = 120
"""So many of a window's 128 positions are sure to be usable: separators and other attention sinks
are not."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Everything that the chapters need to know about the size of a run."""

    name: str
    d_in: int = 576
    """Width of the activations at the hook point, which the language model decides (`fitted`)."""
    n_layers: int = 30
    """Blocks of the language model."""
    harvest: HarvestConfig
    sae: SAEConfig
    nfm: NFMConfig
    train: TrainConfig
    seeds: tuple[int, ...]
    """Seeds of the models in `variants.SEEDED`; the others take the first."""
    splice_windows: int
    """Test windows spliced back into the language model."""
    shuffles: int = 500
    """Shuffles of the labels behind the rate of a test's false positives."""
    given: SAEConfig | None = None
    """A finished SAE of somebody else's; `sae` is then the size of what is trained beside it."""
    turned: tuple[str, ...] = ()
    """Names of the knobs that differ from the profile as it stands."""

    @property
    def short(self) -> bool:
        """Whether sweeps leave out settings, so that the whole book takes half an hour."""
        return self.name in ("smoke", "laptop")

    @property
    def mlp_tokens(self) -> int:
        """Training tokens of the models at `mlp_site`: an eighth of the budget, a sixteenth in a
        short profile."""
        return max(self.train.batch_tokens, self.train.n_tokens // (16 if self.short else 8))

    @property
    def mlp_site(self) -> HarvestConfig:
        """A second place to train models at, harvested in one pass with the first: the output of
        the same block's MLP.

        It has just the windows that an eighth of the tokens needs, once each, and an eighth as many
        test windows.
        """
        block, n = self.harvest.hook_point.rpartition(".")[0], self.train.n_tokens / 8 / USABLE
        n = math.ceil(n)
        few = {"train_windows": n, "validation_windows": n // 20 + 1, "test_windows": n // 8 + 1}
        few = {name: min(n, getattr(self.harvest, name) or n) for name, n in few.items()}
        return replace(self.harvest, hook_point=f"{block}.hook_mlp_out", **few)

    @property
    def label(self) -> str:
        """The name of the results folder: the profile's, or `custom/<name>-<hash>` once a knob is
        turned."""
        return f"custom/{self.name}-{store.key(self)[:8]}" if self.turned else self.name


def smoke() -> Profile:
    """All stages in minutes on a slice of the real text; its numbers mean nothing."""
    return Profile(
        name="smoke",
        harvest=HarvestConfig(train_windows=96, validation_windows=16, test_windows=48),
        sae=SAEConfig(d_sae=1024, k=21),
        nfm=NFMConfig(d_factor=54),
        train=TrainConfig(n_tokens=40 * 512, batch_tokens=512, lr=4e-3, dead_after_tokens=10_000),
        seeds=(0,),
        splice_windows=8,
        shuffles=50,
    )


def full() -> Profile:
    """What is published: the whole corpus, five seeds and whole sweeps; an afternoon on two
    cores."""
    return Profile(
        name="full",
        harvest=HarvestConfig(),
        sae=SAEConfig(d_sae=4096, k=84),
        nfm=NFMConfig(d_factor=54),
        # one pass over the training split; the joint model's best rate (the page Equal tuning)
        train=TrainConfig(n_tokens=835_000, lr=4e-3),
        seeds=(0, 1, 2, 3, 4),
        splice_windows=328,
    )


def laptop() -> Profile:
    """The default: half of the text, half of the features and one seed, so that the whole book
    takes about half an hour on two cores."""
    few = {"train_windows": 3330, "validation_windows": 206, "test_windows": 624}
    changes = {"harvest": few, "sae": {"d_sae": 2048, "k": 42}, "train": {"n_tokens": 417_500}}
    return replace(altered(full(), changes), name="laptop", seeds=(0,), splice_windows=64)


def paper() -> Profile:
    """The paper's own sizes, for whoever has the machine: OpenLLaMA-3B, 50,000 features; never run
    here."""
    llama = LMConfig(name="openlm-research/open_llama_3b")
    return replace(
        full(),
        name="paper",
        d_in=3200,
        n_layers=26,
        harvest=HarvestConfig(lm=llama, hook_point="blocks.15.hook_resid_post"),
        sae=SAEConfig(d_sae=50_000, k=1024),
        nfm=NFMConfig(d_factor=300),
        train=TrainConfig(n_tokens=50_000_000, lr=1e-4),
    )


PUBLISHED = full.__name__
"""The profile whose published results the book puts beside those of the machine that built it."""
PROFILES = {f.__name__: f for f in (smoke, laptop, full, paper)}
KNOBS = (
    dict.fromkeys(("k", "d_sae"), "sae")
    | dict.fromkeys(("d_factor", "dropout"), "nfm")
    | dict.fromkeys(("n_tokens", "batch_tokens", "lr", "first_position"), "train")
    | dict.fromkeys(("hook_point", "lm", "corpus"), "harvest")
    | {"seed": None, "sae": "given"}
)
"""Parameters of the notebooks, with the stage whose config each one sets; `seed` is the profile's
only seed."""


def get(name: str, sae: str | None = None, **knobs) -> Profile:
    """The profile of that name with some knobs turned; a knob that is None stays as it is. Another
    language model or text decides the rest as `fitted` says, a finished SAE as `with_sae`.

    Raises ValueError for an unknown profile or knob, a value that its config refuses, or a model,
    text or SAE that cannot be read.
    """
    choose("profile", name, tuple(PROFILES))
    profile = PROFILES[name]()
    for knob, value in knobs.items():
        choose("knob", knob, tuple(KNOBS))
        if value is None:
            continue
        if knob in ("lm", "corpus"):
            value = replace(getattr(profile.harvest, knob), name=value)
        value = (value,) if knob == "seed" else value
        change, stage = {"seeds" if knob == "seed" else knob: value}, KNOBS[knob]
        turned = altered(profile, {stage: change} if stage else change)
        if turned != profile:
            profile = replace(turned, turned=(*profile.turned, knob))
    if {"lm", "corpus"} & set(profile.turned):
        profile = fitted(profile, knobs.get("hook_point"))
    return with_sae(profile, sae) if sae else profile


def fitted(profile: Profile, hook_point: str | None) -> Profile:
    """A profile at the size of its language model and text: the model's width, windows no longer
    than it has positions and no more than the text fills, and without a hook point, where the model
    is another, the output of its middle block. Raises as `get`."""
    from featint import corpora, harvest, lm  # only here: they take seconds

    corpora.files(profile.harvest.corpus)
    model, read = lm.load(profile.harvest.lm), profile.harvest
    if "lm" in profile.turned and hook_point is None:
        read = replace(read, hook_point=f"blocks.{(model.n_layers - 1) // 2}.hook_resid_post")
    lm.block_of(model, read.hook_point)
    seq_len = min(read.corpus.seq_len, model.bridge.cfg.n_ctx)
    read = replace(read, corpus=replace(read.corpus, seq_len=seq_len))
    there = {split: len(part.tokens) for split, part in harvest.windows(read).windows.items()}
    most = {f"{s}_windows": min(n, getattr(read, f"{s}_windows") or n) for s, n in there.items()}
    of_model = {"d_in": model.d_model, "n_layers": model.n_layers}
    few = min(profile.splice_windows, there["test"])
    return replace(profile, harvest=replace(read, **most), splice_windows=few, **of_model)


def with_sae(profile: Profile, source: str) -> Profile:
    """A profile with a finished SAE (`foreign`). What is trained beside it is as wide and has its
    k, if any, unless that knob is turned. Raises ValueError for an SAE that does not fit."""
    from featint import foreign

    given = foreign.config(source, profile.harvest.hook_point, profile.d_in)
    if "d_sae" in profile.turned:
        said = f"d_sae = {profile.sae.d_sae} beside sae = {source!r}"
        raise ValueError(f"{said}: all are as wide as that SAE, {given.d_sae}; leave d_sae out")
    own_k = not given.threshold and "k" not in profile.turned
    k = given.k if own_k else min(profile.sae.k, given.d_sae)
    sae = replace(profile.sae, d_sae=given.d_sae, k=k)
    return replace(profile, given=given, sae=sae, turned=(*profile.turned, "sae"))


def altered(config, changes: dict):
    """A config with other values in some fields; a dict stands for what differs in the config that
    lies there."""
    new = {
        field: replace(getattr(config, field), **value) if isinstance(value, dict) else value
        for field, value in changes.items()
    }
    return replace(config, **new)
