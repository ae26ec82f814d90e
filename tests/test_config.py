"""Configs and profiles refuse what cannot be, and say why."""

from dataclasses import replace

import pytest

from companion import profiles, variants
from featint import harvest, store
from featint.config import HarvestConfig, NFMConfig, SAEConfig, TrainConfig, to_json


@pytest.mark.parametrize(
    "make, complaint",
    [
        (lambda: SAEConfig(d_sae=8, k=9), "k = 9 must lie between 1 and d_sae = 8"),
        (lambda: SAEConfig(d_sae=8, k=0), "k = 0"),
        (lambda: NFMConfig(d_factor=4, dropout=1.0), "dropout = 1.0 must be .* less than 1"),
        (lambda: NFMConfig(d_factor=4, linear=False, interaction=False), "needs its linear path"),
        (lambda: TrainConfig(n_tokens=10, batch_tokens=20), "n_tokens = 10 must be .* at least 20"),
        (lambda: TrainConfig(n_tokens=2000, lr=float("nan")), "lr = nan must be a finite number"),
        (
            lambda: TrainConfig(n_tokens=2000, first_position="maybe"),
            "first_position = 'maybe' is not known; allowed: 'drop', 'keep'",
        ),
        (lambda: TrainConfig(n_tokens=2000, chunk_tokens=0), "chunk_tokens = 0 must be .* least 1"),
        (lambda: TrainConfig(n_tokens=2000, chunk_passes=0), "chunk_passes = 0 must be .* least 1"),
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


P = profiles.smoke()
SAE, JOINT, SEQUENTIAL, RESIDUAL, SECONDARY = (
    variants.get(name, P) for name in ("sae", "joint", "sequential", "residual_sae", "secondary")
)


@pytest.mark.parametrize(
    "config, changes, complaint",
    [
        (
            SAE,
            {"target": "logits"},
            "target = 'logits' is not known; allowed: 'x', 'error', 'hidden'",
        ),
        (SAE, {"target": "error"}, "target = 'error' is a finished model's: it takes a base"),
        (JOINT, {"target": "error"}, "target = 'error' is a finished model's: it takes a base"),
        (SAE, {"target": "hidden"}, "target = 'hidden' is a finished model's: it takes a base"),
        (SAE, {"base": SAE}, "an SAE on target = 'x' takes no base"),
        (SECONDARY, {"nfm": P.nfm}, "target = 'hidden' takes an SAE alone, not nfm = NFMConfig"),
        (SECONDARY, {"base": SAE}, r"which the base \(nfm = None\) lacks"),
        (
            SECONDARY,
            {"base": replace(JOINT, nfm=replace(P.nfm, interaction=False))},
            "which the base .*interaction=False.* lacks",
        ),
        (
            SECONDARY,
            {"base": replace(JOINT, nfm=replace(P.nfm, form="polynomial"))},
            "which the base .*form='polynomial'.* lacks",
        ),
        (RESIDUAL, {"base": RESIDUAL}, "must reconstruct x, but is an SAE on target = 'error'"),
        (RESIDUAL, {"base": SECONDARY}, "must reconstruct x, but is an SAE on target = 'hidden'"),
        (
            SEQUENTIAL,
            {"base": JOINT},
            "the base has sae = .*, nfm = NFMConfig.*: only k may differ",
        ),
        (
            SEQUENTIAL,
            {"sae": replace(P.sae, decoder_bias=True)},
            "sae = .*decoder_bias=True.*, but the base has sae = .*decoder_bias=False",
        ),
        (
            SEQUENTIAL,
            {"train": replace(P.train, lr_scale={"sae.W_dec": 1})},
            "lr_scale names 'sae.W_dec', but the SAE of a model with an NFM on the error is frozen",
        ),
        (
            SEQUENTIAL,
            {"train": replace(P.train, first_position="keep")},
            r"attention sinks \(first_position\) dropped or kept as there",
        ),
        (
            RESIDUAL,
            {"harvest": replace(P.harvest, hook_point="blocks.1.hook_mlp_out")},
            "must be trained on its base's activations",
        ),
        (JOINT, {"nfm": replace(P.nfm, top_n=99)}, "top_n = 99 is larger than k = 21"),
    ],
)
def test_models_that_cannot_be_are_refused(config, changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        replace(config, **changes)


def test_a_base_may_be_any_model_of_x_and_its_sae_run_at_another_k():
    for base in (SAE, JOINT, SEQUENTIAL):
        assert replace(RESIDUAL, base=base).base == base
    for base in (JOINT, SEQUENTIAL):
        assert replace(SECONDARY, base=base).base == base
    assert replace(SEQUENTIAL, sae=replace(P.sae, k=5)).freezes_sae
    warm = replace(JOINT, base=SAE)
    assert not warm.freezes_sae and not RESIDUAL.freezes_sae


def test_another_model_and_text_bring_their_sizes(lm_folder, tmp_path):
    (folder := tmp_path / "texts").mkdir()
    for i in range(40):
        (folder / f"{i}.txt").write_text("the river of gold is a city " * 9, encoding="utf-8")
    p = profiles.get("smoke", lm=str(lm_folder), corpus=str(folder))
    assert (p.d_in, p.harvest.lm.name) == (32, str(lm_folder))
    assert p.harvest.corpus == replace(P.harvest.corpus, name=str(folder), seq_len=64)
    windows = harvest.windows(p.harvest).windows  # all that the text fills
    assert len(windows["train"].tokens) == p.harvest.train_windows < P.harvest.train_windows
    assert len(windows["test"].tokens) == p.splice_windows < P.splice_windows
    assert p.mlp_site.train_windows <= p.harvest.train_windows
    assert p.harvest.hook_point == "blocks.1.hook_resid_post"  # of four
    last = profiles.get("smoke", lm=str(lm_folder), hook_point="blocks.3.hook_resid_post")
    assert last.harvest.hook_point == "blocks.3.hook_resid_post"
    assert p.turned == ("lm", "corpus") and p.label.startswith("custom/smoke-")
    assert profiles.get("smoke", lm=P.harvest.lm.name, corpus=None) == P
    assert variants.get("sae_matched", p).sae.d_sae != variants.get("sae_matched", P).sae.d_sae


def test_a_model_or_text_that_cannot_be_read_is_refused_with_the_profile(tmp_path, lm_folder):
    with pytest.raises(ValueError, match="lm = '.*' cannot be loaded"):
        profiles.get("smoke", lm=str(tmp_path))
    with pytest.raises(ValueError, match="corpus name = 'nowhere' is not known; .*or the path of"):
        profiles.get("smoke", corpus="nowhere", lm=str(lm_folder))


@pytest.mark.parametrize("name", profiles.PROFILES)
def test_profiles_keep_the_papers_ratios(name):
    p = profiles.get(name)
    assert p.sae.k / p.sae.d_sae == pytest.approx(1024 / 50_000, rel=0.01)
    assert p.nfm.d_factor / p.d_in == pytest.approx(300 / 3200, rel=0.01)
    if not p.short:
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
    assert all(variants.VARIANTS.values()) and set(variants.WORDS) >= set(configs)
    assert len(set(variants.WORDS.values())) == len(variants.WORDS)
    assert all(model in configs for models in variants.CHAPTERS.values() for model in models)


def test_sae_matched_has_the_joint_models_number_of_parameters():
    from featint import runs

    p = profiles.smoke()
    count = {
        name: sum(q.numel() for q in runs.build(variants.get(name, p), p.d_in).parameters())
        for name in ("sae_matched", "joint")
    }
    assert count["sae_matched"] == pytest.approx(count["joint"], rel=1e-3)


def test_laptop_is_half_of_full():
    half, whole = profiles.laptop(), profiles.full()
    assert whole.sae.d_sae / half.sae.d_sae == whole.sae.k / half.sae.k == 2
    assert whole.train.n_tokens / half.train.n_tokens == 2
    assert half.train.lr == whole.train.lr and half.nfm == whole.nfm


def test_further_seeds_are_trained_of_the_models_whose_chapters_read_them():
    one, five = (
        {
            store.key(c)
            for name in variants.CHAPTERS
            for c in variants.of_chapter(name, replace(profiles.full(), seeds=seeds))
        }
        for seeds in ((0,), profiles.full().seeds)
    )
    seeded = set().union(*variants.SEEDED.values())
    assert one <= five and len(five - one) == len(seeded) * 4
    assert variants.of_chapter("superposition", profiles.full()) == []


def test_models_of_every_seed_belong_to_their_chapter():
    assert all(
        set(names) <= set(variants.CHAPTERS[chapter]) for chapter, names in variants.SEEDED.items()
    )


def test_altered_values_find_their_place():
    p = profiles.laptop()
    config = variants.get("sae_short", p)
    longer = profiles.altered(config, {"train": {"n_tokens": p.train.n_tokens}})
    assert longer == variants.get("sae_bias", p)
    changes = {"harvest": p.mlp_site, "train": {"n_tokens": 5000, "lr": 0.5}, "nfm": p.nfm}
    found = profiles.altered(config, changes)
    assert found.train == replace(config.train, n_tokens=5000, lr=0.5)
    assert (found.harvest, found.nfm, found.sae) == (p.mlp_site, p.nfm, config.sae)
    assert profiles.altered(config, {}) == config
    with pytest.raises(ValueError, match="k = 0 must lie between"):
        profiles.altered(config, {"sae": {"k": 0}})


def test_what_was_made_before_there_were_chunks_keeps_its_place():
    """The configs' JSON form says nothing of a later field that is at its old value."""
    config = variants.get("joint", P)
    later = {"chunk_tokens", "chunk_passes", "half_precision"}
    assert not later & set(to_json(config)["train"]) and to_json(config)["nfm"]["top_n"] is None
    assert store.key(profiles.full().train) == "ade5848b59984401"
    in_chunks = profiles.altered(config, {"train": {"chunk_tokens": 5, "half_precision": True}})
    train = to_json(in_chunks)["train"]
    assert (train["chunk_tokens"], train["half_precision"]) == (5, True)
    assert len({store.key(c) for c in (config, in_chunks)}) == 2
