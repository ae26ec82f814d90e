"""Rivals of an NFM on an SAE's error: least squares, and a second SAE as in the released code."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_model, save_model
from scipy import linalg, sparse
from torch import Tensor, nn

from featint import activations, runs, store, train
from featint.config import ModelConfig, to_json
from featint.kernels.sparse import Codes
from featint.sae import Reconstruction

RIDGES = (1.0, 10.0, 100.0, 1000.0)
"""Penalties tried, in units of the mean square of an input on one token."""
L1_LR_SHARE, L1_STEP_SHARE, L1_INIT = 0.1, 0.2, 1e-4
"""The released code trains its second SAE at a tenth of the first one's learning rate, which
reaches 0 after a fifth of the steps, from directions of this standard deviation."""
L1_TRAIN = {"lr_end_factor": 0.0, "decay_fraction": 1.0, "adam_eps": 1e-5, "clip_norm": 1e9}


def ridge(
    pieces: Iterable[tuple[Tensor, Tensor]],
    validation: tuple[Tensor, Tensor],
    penalties: Sequence[float] = RIDGES,
) -> tuple[np.ndarray, np.ndarray]:
    """Ridge regression of targets on inputs that come in pieces (n, d_from), (n, d_to).

    Returns weights (d_from, d_to) and the constant (d_to,), which is not penalised, at the penalty
    with the least squared error on the validation pair. Inputs that are mostly 0 are kept sparse.
    """
    gram, moment = 0.0, 0.0
    for inputs, targets in pieces:
        rows = _with_constant(inputs)
        product = rows.T @ rows
        gram = gram + (product.toarray() if sparse.issparse(product) else product)
        moment = moment + rows.T @ targets.double().cpu().numpy()
    squares, n = np.diag(gram)[:-1], gram[-1, -1]
    penalised = np.diag([1.0] * len(squares) + [0.0]) * squares.mean() / n
    rows, wanted = _with_constant(validation[0]), validation[1].double().cpu().numpy()
    systems = (gram + penalty * penalised for penalty in penalties)
    solutions = [linalg.solve(system, moment, assume_a="pos") for system in systems]
    best = min(solutions, key=lambda solution: np.square(wanted - rows @ solution).sum())
    return best[:-1], best[-1]


def _with_constant(inputs: Float[Tensor, "n d_from"]) -> np.ndarray | sparse.csr_matrix:
    rows = np.pad(inputs.cpu().numpy(), ((0, 0), (0, 1)), constant_values=1.0)
    mostly_0 = 2 * np.count_nonzero(rows) < rows.size
    return (sparse.csr_matrix(rows) if mostly_0 else rows).astype(float)


@torch.no_grad()
def least_squares(
    config: ModelConfig, inputs: Callable[[Tensor], Tensor], targets: Callable[[Tensor], Tensor]
) -> tuple[Float[Tensor, "d_from d_to"], Float[Tensor, " d_to"]]:
    """`ridge` of targets(x) on inputs(x) on as many training tokens as a model has seen, or all
    there are, the penalty chosen on validation tokens: weights and constant."""
    acts, _ = runs.training_tokens(config)
    order = torch.randperm(len(acts), generator=torch.Generator().manual_seed(config.train.seed))
    text = acts.subset(order[: config.train.n_tokens].sort().values).pieces()
    held_out = activations.load(config.harvest, "validation", config.train.first_position)
    x = held_out.pieces(runs.VALIDATION_TOKENS)[0]
    fitted = ridge(((inputs(piece), targets(piece)) for piece in text), (inputs(x), targets(x)))
    weights, constant = (torch.from_numpy(array).float().to(x.device) for array in fitted)
    return weights, constant


class L1SAE(nn.Module):
    """A ReLU SAE with an L1 penalty on its codes, as the released code fits it to an error."""

    def __init__(self, d_in: int, d_sae: int, generator: torch.Generator | None = None):
        super().__init__()
        directions = torch.empty(d_sae, d_in).normal_(0, L1_INIT, generator=generator)
        self.W_enc, self.W_dec = nn.Parameter(directions.clone().t()), nn.Parameter(directions)
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        self.d_sae, self.penalty = d_sae, torch.zeros(())

    def forward(self, x: Float[Tensor, "batch d_in"]) -> Reconstruction:
        """x_hat and codes; `penalty` is then the mean of code times length of its direction."""
        acts = (x @ self.W_enc + self.b_enc).relu()
        self.penalty = (acts * self.W_dec.norm(dim=1)).mean()
        every = torch.arange(self.d_sae, device=x.device).expand(acts.shape)
        return Reconstruction(acts @ self.W_dec, Codes(acts, every))


def l1_on_error(base: ModelConfig) -> L1SAE:
    """The released code's control, from the store if it is there: an `L1SAE` as wide as a first
    SAE, fitted to its error.

    Only steps with a learning rate above 0 are made; the penalty gets its weight without a ramp.
    """
    whole, n_tokens = base.train, int(base.train.n_tokens * L1_STEP_SHARE)
    budget = {"n_tokens": max(whole.batch_tokens, n_tokens), "lr": whole.lr * L1_LR_SHARE}
    settings = replace(whole, **budget, **L1_TRAIN)
    identity = {"l1_on_error": to_json(base), "train": to_json(settings)}
    acts, _ = runs.training_tokens(base)
    model = L1SAE(acts.d_in, base.sae.d_sae, torch.Generator().manual_seed(settings.seed))
    model = model.to(store.device())
    if not store.exists("l1_sae", identity):
        first = runs.get(base).model
        errors = acts.batches(settings).map(lambda x: x - first(x).x_hat)
        how = {"loss_fn": lambda x_hat, x: train.mse(x_hat, x) + model.penalty, "label": "L1 SAE"}
        train.fit(model, errors, settings, **how)
        with store.create("l1_sae", identity, seed=settings.seed) as folder:
            save_model(model, folder / "model.safetensors")
    load_model(model, store.load("l1_sae", identity).file("model.safetensors"))
    return model.requires_grad_(False).eval()
