"""The one training loop.

It fits any model that returns a `Reconstruction` to any batches, under any loss; it knows no model
by name.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from tqdm import tqdm

from featint import store
from featint.config import TrainConfig
from featint.kernels import sparse

LOG_POINTS = 40
CHECKPOINT_SECONDS = 60
COUNTS = ("fired", "silent", "loss_sum", "grad_norm")
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass
class Training:
    """What `fit` returns beside the fitted model."""

    history: pd.DataFrame
    """One row per logged step: step, tokens, loss (mean since the last row), validation_loss, lr,
    grad_norm, dead_share."""
    fired_tokens: Tensor
    """(d_sae,) tokens of training on which each feature was active: the number of its updates."""
    silent_tokens: Tensor
    """(d_sae,) tokens since each feature was last active."""


def mse(x_hat: Tensor, x: Tensor) -> Tensor:
    """Mean squared error over tokens and dimensions, of (batch, d) each: the paper's loss.

    With z-scored x, 1 is the error of a constant.
    """
    return (x_hat - x).square().mean()


def lr_factor(step: int, config: TrainConfig) -> float:
    """The share of the learning rate in force at a step.

    Linear from 1 to `lr_end_factor` over `decay_fraction` of the steps, then constant.
    """
    progress = min(1.0, step / (config.decay_fraction * config.n_steps))
    return 1 + (config.lr_end_factor - 1) * progress


class Adam(torch.optim.Adam):
    """PyTorch's fused Adam, which copies every parameter that is not contiguous in every step.

    It is handed their transposes instead.
    """

    def _init_group(self, group, *lists) -> bool:
        found = super()._init_group(group, *lists)
        for tensors in lists[:4]:  # parameters, gradients and both moments
            tensors[:] = [t if t.is_contiguous() else t.t() for t in tensors]
        return found


def optimizer_for(model: nn.Module, config: TrainConfig) -> Adam:
    """Adam with one group per factor of `lr_scale`; a factor of 0 freezes its parameters.

    Raises ValueError for a prefix that no parameter's name begins with.
    """
    names = [name for name, _ in model.named_parameters()]
    for prefix in config.lr_scale:
        if not any(name.startswith(prefix) for name in names):
            there = ", ".join(names)
            raise ValueError(f"lr_scale names {prefix!r}, but the model's parameters are {there}")
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        factor = next((f for prefix, f in config.lr_scale.items() if name.startswith(prefix)), 1.0)
        parameter.requires_grad_(factor > 0)
        if factor > 0:
            groups.setdefault(factor, []).append(parameter)
    scaled = [{"params": ps, "lr": config.lr * f, "factor": f} for f, ps in groups.items()]
    return Adam(scaled, eps=config.adam_eps, fused=True)


def fit(
    model: nn.Module,
    batches: Sequence[Tensor],
    config: TrainConfig,
    loss_fn: Callable[[Tensor, Tensor], Tensor] = mse,
    validation: Tensor | None = None,
    checkpoint: Path | None = None,
    label: str = "fit",
) -> Training:
    """Fit `model` in place and return the history.

    `model` returns a `Reconstruction` for x (batch, d_in), on the device of the batches, of which
    `batches[step]` is (batch_tokens, d_in), the same at every call, so that a run can resume.
    `loss_fn` takes x_hat and x, both (batch, d_in), to a scalar; that of `validation`, held-out
    activations (n, d_in), is logged. The file `checkpoint` is written every minute, to be removed
    (`store.discard`) once the result is safe; if it exists, the run goes on from there, to the same
    result bit for bit.

    Raises FloatingPointError if the loss stops being finite, ValueError if the batches are too few.
    """
    if len(batches) < config.n_steps:
        needs = f"{config.n_steps} batches of {config.batch_tokens} tokens"
        raise ValueError(f"n_tokens = {config.n_tokens} needs {needs}, not {len(batches)}")
    sparse.prepare_cpu()
    optimizer = optimizer_for(model, config)
    torch.manual_seed(config.seed)  # dropout only: initial values and order come from outside
    run = Run(model, optimizer, config)
    if checkpoint is not None and checkpoint.exists():
        run.restore(checkpoint)
    every = max(1, config.n_steps // LOG_POINTS)
    saved = time.monotonic()
    model.train()
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    with tqdm(total=config.n_steps, initial=run.step, desc=label, unit="step", disable=None) as bar:
        while run.step < config.n_steps:
            x = batches[run.step]
            for group in optimizer.param_groups:
                group["lr"] = config.lr * group["factor"] * lr_factor(run.step, config)
            optimizer.zero_grad(set_to_none=True)
            x_hat, codes = model(x)
            loss = loss_fn(x_hat, x)
            loss.backward()
            grad_norm = nn.utils.clip_grad_norm_(trained, config.clip_norm)
            if config.half_precision:
                round_to_half(p.grad for p in trained)
            optimizer.step()
            if config.half_precision:
                round_to_half(
                    kept for p in trained for kept in (p, *(optimizer.state[p][m] for m in MOMENTS))
                )
            run.count(codes, len(x), loss.detach(), grad_norm)
            bar.update()
            if run.step % every == 0 or run.step == config.n_steps:
                run.log(validation, loss_fn)
                bar.set_postfix(loss=f"{run.rows[-1]['loss']:.4f}", refresh=False)
            if checkpoint is not None and time.monotonic() - saved >= CHECKPOINT_SECONDS:
                run.save(checkpoint)
                saved = time.monotonic()
    model.eval()
    return Training(pd.DataFrame(run.rows), run.fired, run.silent)


@torch.no_grad()
def round_to_half(tensors: Iterable[Tensor]) -> None:
    """Round to float16 in place."""
    for tensor in tensors:
        tensor.copy_(tensor.half())


class Run:
    """The state of a training run: all that must survive a kill."""

    def __init__(self, model: nn.Module, optimizer: Adam, config: TrainConfig):
        self.model, self.optimizer, self.config = model, optimizer, config
        self.step = 0
        self.rows: list[dict] = []
        device = next(model.parameters()).device
        self.fired = torch.zeros(model.d_sae, dtype=torch.int64, device=device)
        self.silent = self.fired.clone()
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self.grad_norm = torch.zeros((), device=device)
        self.since_log = 0

    def count(self, codes: sparse.Codes, n_tokens: int, loss: Tensor, grad_norm: Tensor) -> None:
        fired = (codes.acts > 0).long().flatten()
        active = torch.zeros_like(self.fired).index_add_(0, codes.indices.flatten(), fired)
        self.fired += active
        self.silent = torch.where(active > 0, 0, self.silent + n_tokens)
        self.loss_sum += loss
        self.grad_norm = grad_norm
        self.step += 1
        self.since_log += 1

    def log(self, validation: Tensor | None, loss_fn: Callable) -> None:
        loss = self.loss_sum.item() / self.since_log
        if not torch.isfinite(self.loss_sum):
            remedy = f"lower the learning rate (lr = {self.config.lr})"
            raise FloatingPointError(f"the loss is {loss} at step {self.step}; {remedy}")
        held_out = None if validation is None else self.validate(validation, loss_fn)
        row = {
            "step": self.step,
            "tokens": self.step * self.config.batch_tokens,
            "loss": loss,
            "validation_loss": held_out,
            "lr": self.config.lr * lr_factor(self.step - 1, self.config),
            "grad_norm": self.grad_norm.item(),
            "dead_share": (self.silent >= self.config.dead_after_tokens).double().mean().item(),
        }
        self.rows.append(row)
        self.loss_sum.zero_()
        self.since_log = 0

    @torch.no_grad()
    def validate(self, x: Tensor, loss_fn: Callable) -> float:
        self.model.eval()
        loss = loss_fn(self.model(x).x_hat, x).item()
        self.model.train()
        return loss

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state by name, the optimiser's moments beside their parameters."""
        named = dict(self.model.named_parameters())
        moments = {
            f"{moment}/{name}": value
            for name, p in named.items()
            for moment, value in self.optimizer.state.get(p, {}).items()
        }
        weights = {f"model/{name}": p.detach() for name, p in named.items()}
        state = weights | moments | {name: getattr(self, name) for name in COUNTS}
        state["rng"] = torch.get_rng_state()
        if self.fired.is_cuda:
            state["cuda_rng"] = torch.cuda.get_rng_state()
        return state

    def save(self, file: Path) -> None:
        """Write the state atomically, behind its sha256."""
        meta = {"step": self.step, "since_log": self.since_log, "rows": self.rows}
        state = {name: value.contiguous() for name, value in self.tensors().items()}
        state["meta"] = torch.tensor(list(json.dumps(meta).encode()), dtype=torch.uint8)
        content = save(state)
        store.write_bytes(file, hashlib.sha256(content).digest() + content)

    def restore(self, file: Path) -> None:
        """Take up the state that `save` wrote. Raises StoreError if it is damaged."""
        found = file.read_bytes()  # at once: another process may put a newer one in its place
        if hashlib.sha256(found[32:]).digest() != found[:32]:
            said = f"the checkpoint {file} does not match its sha256"
            raise store.StoreError(f"{said}; delete it to start that training anew")
        state = load(found[32:])
        meta = json.loads(bytes(state["meta"].tolist()))
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                p.copy_(state[f"model/{name}"])
                if p.requires_grad and f"step/{name}" in state:
                    moments = {m: torch.empty_like(p).copy_(state[f"{m}/{name}"]) for m in MOMENTS}
                    self.optimizer.state[p] = {"step": state[f"step/{name}"], **moments}
        for name in COUNTS:
            setattr(self, name, state[name].to(self.fired.device))
        torch.set_rng_state(state["rng"])
        if self.fired.is_cuda:
            torch.cuda.set_rng_state(state["cuda_rng"])
        self.step, self.since_log, self.rows = meta["step"], meta["since_log"], meta["rows"]
