"""Configs and profiles refuse what cannot be, and say why."""

from dataclasses import replace

import pytest

from companion import profiles, variants
from featint import store
from featint.config import HarvestConfig, ModelConfig, NFMConfig, SAEConfig, TrainConfig


@pytest.mark.parametrize(
    "make, complaint",
    [
        (lambda: SAEConfig(d_sae=8, k=9), "k = 9 must lie between 1 and d_sae = 8"),
        (lambda: SAEConfig(d_sae=8, k=0), "k = 0"),
        (lambda: NFMConfig(d_factor=4, dropout=1.0), r"dropout = 1.0 must lie in \[0, 1\)"),
        (lambda: NFMConfig(d_factor=4, linear=False, interaction=False), "needs its linear path"),
        (lambda: TrainConfig(n_tokens=10, batch_tokens=20), "n_tokens = 10 must be .* at least 20"),
        (lambda: TrainConfig(n_tokens=2000, lr=float("nan")), "lr = nan must be a finite number"),
        (
            lambda: TrainConfig(n_tokens=2000, first_position="maybe"),
            "first_position = 'maybe' is not known; allowed: 'drop', 'keep'",
        ),
        (lambda: HarvestConfig(dtype="float16"), "dtype = 'float16' is not known"),
        (lambda: HarvestConfig(train_windows=0), "train_windows = 0"),
        (
            lambda: profiles.get("huge"),
            "profile = 'huge' is not known; allowed: 'smoke', 'laptop', 'full', 'paper'",
        ),
        (lambda: profiles.get("smoke", kk=3), "knob = 'kk' is not known; allowed: 'k', "),
        (lambda: profiles.get("smoke", k=4000), "k = 4000 must lie between 1 and d_sae = 1024"),
        (
            lambda: variants.get("joints", profiles.smoke()),
            "model = 'joints' is not known; allowed: 'sae', ",
        ),
    ],
)
def test_impossible_values_are_named(make, complaint):
    with pytest.raises(ValueError, match=complaint):
        make()


def test_a_model_config_must_fit_together():
    p = profiles.smoke()
    with pytest.raises(ValueError, match="a sae model takes no NFM"):
        ModelConfig(kind="sae", harvest=p.harvest, sae=p.sae, nfm=p.nfm, train=p.train)
    with pytest.raises(ValueError, match="a sequential model takes a base model"):
        ModelConfig(kind="sequential", harvest=p.harvest, sae=p.sae, nfm=p.nfm, train=p.train)
    with pytest.raises(ValueError, match="top_n = 99 is larger than k = 21"):
        ModelConfig(
            kind="joint", harvest=p.harvest, sae=p.sae, nfm=replace(p.nfm, top_n=99), train=p.train
        )


@pytest.mark.parametrize("name", profiles.PROFILES)
def test_profiles_keep_the_papers_ratios(name):
    p = profiles.get(name)
    assert p.sae.k / p.sae.d_sae == pytest.approx(1024 / 50_000, rel=0.01)
    assert p.nfm.d_factor / p.d_in == pytest.approx(300 / 3200, rel=0.01)
    if name != "smoke":
        assert p.sae.d_sae / p.d_in >= 7
        assert p.train.n_tokens >= 800_000


def test_turned_knobs_give_results_a_folder_of_their_own():
    plain, turned = profiles.get("laptop"), profiles.get("laptop", k=32, lr=None)
    assert plain.label == "laptop" and plain.turned == ()
    assert turned.sae.k == 32 and turned.turned == ("k",)
    assert (
        turned.label.startswith("custom/laptop-")
        and turned.label != profiles.get("laptop", k=33).label
    )
    assert (
        profiles.get("laptop", k=plain.sae.k, seed=0).label == "laptop"
    )  # the profile's own value is no turn
    assert profiles.get("laptop", seed=3).seeds == (3,)


def test_every_variant_is_described_and_its_config_differs_from_the_others():
    p = profiles.laptop()
    configs = {name: variants.get(name, p) for name in variants.VARIANTS}
    assert len({repr(c) for c in configs.values()}) == len(configs)
    assert all(variants.describe(name) for name in configs)
    assert all(model in configs for models in variants.CHAPTERS.values() for model in models)


def test_with_seed_changes_the_base_too():
    config = variants.get("sequential", profiles.smoke(), 0).with_seed(5)
    assert (config.train.seed, config.base.train.seed) == (5, 5)
    assert config == variants.get("sequential", profiles.smoke(), 5)


def test_sae_matched_has_the_joint_models_number_of_parameters():
    from featint import runs

    p = profiles.smoke()
    count = {
        name: sum(q.numel() for q in runs.build(variants.get(name, p), p.d_in).parameters())
        for name in ("sae_matched", "joint")
    }
    assert count["sae_matched"] == pytest.approx(count["joint"], rel=1e-3)


def test_full_trains_only_what_further_seeds_add():
    laptop, full = (
        {
            store.key(c)
            for name in variants.CHAPTERS
            for c in variants.of_chapter(name, profiles.get(p))
        }
        for p in ("laptop", "full")
    )
    seeded = set().union(*variants.SEEDED.values())
    assert laptop <= full and len(full - laptop) == len(seeded) * (len(profiles.full().seeds) - 1)
    assert variants.of_chapter("superposition", profiles.full()) == []


def test_models_of_every_seed_belong_to_their_chapter():
    assert all(
        set(names) <= set(variants.CHAPTERS[chapter]) for chapter, names in variants.SEEDED.items()
    )
