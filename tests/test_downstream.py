"""KL, cross-entropies and epsilon-random twins, against torch.distributions and by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from featint import activations, downstream, harvest, lm
from featint.config import LMConfig, ModelConfig, NFMConfig, SAEConfig, TrainConfig
from featint.downstream import Clean, compare, evaluate, mean_ablation, zero_ablation
from featint.joint import JointSAE
from featint.nfm import NFM
from featint.runs import Trained
from featint.sae import TopKSAE


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


def test_logits_of_half_precision_are_compared_in_single():
    p, q = (3 * torch.randn(4, 50, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    p, q, target = p.bfloat16(), q.bfloat16(), torch.arange(4)
    found = compare(Clean.of(p), q, target)
    for name, value in compare(Clean.of(p.float()), q.float(), target).items():
        assert torch.equal(found[name], value)


def test_random_twins_are_x_plus_a_vector_as_long_as_the_error(site):
    """Of a condition in double precision too; where nothing is edited they are x."""
    model, windows, config = site
    reading = lm.read(model, windows.tokens[:2], config.hook_point)
    edited = torch.zeros_like(reading.sinks)
    edited[1, 3] = True
    conditions = {"off": lambda x: x.double() - 2}
    found = list(downstream.replacements(conditions, reading, edited, 5, 1, 9))
    assert [(name, draw) for name, draw, _ in found] == [("off", -1), ("off", 0)]
    own, twin = (x_hat - reading.x for _, _, x_hat in found)
    wanted = torch.zeros_like(reading.x)
    wanted[1, 3] = -2
    torch.testing.assert_close(own, wanted, rtol=1e-4, atol=1e-5)
    wanted[1, 3] = 2 * 32**0.5 * downstream.directions(reading.x, 5, 0, 9)[1, 3]
    torch.testing.assert_close(twin, wanted, rtol=1e-4, atol=1e-5)


def test_evaluate_against_a_plain_computation(site):
    model, windows, config = site
    frame = evaluate(
        model, windows, config, {"clean": lambda x: x, "noisy": noisy}, batch_windows=3
    )
    logits = {
        "clean": model.bridge(windows.tokens),
        "noisy": lm.resume(model, lm.read(model, windows.tokens, config.hook_point), noisy),
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


def test_sinks_are_replaced_and_counted_if_they_are_kept(site):
    """Every position but a window's last; against the same splice with the whole x replaced."""
    model, windows, config = site
    frame = evaluate(*site, {"noisy": noisy}, first_position="keep")
    assert len(frame) == windows.tokens[:, :-1].numel() and (frame.position == 0).any()
    reading = lm.read(model, windows.tokens, config.hook_point)
    spliced = Categorical(logits=lm.resume(model, reading, noisy, "keep")[:, 0].double())
    ours = frame[frame.position == 0].sort_values("window").ce_spliced
    np.testing.assert_allclose(ours, -spliced.log_prob(windows.tokens[:, 1]), atol=2e-5)


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


def test_evaluation_can_begin_at_a_later_window(site):
    whole, late = (evaluate(*site, {"noisy": noisy}, draws=1, start=n) for n in (0, 3))
    key = ["window", "position", "article", "draw"]
    rest = whole[whole.window >= 3].sort_values(key).reset_index(drop=True)
    assert late.index.is_unique
    late = late.sort_values(key).reset_index(drop=True)
    assert late[key].equals(rest[key])
    np.testing.assert_allclose(late.kl, rest.kl, rtol=1e-3, atol=1e-4)


def test_sums_by_hand():
    """Three tokens of article 7, one of article 3, two conditions, two random twins of the first."""

    def rows(condition, draw, kl, ce, norm, same):
        tokens = {"article": [7, 7, 3, 7], "ce_clean": [1.0, 2.0, 3.0, 4.0]}
        own = {"kl": kl, "ce_spliced": ce, "error_norm": norm, "top1_same": same}
        return pd.DataFrame({"condition": condition, "draw": draw} | tokens | own)

    yes = [True, False, True, True]
    frame = pd.concat(
        [
            rows("sae", -1, [0.1, 0.2, 0.4, 0.8], [2.0, 2.0, 5.0, 6.0], [1, 2, 3, 4], yes),
            rows("joint", -1, [0.0, 0.1, 0.2, 0.3], [1.0, 2.0, 3.0, 5.0], [2, 2, 2, 2], [True] * 4),
            rows("sae", 0, [1.0, 1.0, 2.0, 1.0], [9.0] * 4, [9] * 4, [False] * 4),
            rows("sae", 1, [2.0, 3.0, 4.0, 4.0], [9.0] * 4, [9] * 4, [False] * 4),
        ]
    )
    found = downstream.sums(frame)
    assert found.index.tolist() == [3, 7] and found.columns.names == ["measure", "condition"]
    wanted = {
        ("kl", "sae"): [0.4, 1.1],  # article 3 has one token; 0.1 + 0.2 + 0.8
        ("kl", "joint"): [0.2, 0.4],
        ("kl_random", "sae"): [3.0, 6.0],  # (2 + 4) / 2 draws; (3 + 9) / 2 draws
        ("ce_spliced", "sae"): [5.0, 10.0],
        ("ce_spliced", "joint"): [3.0, 8.0],
        ("error_norm", "sae"): [3.0, 7.0],
        ("error_norm", "joint"): [2.0, 6.0],
        ("top1_same", "sae"): [1, 2],
        ("top1_same", "joint"): [1, 3],
        ("ce_clean", ""): [3.0, 7.0],  # once, not once per condition
        ("tokens", ""): [1, 3],
    }
    assert set(found) == set(wanted)
    for column, values in wanted.items():
        assert found[column].tolist() == pytest.approx(values), column
    with pytest.raises(
        ValueError, match="joint, sae were evaluated on different tokens of article 7"
    ):
        downstream.sums(frame[(frame.condition == "sae") | (frame.ce_clean != 4)])
    with pytest.raises(ValueError, match="evaluated on different tokens of article 3"):
        downstream.sums(frame[(frame.condition == "sae") | (frame.article != 3)])


def test_conditions_by_hand(tiny_harvest):
    x = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
    assert zero_ablation(x).tolist() == [[0, 0], [0, 0]]
    assert mean_ablation(torch.tensor([5.0, 6.0]))(x).tolist() == [[5, 6], [5, 6]]
    # the error of x -> 0 is -x; a quarter of it leaves three quarters of x
    assert downstream.shrunk(zero_ablation, 0.25)(x).tolist() == [[0.75, -1.5], [2.25, 3.0]]


def test_paths_of_a_model_are_sums_of_its_parts(tiny_harvest):
    harvest.harvest(tiny_harvest)
    acts = activations.load(tiny_harvest, "test")
    sae_config, nfm_config = SAEConfig(d_sae=8, k=2), NFMConfig(d_factor=2)
    config = ModelConfig(
        harvest=tiny_harvest, sae=sae_config, nfm=nfm_config, train=TrainConfig(n_tokens=1024)
    )
    generator = torch.Generator().manual_seed(0)
    model = JointSAE(TopKSAE(32, sae_config, generator), NFM(32, 8, nfm_config, generator))
    model.requires_grad_(False).eval()
    trained = Trained(config, model, pd.DataFrame(), torch.zeros(1), torch.zeros(1), 0.0, {}, "")
    x = acts.raw(torch.arange(12)).float()
    parts = model.parts(model.encode(acts.normalise(x)))
    wanted = {
        "own_path": parts["sae_out"],
        "plus_linear": parts["sae_out"] + parts["linear_out"],
        "plus_interaction": parts["sae_out"] + parts["interaction_out"],
        "all": parts["sae_out"] + parts["linear_out"] + parts["interaction_out"],
    }
    for path, x_hat in wanted.items():
        found = downstream.of_model(trained, acts, path)(x)
        torch.testing.assert_close(found, acts.denormalise(x_hat), rtol=1e-4, atol=1e-5)
    assert torch.equal(downstream.of_model(trained, acts)(x), found)  # all, unless asked
    assert torch.equal(downstream.by_path(model)(x), downstream.by_path(model, "all")(x))
    raw = downstream.by_path(model, "all")(x)
    torch.testing.assert_close(raw, model(x).x_hat, rtol=1e-4, atol=1e-5)
    assert torch.equal(downstream.by_path(model.sae, "all")(x), model.sae(x).x_hat)


def test_condition_inverts_the_normalisation(tiny_harvest):
    harvest.harvest(tiny_harvest)
    acts = activations.load(tiny_harvest, "test")
    trained = ModelConfig(
        harvest=tiny_harvest, sae=SAEConfig(d_sae=8, k=2), train=TrainConfig(n_tokens=1024)
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
            harvest=replace(tiny_harvest, **changes),
            sae=SAEConfig(d_sae=8, k=2),
            nfm=NFMConfig(d_factor=2),
            train=TrainConfig(n_tokens=1024, first_position=first_position),
        )

    cases = [
        (
            trained(lm=LMConfig(name="gpt2")),
            "the model was trained with the language model gpt2, .*tiny-llama",
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
