"""What else could explain a finished SAE's error: least squares on its codes or on x itself, and a second SAE as the released code had it."""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from scipy import linalg, sparse
from torch import Tensor, nn

from featint import activations, runs, store, train
from featint.activations import Activations
from featint.config import ModelConfig, TrainConfig, to_json
from featint.kernels.sparse import Codes
from featint.sae import Reconstruction, TopKSAE

FIT_TOKENS = 200_000
"""Training tokens that a least-squares fit reads, at most."""
RIDGES = (1.0, 10.0, 100.0, 1000.0)
"""Penalties tried on validation tokens, in units of the mean square of an input times one token."""
L1_LR_SHARE = 0.1
L1_STEP_SHARE = 0.2
"""The released code trains its second SAE at a tenth of the first one's learning rate, which reaches 0 after a fifth of the steps."""
L1_INIT = 1e-4


class Ridge:
    """Ridge regression from rows that come in pieces, sparse or dense, to targets; a constant column is not penalised."""

    def __init__(self, d_from: int, d_to: int):
        self.gram, self.moment = np.zeros((d_from + 1, d_from + 1)), np.zeros((d_from + 1, d_to))

    def add(self, rows, targets: np.ndarray) -> None:
        """`rows` (n, d_from) as scipy sparse matrix or array, `targets` (n, d_to)."""
        ones = np.ones((rows.shape[0], 1))
        rows = (
            sparse.hstack([rows, ones]).tocsr()
            if sparse.issparse(rows)
            else np.hstack([rows, ones])
        )
        gram = rows.T @ rows
        self.gram += gram.toarray() if sparse.issparse(gram) else gram
        self.moment += rows.T @ targets

    def solve(self, penalty: float) -> tuple[np.ndarray, np.ndarray]:
        """Weights (d_from, d_to) and constant (d_to,) at a penalty in units of the mean square of an input."""
        n, inputs = self.gram[-1, -1], np.diag(self.gram)[:-1]
        loaded = self.gram.copy()
        loaded[np.diag_indices(len(inputs))] += penalty * inputs.mean() / n
        solution = linalg.solve(loaded, self.moment, assume_a="pos")
        return solution[:-1], solution[-1]


def fit_tokens(acts: Activations, seed: int) -> Activations:
    """At most `FIT_TOKENS` rows drawn at random."""
    order = torch.randperm(len(acts), generator=torch.Generator().manual_seed(seed))
    return acts.subset(order[:FIT_TOKENS].sort().values)


def as_matrix(codes: Codes, d_sae: int) -> sparse.csr_matrix:
    """Codes as a sparse (batch, d_sae) matrix, float64."""
    n, k = codes.acts.shape
    starts = np.arange(n + 1) * k
    return sparse.csr_matrix(
        (codes.acts.double().cpu().numpy().ravel(), codes.indices.cpu().numpy().ravel(), starts),
        shape=(n, d_sae),
    )


@torch.no_grad()
def best_ridge(
    ridge: Ridge, inputs, targets: Float[Tensor, "n d_to"]
) -> tuple[np.ndarray, np.ndarray]:
    """The solution with the least squared error on validation rows, among `RIDGES`."""
    wanted = targets.double().cpu().numpy()
    solutions = [ridge.solve(penalty) for penalty in RIDGES]
    return min(solutions, key=lambda s: float(np.square(wanted - (inputs @ s[0] + s[1])).sum()))


@torch.no_grad()
def refitted(config: ModelConfig, k: int) -> TopKSAE:
    """A finished SAE run at another k, its decoder (with a bias) fitted anew by ridge regression of x on those codes.

    Training tokens as the SAE's; the penalty is chosen on validation tokens.
    """
    trained = runs.get(config).model
    d_sae, d_in = trained.W_dec.shape
    sae = TopKSAE(d_in, replace(config.sae, k=k, decoder_bias=True))
    sae.W_enc.copy_(trained.W_enc), sae.b_enc.copy_(trained.b_enc)
    ridge = Ridge(d_sae, d_in)
    for x in fit_tokens(activations.load(config.harvest, "train"), config.train.seed).pieces():
        ridge.add(as_matrix(sae.encode(x), d_sae), x.double().cpu().numpy())
    x = activations.load(config.harvest, "validation").pieces(runs.VALIDATION_TOKENS)[0]
    weights, constant = best_ridge(ridge, as_matrix(sae.encode(x), d_sae), x)
    sae.W_dec.copy_(torch.from_numpy(weights)), sae.b_dec.copy_(torch.from_numpy(constant))
    return sae.requires_grad_(False)


@torch.no_grad()
def error_from_x(config: ModelConfig) -> tuple[Float[Tensor, "d_in d_in"], Float[Tensor, " d_in"]]:
    """Weights and constant of the ridge regression from x to a finished model's error x - x_hat (as in arXiv 2410.14670)."""
    model = runs.get(config).model
    acts = activations.load(config.harvest, "train")
    ridge = Ridge(acts.d_in, acts.d_in)
    for x in fit_tokens(acts, config.train.seed).pieces():
        ridge.add(x.double().cpu().numpy(), (x - model(x).x_hat).double().cpu().numpy())
    x = activations.load(config.harvest, "validation").pieces(runs.VALIDATION_TOKENS)[0]
    weights, constant = best_ridge(ridge, x.double().cpu().numpy(), x - model(x).x_hat)
    return torch.from_numpy(weights).float(), torch.from_numpy(constant).float()


class L1SAE(nn.Module):
    """A ReLU SAE with an L1 penalty on its codes, as the released code fits it to the error of the first SAE."""

    def __init__(self, d_in: int, d_sae: int, generator: torch.Generator | None = None):
        super().__init__()
        directions = torch.empty(d_sae, d_in).normal_(0, L1_INIT, generator=generator)
        self.W_enc, self.b_enc = (
            nn.Parameter(directions.clone().t()),
            nn.Parameter(torch.zeros(d_sae)),
        )
        self.W_dec = nn.Parameter(directions)
        self.penalty = torch.zeros(())
        self.d_sae = d_sae

    def forward(self, x: Float[Tensor, "batch d_in"]) -> Reconstruction:
        acts = (x @ self.W_enc + self.b_enc).relu()
        self.penalty = (acts * self.W_dec.norm(dim=1)).mean()
        return Reconstruction(
            acts @ self.W_dec,
            Codes(acts, torch.arange(self.d_sae, device=x.device).expand(acts.shape)),
        )


def l1_on_error(base: ModelConfig) -> L1SAE:
    """The released code's control: an `L1SAE` as wide as the first SAE, fitted to its error; from the store if it is there.

    Only the steps with a learning rate above 0 are made, a fifth of the budget. The penalty has weight 1 from the start (there: after a ramp).
    """
    whole = base.train
    settings = TrainConfig(
        n_tokens=max(whole.batch_tokens, int(whole.n_tokens * L1_STEP_SHARE)),
        batch_tokens=whole.batch_tokens,
        lr=whole.lr * L1_LR_SHARE,
        lr_end_factor=0.0,
        decay_fraction=1.0,
        adam_eps=1e-5,
        clip_norm=1e9,
        first_position=whole.first_position,
        holdout_share=whole.holdout_share,
        seed=whole.seed,
    )
    identity = {"l1_on_error": to_json(base), "train": to_json(settings)}
    acts, _ = runs.training_tokens(base)
    model = L1SAE(acts.d_in, base.sae.d_sae, torch.Generator().manual_seed(settings.seed)).to(
        store.device()
    )
    if not store.exists("l1_sae", identity):
        batches = acts.batches(settings.n_tokens, settings.batch_tokens, settings.seed)
        first = runs.get(base).model
        train.fit(
            model,
            batches.map(lambda x: x - first(x).x_hat),
            settings,
            lambda x_hat, x: train.mse(x_hat, x) + model.penalty,
            label="L1 SAE",
        )
        with store.create("l1_sae", identity, seed=settings.seed) as folder:
            save_file(
                {name: value.contiguous() for name, value in model.state_dict().items()},
                folder / "model.safetensors",
            )
    model.load_state_dict(load_file(store.load("l1_sae", identity).file("model.safetensors")))
    return model.requires_grad_(False).eval()
