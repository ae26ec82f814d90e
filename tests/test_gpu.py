"""The Triton kernels against dense formulas in float64; without a GPU Triton's interpreter runs them (see conftest)."""

import pytest
import torch

from featint import store, train
from featint.config import NFMConfig, SAEConfig
from featint.joint import JointSAE
from featint.kernels import sparse
from featint.kernels.sparse import Codes
from featint.nfm import NFM
from featint.sae import TopKSAE

gpu = pytest.importorskip("featint.kernels.gpu", reason="Triton is for Linux only")

BATCH, D_IN, D_SAE, K = 6, 300, 60, 20  # 300 is no multiple of 8: columns are padded
DEVICE = store.device()


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def close(ours, reference):
    """Within bfloat16's rounding: each operand is off by 2^-9 at most."""
    assert ours.dtype == torch.float32 and ours.shape == reference.shape
    assert (ours.double() - reference).norm() <= 2**-7 * reference.norm()


@pytest.fixture(params=["gathered", "dense"])
def layout(request, monkeypatch):
    monkeypatch.setattr(gpu, "DENSE", {"gathered": 2.0, "dense": 0.0}[request.param])


def make_codes(case: str) -> Codes:
    acts = random(BATCH, K, seed=1).abs()
    indices = torch.stack([random(D_SAE, seed=i).argsort()[:K] for i in range(BATCH)])
    if case == "some silent":
        acts[:, 3:] = 0
    if case == "repeated":  # one feature in every token, and twice in some
        indices[:, 0], indices[::2, 1] = 5, 5
    if case == "empty":
        acts, indices = acts[:0], indices[:0]
    return Codes(acts, indices)


@pytest.mark.parametrize("case", ["plain", "some silent", "repeated", "empty"])
def test_products_with_sparse_codes(case, layout):
    codes, table, rows = make_codes(case), random(D_SAE, D_IN, seed=3), random(BATCH, D_IN, seed=4)
    rows, dense = rows[: len(codes.acts)], codes.dense(D_SAE).double()
    close(gpu.bag(*codes, table), dense @ table.double())
    dots = (rows.double() @ table.T.double()).gather(1, codes.indices)
    close(gpu.row_dots(rows, codes.indices, table), dots)
    close(gpu.weight_grad(rows, *codes, D_SAE), dense.T @ rows.double())


def test_the_joint_step_and_every_gradient(layout, monkeypatch):
    """Against dense autograd in float64, for the features that the step itself chose."""
    monkeypatch.setattr(sparse, "_fast", lambda *tensors: gpu)
    generator = torch.Generator().manual_seed(0)
    nfm = NFM(D_IN, D_SAE, NFMConfig(d_factor=9, dropout=0.0), generator)
    model, x = (
        JointSAE(TopKSAE(D_IN, SAEConfig(d_sae=D_SAE, k=K), generator), nfm).to(DEVICE),
        random(BATCH, D_IN),
    )
    x_hat, codes = model(x)
    train.mse(x_hat, x).backward()
    p = {name: q.detach().double().requires_grad_() for name, q in model.named_parameters()}
    acts = (x.double() @ p["sae.W_enc"] + p["sae.b_enc"]).gather(1, codes.indices).relu()
    c = acts.new_zeros(BATCH, D_SAE).scatter(1, codes.indices, acts)
    V, decoder = p["nfm.V"], p["sae.W_dec"] + p["nfm.W_lin"]
    hidden = ((c @ V).square() - c.square() @ V.square()) / 2 @ p["nfm.W_hidden"] + p[
        "nfm.b_hidden"
    ]
    reference = c @ decoder + p["nfm.b_lin"] + hidden.relu() @ p["nfm.W_out"] + p["nfm.b_out"]
    train.mse(reference, x.double()).backward()
    close(x_hat, reference)
    for name, parameter in model.named_parameters():
        error = (parameter.grad.double() - p[name].grad).norm() / p[name].grad.norm()
        assert error < 0.02, f"{name}: {error:.3g}"
