"""The compiled kernels as a thing that may be missing, and the one among them that PyTorch has too."""

import logging
import shutil

import pytest
import torch

from featint.kernels import loops, sparse


@pytest.fixture
def compiled():
    if loops.library() is None:
        pytest.skip("no C++ compiler; un-skip by installing g++ or clang++ with OpenMP")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (7, 7), (100, 3), (1000, 64), (4099, 84)])
def test_top(n, k, dtype, compiled):
    x = torch.randn(20, n, generator=torch.Generator().manual_seed(0)).to(
        dtype
    )  # in bfloat16 with many ties
    values, columns = loops.top(x, k)
    torch.testing.assert_close(
        values.sort(1, descending=True).values, x.topk(k).values.to(values.dtype), rtol=0, atol=0
    )
    assert torch.equal(x.gather(1, columns).to(values.dtype), values)
    assert (columns.diff(dim=1) > 0).all()


def test_top_passes_nan_on(compiled):
    assert loops.top(torch.full((3, 50), torch.nan), 4)[0].isnan().all()


def test_codes_outside_the_table_are_refused(compiled):
    acts, table = torch.ones(2, 3), torch.ones(10, 4)
    with pytest.raises(IndexError, match="range from 0 to 10, but there are 10"):
        loops.bag(acts, torch.tensor([[0, 1, 10], [0, 1, 2]]), table)
    with pytest.raises(IndexError, match="range from -1"):
        loops.bag(acts, torch.tensor([[0, 1, -1], [0, 1, 2]]), table)
    with pytest.raises(ValueError, match="must be the same"):
        loops.bag(acts, torch.zeros(2, 2, dtype=torch.int64), table)


def test_mixed_precision_is_left_to_pytorch(compiled):
    x = torch.ones(1)
    assert loops.usable(x, x)
    assert (
        not loops.usable(x, x.double())
        and not loops.usable(x.bfloat16())
        and not loops.usable(x.to("meta"))
    )


def test_no_compiler_is_noted(monkeypatch, caplog):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with caplog.at_level(logging.WARNING):
        assert loops.library.__wrapped__() is None
    assert "no C++ compiler" in caplog.text and "half the speed" in caplog.text


def test_failing_compiler_is_noted(monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("FEATINT_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", "false")
    with caplog.at_level(logging.WARNING):
        assert loops.library.__wrapped__() is None
    assert "there are no kernels" in caplog.text
    assert not list((tmp_path / "kernels").iterdir())


@pytest.mark.parametrize(
    "compiler",
    [
        "sh -c 'exit 1'",  # not a word
        "sh -c 'echo >&2; exit 1'",
        "sh -c 'exit 0'",  # nothing written
        """sh -c 'for f; do :; done; echo text > "$f"'""",  # no library
        "g++ 'unclosed",
        " ",
        "/nowhere/g++",
    ],
)
def test_a_compiler_that_fails_in_its_own_way_is_noted(compiler, monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("FEATINT_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", compiler)
    with caplog.at_level(logging.WARNING):
        assert loops.library.__wrapped__() is None
    assert "there are no kernels" in caplog.text and "plain PyTorch" in caplog.text
    assert not list(tmp_path.rglob("*.so")), "the next compiler starts anew"


def test_compiled_once(monkeypatch, tmp_path, compiled):
    monkeypatch.setenv("FEATINT_CACHE", str(tmp_path))
    assert loops.library.__wrapped__() is not None
    (folder,) = (tmp_path / "kernels").iterdir()
    made = folder.stat().st_mtime_ns
    assert loops.library.__wrapped__() is not None
    assert [f.stat().st_mtime_ns for f in (tmp_path / "kernels").iterdir()] == [made]


def test_training_flushes_denormals():
    sparse.prepare_cpu()
    try:
        assert torch.tensor([1e-38]).mul(0.01).item() == 0
    finally:
        torch.set_flush_denormal(False)
    assert torch.tensor([1e-38]).mul(0.01).item() > 0
