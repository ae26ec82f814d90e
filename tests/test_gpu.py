"""The Triton kernels against dense formulas in float64; without a GPU Triton's interpreter runs them (see conftest)."""

import importlib

import pytest
import torch

from featint import store
from featint.kernels import sparse
from featint.kernels.sparse import Codes

gpu = pytest.importorskip("featint.kernels.gpu", reason="Triton is for Linux only")
benchmark = importlib.import_module("benchmarks.gpu")

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


@pytest.mark.parametrize("layout", ["gathered", "dense"])
def test_the_joint_step_and_every_gradient(layout, monkeypatch):
    """As the benchmark does: against dense autograd in float64, for the features and hidden units that the step found active."""
    monkeypatch.setattr(sparse, "_fast", lambda *tensors: gpu)
    errors = benchmark.exactness(layout, (D_IN, D_SAE, K), BATCH)
    assert errors.pop("layout") == layout and errors.pop("chosen_by_both") > 0.95
    assert len(errors) == 11 and max(errors.values()) < 0.01, errors


def test_the_benchmark_asks_for_a_gpu(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(benchmark, "DEVICE", "cpu")
    monkeypatch.setattr("sys.argv", ["gpu", str(tmp_path / "gpu.json")])
    with pytest.raises(SystemExit):
        benchmark.main()
    assert "no CUDA device here" in capsys.readouterr().err and not (tmp_path / "gpu.json").exists()
