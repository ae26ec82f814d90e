"""Training on a CUDA device: one run of a few minutes on random activations, `python -m benchmarks.gpu OUT.json`.

It needs the package, PyTorch with Triton, and no network. It checks values and gradients against float64, times the
operations, and whole steps of `train.fit` beside the dense formula and the matrix products of which a step cannot do without.
"""

import argparse
import json
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
import triton
from torch import nn

from featint import store, train
from featint.activations import Batches
from featint.config import NFMConfig, SAEConfig, TrainConfig
from featint.joint import JointSAE
from featint.kernels import gpu, sparse
from featint.kernels.sparse import Codes
from featint.nfm import NFM
from featint.sae import TopKSAE

SIZES = ((576, 4096, 84), (3200, 50000, 1024), (2048, 65536, 64))  # d_in, d_sae, k
BATCH, D_FACTOR = 8192, 300
SHARES = (32, 64, 128, 256, 512, 1024)  # active of 65,536 features
STEPS = 160
DEVICE = store.device()


class DenseJoint(nn.Module):
    """SAE, and NFM where d_factor is given, all as products of dense matrices: the formula that `fit` is compared with."""

    def __init__(self, d_in: int, d_sae: int, k: int, d_factor: int | None):
        super().__init__()
        self.k, self.joint = k, d_factor is not None
        self.encoder, self.decoder = nn.Linear(d_in, d_sae), nn.Linear(d_sae, d_in, bias=False)
        if self.joint:
            self.linear = nn.Linear(d_sae, d_in)
            self.V = nn.Parameter(0.05 * torch.randn(d_sae, d_factor))
            layers = nn.Linear(d_factor, d_factor), nn.ReLU(), nn.Linear(d_factor, d_in)
            self.mlp = nn.Sequential(nn.Dropout(0.15), *layers)

    def forward(self, x):
        top = self.encoder(x).relu().topk(self.k, sorted=False)
        codes = torch.zeros(
            len(x), self.encoder.out_features, dtype=top.values.dtype, device=x.device
        )
        codes = codes.scatter(1, top.indices, top.values)
        if not self.joint:
            return self.decoder(codes)
        pooled = ((codes @ self.V).square() - codes.square() @ self.V.square()) / 2
        return self.decoder(codes) + self.linear(codes) + self.mlp(pooled)


def model_of(kind: str, d_in: int, d_sae: int, k: int) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    sae = TopKSAE(d_in, SAEConfig(d_sae=d_sae, k=k), generator)
    if kind == "sae":
        return sae.to(DEVICE)
    return JointSAE(sae, NFM(d_in, d_sae, NFMConfig(d_factor=D_FACTOR), generator)).to(DEVICE)


def random_batches(d_in: int, n: int) -> Batches:
    """Random activations on the device; eight different batches in turn."""
    pool = [torch.randn(BATCH, d_in, device=DEVICE) for _ in range(8)]
    return Batches(n, lambda step: pool[step % len(pool)])


def milliseconds(f) -> float:
    """Median device time of a call."""
    return triton.testing.do_bench(f, warmup=50, rep=200, return_mode="median")


def ours(model: str, size: tuple[int, int, int]) -> dict:
    """Seconds per step of `train.fit`, counts, clipping and Adam included, and its peak memory."""
    d_in, d_sae, k = size
    batches = random_batches(d_in, STEPS)
    fitted, config = (
        model_of(model, *size),
        TrainConfig(n_tokens=STEPS * BATCH, batch_tokens=BATCH, lr=1e-4),
    )
    train.fit(fitted, batches, replace(config, n_tokens=4 * BATCH))  # compiles, fills the allocator
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    began = time.perf_counter()
    train.fit(fitted, batches, config)
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - began) / STEPS
    return {
        "ms": 1000 * seconds,
        "tokens_per_second": BATCH / seconds,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
    }


def dense(model: str, size: tuple[int, int, int], precision: str) -> dict:
    """The same for the dense formula with PyTorch's own autograd and fused Adam; in bfloat16 (autocast) or TF32."""
    d_in, d_sae, k = size
    batches = random_batches(d_in, STEPS)
    formula = DenseJoint(d_in, d_sae, k, D_FACTOR if model == "joint" else None).to(DEVICE)
    optimizer = torch.optim.Adam(formula.parameters(), lr=1e-4, fused=True)
    torch.backends.cuda.matmul.allow_tf32 = True
    seconds = []
    for step in range(8):
        x = batches[step]
        torch.cuda.synchronize()
        began = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bfloat16"):
            x_hat = formula(x)
        train.mse(x_hat.float(), x).backward()
        nn.utils.clip_grad_norm_(formula.parameters(), 1.0)
        optimizer.step()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    torch.backends.cuda.matmul.allow_tf32 = False
    seconds = statistics.median(seconds[3:])
    return {
        "ms": 1000 * seconds,
        "tokens_per_second": BATCH / seconds,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
    }


def products(size: tuple[int, int, int]) -> dict:
    """Milliseconds of the encoder's product alone, in bfloat16, of the choice of the k largest, and of Adam's pass over encoder and decoder."""
    d_in, d_sae, k = size
    x, W = (
        torch.randn(BATCH, d_in, device=DEVICE).bfloat16(),
        torch.randn(d_sae, d_in, device=DEVICE).bfloat16(),
    )
    product = milliseconds(lambda: x @ W.T)
    top = milliseconds(lambda narrow=(x @ W.T): narrow.topk(k, sorted=False))
    weights = torch.randn(2 * d_sae, d_in, device=DEVICE, requires_grad=True)
    weights.grad = torch.randn_like(weights)
    adam = torch.optim.Adam([weights], fused=True)
    return {
        "product_ms": product,
        "product_tflops": 2e-9 * BATCH * d_in * d_sae / product,
        "top_ms": top,
        "adam_ms": milliseconds(adam.step),
    }


def switch(k: int, d_sae: int = 65536, d_in: int = 2048) -> dict:
    """Milliseconds of the three products with sparse codes in both layouts."""
    codes = random_codes(BATCH, d_sae, k)
    table, rows = torch.randn(d_sae, d_in, device=DEVICE), torch.randn(BATCH, d_in, device=DEVICE)
    times = {"k": k, "share": k / d_sae}
    for layout in ("gathered", "dense"):
        with limited(layout):
            times |= {
                f"{layout}_bag": milliseconds(lambda: gpu.bag(*codes, table)),
                f"{layout}_row_dots": milliseconds(
                    lambda: gpu.row_dots(rows, codes.indices, table)
                ),
                f"{layout}_weight_grad": milliseconds(lambda: gpu.weight_grad(rows, *codes, d_sae)),
            }
        times[layout] = sum(v for name, v in times.items() if name.startswith(f"{layout}_"))
    return times


def limited(layout: str):
    """One of the two layouts, whatever the share of active features, for a while."""
    return mock.patch.object(gpu, "DENSE", {"gathered": 2.0, "dense": 0.0}[layout])


def random_codes(batch: int, d_sae: int, k: int) -> Codes:
    indices = torch.rand(batch, d_sae, device=DEVICE).topk(k, sorted=False).indices
    return Codes(torch.rand(batch, k, device=DEVICE), indices)


def exactness(layout: str, size: tuple[int, int, int] = (576, 4096, 84), batch: int = 512) -> dict:
    """Relative errors of the joint step's output and of every gradient against dense float64, for the features and hidden units that the step found active;
    and the share of its features that float64 chooses too."""
    d_in, d_sae, k = size
    model = model_of("joint", *size).eval()  # no dropout
    x = torch.randn(batch, d_in, device=DEVICE)
    with limited(layout):
        x_hat, codes = model(x)
        train.mse(x_hat, x).backward()
    named = dict(model.named_parameters())
    p = {name: q.detach().double().requires_grad_() for name, q in named.items()}
    pre_acts = x.double() @ p["sae.W_enc"] + p["sae.b_enc"]
    chosen = pre_acts.topk(k).indices
    acts = pre_acts.gather(1, codes.indices).relu()
    c = torch.zeros_like(pre_acts).scatter(1, codes.indices, acts)
    pooled = ((c @ p["nfm.V"]).square() - c.square() @ p["nfm.V"].square()) / 2
    with limited(layout):
        active = model.nfm.hidden(codes) > 0
    hidden = (pooled @ p["nfm.W_hidden"] + p["nfm.b_hidden"]) * active
    reference = (
        c @ p["sae.W_dec"]
        + c @ p["nfm.W_lin"]
        + p["nfm.b_lin"]
        + hidden @ p["nfm.W_out"]
        + p["nfm.b_out"]
    )
    train.mse(reference, x.double()).backward()

    def error(a, b):
        return ((a.double() - b).norm() / b.norm()).item()

    shared = (codes.indices[:, :, None] == chosen[:, None, :]).any(2).double().mean().item()
    errors = {name: error(q.grad, p[name].grad) for name, q in named.items()}
    return {"layout": layout, "output": error(x_hat, reference), "chosen_by_both": shared, **errors}


def loss(layout: str, size: tuple[int, int, int] = (576, 4096, 84), steps: int = 200) -> dict:
    """Held-out loss of a joint model after training on sums of 20 of 1,024 directions, in bfloat16 and by exact kernels in float32."""
    directions = torch.randn(1024, size[0], device=DEVICE) / 20**0.5

    def batch(step: int):
        g = torch.Generator(DEVICE).manual_seed(step)
        present = torch.rand(BATCH, 1024, device=DEVICE, generator=g).topk(20).indices
        c = torch.zeros(BATCH, 1024, device=DEVICE).scatter(1, present, 1.0)
        return c @ directions + 0.05 * torch.randn(BATCH, size[0], device=DEVICE, generator=g)

    losses, config = (
        {"layout": layout},
        TrainConfig(n_tokens=steps * BATCH, batch_tokens=BATCH, lr=1e-3),
    )
    for name, kernels in (("bfloat16", gpu), ("float32", None)):
        fast, sparse._triton = sparse._triton, lambda kernels=kernels: kernels
        with limited(layout):
            fitted = train.fit(
                model_of("joint", *size), Batches(steps, batch), config, validation=batch(steps)
            )
        sparse._triton = fast
        losses[name] = fitted.history["validation_loss"].iloc[-1]
    return losses


def device() -> dict:
    """Which card, and its two limits: bytes copied and bfloat16 operations, per second."""
    a, b = (torch.randn(8192, 8192, device=DEVICE).bfloat16() for _ in range(2))
    block = torch.randn(2**29, device=DEVICE)
    copy = torch.empty_like(block)
    return {
        "name": torch.cuda.get_device_name(),
        "versions": {
            "torch": torch.__version__,
            "triton": triton.__version__,
            "cuda": torch.version.cuda,
        },
        "tflops_bfloat16": 2e-9 * 8192**3 / milliseconds(lambda: a @ b),
        "gigabytes_per_second": 2e-6 * block.nbytes / milliseconds(lambda: copy.copy_(block)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "out",
        type=Path,
        help="the JSON file to write; what stands there already is not measured again",
    )
    parser.add_argument("--minutes", type=float, default=8, help="begin nothing new after so long")
    asked, began = parser.parse_args(), time.monotonic()
    if DEVICE != "cuda":
        parser.error(
            "PyTorch sees no CUDA device here; `pytest tests/test_gpu.py` checks the kernels without one"
        )
    rows = json.loads(asked.out.read_text(encoding="utf-8"))["rows"] if asked.out.exists() else []
    models = [{"model": model, "size": size} for size in SIZES for model in ("sae", "joint")]
    plan = [
        (device, [{}]),
        (exactness, [{"layout": "gathered"}, {"layout": "dense"}]),
        (loss, [{"layout": "gathered"}, {"layout": "dense"}]),
        (products, [{"size": size} for size in SIZES]),
        (ours, models),
        (
            dense,
            [m | {"precision": precision} for m in models for precision in ("bfloat16", "tf32")],
        ),
        (switch, [{"k": k} for k in SHARES]),
    ]
    failed = []
    for measure, settings in plan:
        for setting in settings:
            row = {"measure": measure.__name__} | {
                name: list(v) if name == "size" else v for name, v in setting.items()
            }
            if any(all(done.get(name) == v for name, v in row.items()) for done in rows):
                continue
            if time.monotonic() - began > 60 * asked.minutes:
                failed.append(f"{row}: no time left")
                continue
            try:
                rows.append(row | measure(**setting))
                print(f"{time.monotonic() - began:5.0f} s  {rows[-1]}", flush=True)
            except (
                RuntimeError,
                triton.TritonError,
            ) as e:  # one size that does not fit loses no other
                failed.append(f"{row}: {e}"[:500])
                print(failed[-1], flush=True)
            stamp = {"provenance": store.provenance(), "batch": BATCH, "d_factor": D_FACTOR}
            store.write_json(asked.out, stamp | {"rows": rows, "failed": failed})
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
    print(f"written to {asked.out}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
