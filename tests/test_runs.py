"""From a config to a trained model, on the tiny language model: store, resume, damage."""

from dataclasses import replace

import pytest
import torch

from companion import profiles, variants
from featint import activations, harvest, runs, store, train
from featint.store import StoreError


def test_a_trained_model_is_stored_and_comes_back_the_same(p):
    config = variants.get("joint", p)
    assert not store.exists(runs.KIND, config)
    first, again = runs.get(config), runs.get(config)
    for (name, a), (_, b) in zip(
        first.model.state_dict().items(), again.model.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), name
    assert first.history["loss"].iloc[-1] < first.history["loss"].iloc[0]
    assert again.provenance["seed"] == 0 and again.n_parameters == sum(
        q.numel() for q in first.model.parameters()
    )
    x = torch.randn(5, 32)
    assert torch.equal(first.model(x).x_hat, again.model(x).x_hat)
    assert not first.model.training


def test_a_sequential_model_holds_its_base_unchanged_at_its_own_k(p):
    config = variants.get("sequential_published", p)
    trained, base = runs.get(config), runs.get(config.base)
    for a, b in zip(trained.model.sae.parameters(), base.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert trained.model.sae.config.k == 1 and base.model.config.k == 4


def test_what_a_model_is_fitted_to(p):
    x = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    base = runs.get(variants.get("sae", p)).model
    left = x - (base.encode(x).dense(64) @ base.W_dec)  # the base has no bias
    found = {
        name: runs.target_of(variants.get(name, p))(x)
        for name in ("sae", "joint", "sequential", "residual_sae")
    }
    assert all(torch.equal(found[name], x) for name in ("sae", "joint", "sequential"))
    torch.testing.assert_close(found["residual_sae"], left)


def test_a_killed_training_goes_on_to_the_same_model(p, monkeypatch):
    config = variants.get("sae", p)
    expected = {name: value.clone() for name, value in runs.get(config).model.state_dict().items()}
    (store.path(runs.KIND, config) / store.MANIFEST).unlink()
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0)
    count = train.Run.count

    def killed(self, *arguments):
        count(self, *arguments)
        if self.step == 41:
            raise KeyboardInterrupt

    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(train.Run, "count", killed)
        runs.fit(config)
    assert runs.checkpoint_of(config).exists() and not store.exists(runs.KIND, config)
    resumed = runs.get(config).model.state_dict()
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)
    assert not runs.checkpoint_of(config).exists()


def test_a_damaged_model_is_refused(p):
    config = variants.get("sae", p)
    runs.fit(config)
    file = store.path(runs.KIND, config) / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(
        StoreError, match="model.safetensors does not match its sha256.*delete the folder"
    ):
        runs.get(config)


def test_missing_activations_are_harvested_on_the_spot(p, capsys):
    config = variants.get(
        "sae", replace(p, harvest=replace(p.harvest, hook_point="blocks.2.hook_mlp_out"))
    )
    n = sum(w.tokens.numel() for w in harvest.windows(p.harvest).windows.values())
    assert runs.get(config).model.W_dec.shape == (64, 32)
    said = f"reading {n:,} tokens at blocks.2.hook_mlp_out of {p.harvest.lm.name}, in float32\n"
    assert said in capsys.readouterr().out


def test_held_out_tokens_are_left_out_and_the_same_for_all_seeds(p):
    whole = activations.load(p.harvest, "train", "keep")
    kept, held_out = runs.training_tokens(variants.get("joint_published", p, seed=0))
    assert len(held_out) == round(0.1 * len(whole))
    assert sorted(kept.where.tolist() + held_out.where.tolist()) == whole.where.tolist()
    assert torch.equal(
        held_out.where, runs.training_tokens(variants.get("joint_published", p, seed=1))[1].where
    )
    assert len(runs.training_tokens(variants.get("joint", p))[1]) == 0


def test_a_closed_cache_is_found_out_before_the_training(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FEATINT_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(runs, "training_tokens", lambda _: pytest.fail("it began"))
    with pytest.raises(StoreError, match="models takes no files .*FEATINT_CACHE"):
        runs.fit(variants.get("sae", profiles.get("smoke")))
