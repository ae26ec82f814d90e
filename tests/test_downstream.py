"""KL, cross-entropies and epsilon-random twins, against torch.distributions and by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from featint import activations, downstream, harvest, lm
from featint.config import LMConfig, ModelConfig, NFMConfig, SAEConfig, TrainConfig
from featint.downstream import (
    Clean,
    ce_loss_recovered,
    compare,
    evaluate,
    mean_ablation,
    zero_ablation,
)


@pytest.fixture
def site(tiny_harvest):
    """Model, test windows and harvest config of the tiny model."""
    return (
        lm.load(tiny_harvest.lm),
        harvest.windows(tiny_harvest).windows["test"].first(7),
        tiny_harvest,
    )


def noisy(x):
    return x + 0.3 * torch.sin(7 * x)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("gap", [0.01, 1.0, 10.0])
def test_kl_agrees_with_torch_distributions(dtype, tolerance, gap):
    generator = torch.Generator().manual_seed(1)
    p = 5 * torch.randn(6, 49152, generator=generator, dtype=dtype) + 20
    q = p + gap * torch.randn(6, 49152, generator=generator, dtype=dtype)
    target = torch.tensor([0, 1, 2, 3, 4, 5])
    found = compare(Clean.of(p), q, target)
    want = kl_divergence(Categorical(logits=p.double()), Categorical(logits=q.double()))
    torch.testing.assert_close(found["kl"].double(), want, rtol=tolerance, atol=tolerance)
    for name, logits in (("ce_clean", p), ("ce_spliced", q)):
        torch.testing.assert_close(
            found[name].double(),
            -Categorical(logits=logits.double()).log_prob(target),
            rtol=tolerance,
            atol=tolerance,
        )
    assert found["top1_same"].tolist() == (p.argmax(-1) == q.argmax(-1)).tolist()


def test_kl_of_a_distribution_with_itself_is_zero():
    p = torch.randn(4, 1000)
    assert (compare(Clean.of(p), p.clone(), torch.zeros(4, dtype=torch.long))["kl"] == 0).all()


def test_evaluate_against_a_plain_computation(site):
    model, windows, config = site
    frame = evaluate(
        model, windows, config, {"clean": lambda x: x, "noisy": noisy}, batch_windows=3
    )
    logits = {
        "clean": model.bridge(windows.tokens),
        "noisy": lm.splice(model, windows.tokens, config.hook_point, noisy),
    }
    x = lm.read(model, windows.tokens, config.hook_point).x
    assert len(frame) == 2 * (windows.tokens[:, :-1] != 0).sum()
    for name, rows in frame.groupby("condition", observed=True):
        w, p = (
            torch.tensor(rows.window.to_numpy()).long(),
            torch.tensor(rows.position.to_numpy()).long(),
        )
        assert (windows.tokens[w, p] != 0).all() and (p < windows.tokens.shape[1] - 1).all()
        np.testing.assert_array_equal(rows.article, windows.article[w, p])
        clean, spliced = (Categorical(logits=logits[k][w, p].double()) for k in ("clean", name))
        np.testing.assert_allclose(rows.kl, kl_divergence(clean, spliced), atol=2e-5)
        np.testing.assert_allclose(
            rows.ce_clean, -clean.log_prob(windows.tokens[w, p + 1]), atol=1e-5
        )
        np.testing.assert_allclose(
            rows.ce_spliced, -spliced.log_prob(windows.tokens[w, p + 1]), atol=2e-5
        )
        np.testing.assert_array_equal(
            rows.top1_same, clean.logits.argmax(-1) == spliced.logits.argmax(-1)
        )
        want = torch.zeros(len(rows)) if name == "clean" else (noisy(x) - x)[w, p].norm(dim=-1)
        np.testing.assert_allclose(rows.error_norm, want, rtol=1e-4, atol=1e-6)
    assert (frame[frame.condition == "clean"].kl == 0).all() and frame[
        frame.condition == "noisy"
    ].kl.mean() > 1e-4


def test_results_do_not_depend_on_the_batch_size(site):
    conditions = {"noisy": noisy, "zero": zero_ablation}
    whole, single = (evaluate(*site, conditions, draws=2, seed=5, batch_windows=n) for n in (7, 1))
    order = ["condition", "draw", "window", "position"]
    whole, single = (f.sort_values(order).reset_index(drop=True) for f in (whole, single))
    assert whole[order + ["article"]].equals(single[order + ["article"]])
    for column in ("kl", "ce_clean", "ce_spliced", "error_norm"):
        np.testing.assert_allclose(whole[column], single[column], rtol=1e-3, atol=1e-4)


def test_epsilon_random_has_the_errors_norm(site):
    frame = evaluate(*site, {"noisy": noisy, "zero": zero_ablation}, draws=3, seed=1)
    key = ["condition", "window", "position"]
    own = frame[frame.draw == -1].set_index(key).error_norm
    for draw in range(3):
        twin = frame[frame.draw == draw].set_index(key).error_norm
        np.testing.assert_allclose(twin, own[twin.index], rtol=1e-5)
    kl = frame.pivot_table(index=key, columns="draw", values="kl", observed=True)
    assert not np.allclose(kl[0], kl[1])  # draws differ


def test_directions_are_uniform_on_the_sphere_and_reproducible():
    like = torch.zeros(2, 5000, 8)
    found = downstream.directions(like, 3, 0, seed=2)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(2, 5000))
    flat = found.flatten(0, 1)
    torch.testing.assert_close(flat.mean(0), torch.zeros(8), atol=0.02, rtol=0)
    torch.testing.assert_close(flat.T @ flat / len(flat), torch.eye(8) / 8, atol=0.01, rtol=0)
    assert torch.equal(found[1], downstream.directions(like[:1], 4, 0, seed=2)[0])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_reconstruction_that_is_not_finite_is_refused(site, value):
    model, windows, config = site
    count = []

    def bad(x):
        count.append(x)
        return (
            torch.where(torch.arange(len(x))[:, None] == len(x) - 1, value, x)
            if len(count) == 2
            else x
        )

    with pytest.raises(ValueError, match="condition 'bad' gave NaN or infinity in window 3"):
        evaluate(model, windows, config, {"bad": bad}, batch_windows=2)


def test_ablations_and_loss_recovered(site):
    model, windows, config = site
    mean = lm.read(model, windows.tokens, config.hook_point).x.mean((0, 1))
    conditions = {
        "clean": lambda x: x,
        "zero": zero_ablation,
        "mean": mean_ablation(mean),
        "noisy": noisy,
    }
    frame = evaluate(model, windows, config, conditions, draws=1)
    recovered = ce_loss_recovered(frame, "zero")
    assert recovered["clean", -1] == pytest.approx(1) and recovered["zero", -1] == pytest.approx(0)
    ce = (
        frame[frame.draw == -1]
        .groupby("condition", observed=True)[["ce_clean", "ce_spliced"]]
        .mean()
    )
    by_hand = (ce.ce_spliced["zero"] - ce.ce_spliced["noisy"]) / (
        ce.ce_spliced["zero"] - ce.ce_clean["noisy"]
    )
    assert recovered["noisy", -1] == pytest.approx(by_hand)
    with pytest.raises(
        ValueError,
        match="ablation = 'resample' is not among the conditions clean, zero, mean, noisy",
    ):
        ce_loss_recovered(frame, "resample")


def test_condition_inverts_the_normalisation(tiny_harvest):
    harvest.harvest(tiny_harvest)
    acts = activations.load(tiny_harvest, "test")
    trained = ModelConfig(
        kind="sae",
        harvest=tiny_harvest,
        sae=SAEConfig(d_sae=8, k=2),
        train=TrainConfig(n_tokens=1024),
    )
    x = acts.raw(torch.arange(20)).float()
    torch.testing.assert_close(
        downstream.condition(lambda z: z, trained, acts)(x), x, rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(
        downstream.condition(torch.zeros_like, trained, acts)(x), acts.mean.expand_as(x)
    )


def test_a_foreign_model_is_refused_with_both_names(tiny_harvest):
    harvest.harvest(tiny_harvest)
    acts = activations.load(tiny_harvest, "test")

    def trained(first_position="drop", **changes):
        return ModelConfig(
            kind="joint",
            harvest=replace(tiny_harvest, **changes),
            sae=SAEConfig(d_sae=8, k=2),
            nfm=NFMConfig(d_factor=2),
            train=TrainConfig(n_tokens=1024, first_position=first_position),
        )

    cases = [
        (
            trained(lm=LMConfig(name="gpt2")),
            "the joint model was trained with the language model gpt2, .*tiny-llama",
        ),
        (
            trained(hook_point="blocks.2.hook_resid_post"),
            "hook point blocks.2.hook_resid_post, but .* hook point blocks.1.hook_resid_post",
        ),
        (
            trained(first_position="keep"),
            "statistics .*first_position='keep', but .*first_position='drop'",
        ),
        (trained(train_windows=3), "statistics .*train_windows=3.*, but .*train_windows=None"),
    ]
    for other, message in cases:
        with pytest.raises(ValueError, match=message):
            downstream.condition(lambda z: z, other, acts)


def test_another_language_model_is_refused(site):
    model, windows, config = site
    with pytest.raises(ValueError, match="of the language model 'gpt2', but .*tiny-llama"):
        evaluate(model, windows, replace(config, lm=LMConfig(name="gpt2")), {"clean": lambda x: x})
