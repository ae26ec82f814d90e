"""The loop against a plain one, and its promises: determinism, resuming, freezing, accounting."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from companion import profiles, variants
from featint import train
from featint.config import NFMConfig, SAEConfig, TrainConfig
from featint.joint import JointSAE
from featint.kernels.sparse import Codes
from featint.nfm import NFM
from featint.sae import Reconstruction, TopKSAE
from featint.store import StoreError

D_IN, D_SAE, BATCH, STEPS = 8, 32, 16, 30
CONFIG = TrainConfig(n_tokens=BATCH * STEPS, batch_tokens=BATCH, lr=1e-2, dead_after_tokens=64)


class Gaussian(Sequence):
    """Batches of noise, the same at every call; `kill_at` raises KeyboardInterrupt once, as Ctrl-C would."""

    def __init__(self, kill_at=None):
        self.kill_at = kill_at

    def __len__(self):
        return STEPS

    def __getitem__(self, step):
        if step == self.kill_at:
            raise KeyboardInterrupt
        return torch.randn(BATCH, D_IN, generator=torch.Generator().manual_seed(step))


def make(joint: bool = True):
    generator = torch.Generator().manual_seed(0)
    sae = TopKSAE(D_IN, SAEConfig(d_sae=D_SAE, k=4), generator)
    return (
        JointSAE(sae, NFM(D_IN, D_SAE, NFMConfig(d_factor=5, dropout=0.3), generator))
        if joint
        else sae
    )


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_fit_equals_a_plain_loop_with_dense_autograd():
    """The same 30 steps written with dense matrices, torch's own Adam and schedule, and no package code."""
    model, config = make(joint=False), CONFIG
    W_enc, b_enc, W_dec = (
        p.detach().double().clone().requires_grad_()
        for p in (model.W_enc, model.b_enc, model.W_dec)
    )
    adam = torch.optim.Adam([W_enc, b_enc, W_dec], lr=config.lr, fused=False)
    schedule = torch.optim.lr_scheduler.LinearLR(
        adam, 1.0, config.lr_end_factor, total_iters=int(config.decay_fraction * STEPS)
    )
    for step in range(STEPS):
        x = Gaussian()[step].double()
        pre = torch.relu(x @ W_enc + b_enc)
        codes = torch.zeros_like(pre).scatter(1, pre.topk(4).indices, pre.topk(4).values)
        loss = ((codes @ W_dec - x) ** 2).mean()
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([W_enc, b_enc, W_dec], config.clip_norm)
        adam.step()
        schedule.step()
    train.fit(model, Gaussian(), config)
    for fitted, plain in zip(
        (model.W_enc, model.b_enc, model.W_dec), (W_enc, b_enc, W_dec), strict=True
    ):
        assert torch.allclose(fitted.double(), plain, atol=2e-5)


def test_same_seed_same_result_bit_for_bit():
    first, second = make(), make()
    a, b = train.fit(first, Gaussian(), CONFIG), train.fit(second, Gaussian(), CONFIG)
    assert all(
        torch.equal(p, q)
        for p, q in zip(weights(first).values(), weights(second).values(), strict=True)
    )
    assert a.history.equals(b.history)


def test_a_killed_run_resumes_to_the_same_result_bit_for_bit(tmp_path, monkeypatch):
    whole, killed, resumed = make(), make(), make()
    validation = torch.randn(40, D_IN, generator=torch.Generator().manual_seed(99))
    expected = train.fit(whole, Gaussian(), CONFIG, validation=validation)
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", -math.inf)  # whatever the clock does
    file = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train.fit(killed, Gaussian(kill_at=17), CONFIG, validation=validation, checkpoint=file)
    assert file.exists()
    found = train.fit(resumed, Gaussian(), CONFIG, validation=validation, checkpoint=file)
    assert all(
        torch.equal(p, q)
        for p, q in zip(weights(whole).values(), weights(resumed).values(), strict=True)
    )
    assert found.history.equals(expected.history)
    assert torch.equal(found.fired_tokens, expected.fired_tokens)
    assert file.exists()  # until the result is stored


def test_a_damaged_checkpoint_is_named(tmp_path):
    file = tmp_path / "state.safetensors"
    file.write_bytes(b"not a checkpoint at all")
    with pytest.raises(StoreError, match="state.safetensors does not match.*delete it"):
        train.fit(make(), Gaussian(), CONFIG, checkpoint=file)


def test_lr_scale_freezes_and_speeds_up():
    model = make()
    before = weights(model)
    config = TrainConfig(
        n_tokens=BATCH, batch_tokens=BATCH, lr=1e-3, lr_scale={"sae": 0, "nfm.W_lin": 3}
    )
    train.fit(model, Gaussian(), config)
    moved = {name: (p - before[name]).abs().max().item() for name, p in weights(model).items()}
    assert all(distance == 0 for name, distance in moved.items() if name.startswith("sae."))
    # Adam's first step has the size of the learning rate, whatever the gradient
    assert moved["nfm.W_lin"] == pytest.approx(3e-3, rel=1e-3)
    assert moved["nfm.b_out"] == pytest.approx(1e-3, rel=1e-3)
    with pytest.raises(ValueError, match="'nfm.nothing'"):
        train.fit(
            make(),
            Gaussian(),
            TrainConfig(n_tokens=BATCH, batch_tokens=BATCH, lr_scale={"nfm.nothing": 1}),
        )


def test_firing_and_dead_accounting_in_tokens():
    model = make(joint=False)
    with torch.no_grad():
        model.b_enc[3] = -1e9  # can never fire
    training = train.fit(model, Gaussian(), CONFIG)
    assert training.fired_tokens[3] == 0
    assert training.silent_tokens[3] == BATCH * STEPS
    assert training.fired_tokens.sum() <= 4 * BATCH * STEPS
    share = (training.silent_tokens >= 64).double().mean().item()
    assert training.history["dead_share"].iloc[-1] == pytest.approx(share)
    assert share >= 1 / D_SAE


def test_the_schedule_falls_linearly_then_stays():
    config = TrainConfig(
        n_tokens=1000, batch_tokens=10, lr=1.0, lr_end_factor=0.1, decay_fraction=0.5
    )
    assert [train.lr_factor(step, config) for step in (0, 25, 50, 99)] == pytest.approx(
        [1, 0.55, 0.1, 0.1]
    )


def test_the_released_schedule_ends_after_one_step_in_179():
    """As PyTorch's LinearLR over 4,000 of 715,000 steps, here 40 of 7,150."""
    train_config = variants.get("joint_released", profiles.get("laptop")).train
    config = replace(train_config, n_tokens=7_150 * train_config.batch_tokens)
    adam = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1e-4)
    schedule = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.1, total_iters=40)
    for step in range(60):
        rate = config.lr * train.lr_factor(step, config)
        assert rate == pytest.approx(adam.param_groups[0]["lr"], rel=1e-6)
        adam.step()
        schedule.step()
    assert train.lr_factor(7_149, config) == pytest.approx(0.1)


def test_half_precision_is_adam_that_keeps_float16():
    """Two weights, by hand in numpy: the first's gradient is 0 in float16, of the second's only the square."""

    class Weights(torch.nn.Module):
        d_sae = 1

        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.zeros(2))

        def forward(self, x):
            codes = Codes(torch.ones(len(x), 1), torch.zeros(len(x), 1, dtype=torch.int64))
            return Reconstruction(self.w.expand(len(x), 2), codes)

    def falling(x_hat, x):
        return x_hat.mean(0) @ torch.tensor([-1e-9, -1e-3])

    config = replace(CONFIG, half_precision=True, lr=0.1, lr_end_factor=1.0, adam_eps=1e-5)
    model = Weights()
    train.fit(model, Gaussian(), config, loss_fn=falling)
    g = np.float16([-1e-9, -1e-3]).astype(float)
    w = m = v = np.zeros(2)
    for step in range(1, STEPS + 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        w = w - 0.1 * m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-5)
        w, m, v = (kept.astype(np.float16).astype(float) for kept in (w, m, v))
    assert v.tolist() == [0, 0] and w[0] == 0
    assert w[1] > 3 * 0.1 * STEPS  # with its second moment Adam would move by the rate in each step
    np.testing.assert_allclose(model.w.detach(), w, rtol=2e-3)
    assert torch.equal(model.w, model.w.half().float())


def test_a_loss_that_is_not_finite_stops_the_run():
    class Broken(Gaussian):
        def __getitem__(self, step):
            return super().__getitem__(step) * (float("nan") if step == 5 else 1)

    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        train.fit(make(), Broken(), CONFIG)


def test_too_few_batches_is_an_error():
    with pytest.raises(ValueError, match="needs 31 batches of 16 tokens, not 30"):
        train.fit(make(), Gaussian(), TrainConfig(n_tokens=BATCH * 31, batch_tokens=BATCH))
