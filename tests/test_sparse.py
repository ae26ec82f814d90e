"""The sparse operations against their dense references, values and every gradient, in float64."""

import pytest
import torch

from benchmarks import formulas
from featint.kernels import loops, sparse
from featint.kernels.sparse import Codes

D_IN, D_SAE, D_FACTOR, K = 6, 40, 5, 7


@pytest.fixture(params=["compiled", "plain"], autouse=True)
def implementation(request, monkeypatch):
    """Each test runs with the compiled kernels and in plain PyTorch."""
    if request.param == "compiled":
        if loops.library() is None:
            pytest.skip("no C++ compiler; un-skip by installing g++ or clang++ with OpenMP")
    else:
        monkeypatch.setattr(loops, "library", lambda: None)
    return request.param


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def make_codes(case: str) -> Codes:
    acts, indices = (
        random(9, K).abs(),
        torch.stack([random(D_SAE, seed=i).argsort()[:K] for i in range(9)]),
    )
    if case == "few positive":
        acts[:, 3:] = 0
    if case == "none positive":
        acts[:] = 0
    if case == "repeated":  # one feature in every token, and twice in some
        indices[:, 0] = 5
        indices[::2, 1] = 5
    if case == "empty":
        acts, indices = acts[:0], indices[:0]
    return Codes(acts, indices)


def agree(fast, slow, *leaves, **tolerance):
    """Both functions of the leaves give the same values and the same gradient for each leaf that requires one."""
    outs, grads = [], []
    for f in (fast, slow):
        copies = [leaf.detach().clone().requires_grad_(leaf.requires_grad) for leaf in leaves]
        out = f(*copies)
        (out * random(*out.shape, seed=9).to(out.dtype)).sum().backward()
        outs.append(out.detach())
        grads.append([c.grad for c in copies])
    torch.testing.assert_close(*outs, **tolerance)
    for ours, reference in zip(*grads, strict=True):
        torch.testing.assert_close(ours, reference, **tolerance)


def encoder(case: str):
    x, W_enc, b_enc = random(9, D_IN), random(D_IN, D_SAE, seed=1), random(D_SAE, seed=2)
    if case == "ties":  # features 0..19 and 20..39 are the same
        W_enc, b_enc = torch.cat([W_enc[:, :20]] * 2, 1), torch.cat([b_enc[:20]] * 2)
    if case == "few positive":
        b_enc -= 3.5
    if case == "none positive":
        b_enc -= 100
    if case == "empty":
        x = x[:0]
    return [t.requires_grad_() for t in (x, W_enc, b_enc)]


@pytest.mark.parametrize("case", ["plain", "few positive", "none positive", "empty"])
@pytest.mark.parametrize("rows", [2, 512])
def test_encode(case, rows, monkeypatch):
    monkeypatch.setattr(sparse, "ROWS", rows)
    leaves = encoder(case)
    positive = (leaves[0] @ leaves[1] + leaves[2] > 0).sum(1)
    assert (positive < K).any() == (case in ("few positive", "none positive"))

    def dense(f):
        return lambda *leaves: f(*leaves, K).dense(D_SAE)

    agree(dense(sparse.encode), dense(formulas.encode), *leaves)
    codes = sparse.encode(*leaves, K)
    assert codes.acts.shape == codes.indices.shape == (len(leaves[0]), K)
    assert (codes.acts >= 0).all()


def test_encode_ties():
    x, W_enc, b_enc = encoder("ties")
    codes, reference = sparse.encode(x, W_enc, b_enc, K), formulas.encode(x, W_enc, b_enc, K)
    torch.testing.assert_close(
        codes.acts.sort(1).values, reference.acts.sort(1).values
    )  # which twin is taken is left open
    torch.testing.assert_close(codes.acts, torch.relu(x @ W_enc + b_enc).gather(1, codes.indices))
    assert all(len(set(row)) == K for row in codes.indices.tolist())
    codes.acts.sum().backward()
    times = torch.zeros(D_SAE, dtype=torch.float64).index_add_(
        0, codes.indices.flatten(), (codes.acts > 0).double().flatten()
    )
    torch.testing.assert_close(b_enc.grad, times)


CASES = ["plain", "few positive", "none positive", "repeated", "empty"]


@pytest.mark.parametrize("case", CASES)
def test_decode(case):
    codes, W = make_codes(case), random(D_SAE, D_IN, seed=3).requires_grad_()

    def on(f):
        return lambda acts, W: f(Codes(acts, codes.indices), W)

    agree(on(sparse.decode), on(formulas.decode), codes.acts.requires_grad_(), W)


@pytest.mark.parametrize("case", CASES)
def test_decode_sum(case):
    codes, tables = make_codes(case), [random(D_SAE, D_IN, seed=s).requires_grad_() for s in (3, 4)]

    def on(f):
        return lambda acts, *tables: f(Codes(acts, codes.indices), tables)

    agree(on(sparse.decode_sum), on(formulas.decode_sum), codes.acts.requires_grad_(), *tables)


def test_decode_sum_gradients_are_equal_but_not_shared():
    codes, (A, B) = (
        make_codes("plain"),
        [random(D_SAE, D_IN, seed=s).requires_grad_() for s in (3, 4)],
    )
    sparse.decode_sum(codes, [A, B]).square().sum().backward()
    assert torch.equal(A.grad, B.grad)
    assert A.grad.data_ptr() != B.grad.data_ptr()  # clipping one in place must not clip the other


@pytest.mark.parametrize("case", CASES)
def test_bi_interaction(case):
    codes, V = make_codes(case), random(D_SAE, D_FACTOR, seed=3).requires_grad_()

    def on(f):
        return lambda acts, V: f(Codes(acts, codes.indices), V)

    agree(on(sparse.bi_interaction), on(formulas.bi_interaction), codes.acts.requires_grad_(), V)


def test_bi_interaction_needs_two_active_features():
    codes = make_codes("plain")
    codes.acts[:, 1:] = 0
    torch.testing.assert_close(
        sparse.bi_interaction(codes, random(D_SAE, D_FACTOR)),
        torch.zeros(9, D_FACTOR, dtype=torch.float64),
    )


def test_top():
    codes = make_codes("plain")
    top = codes.top(3)
    torch.testing.assert_close(top.acts.sort(1).values, codes.acts.sort(1).values[:, -3:])
    torch.testing.assert_close(top.acts, codes.dense(D_SAE).gather(1, top.indices))
    assert codes.top(K) is codes and codes.top(K + 1) is codes


def test_frozen_weights_get_no_gradient():
    codes, W = make_codes("plain"), random(D_SAE, D_IN)
    codes.acts.requires_grad_()
    sparse.decode(codes, W).sum().backward()
    assert W.grad is None and codes.acts.grad is not None


def test_gradient_lies_in_memory_as_the_encoder_weight_does():
    W_enc = torch.nn.Parameter(torch.randn(D_SAE, D_IN).t())
    sparse.encode(torch.randn(4, D_IN), W_enc, torch.zeros(D_SAE), K).acts.sum().backward()
    assert W_enc.shape == (D_IN, D_SAE) and W_enc.grad.stride() == W_enc.stride() == (1, D_IN)


def test_same_bits_every_time():
    """Threads must not change the order of a sum: enough tokens share a feature that they would."""
    gen = torch.Generator().manual_seed(0)
    x, W_enc, W_dec = (
        torch.randn(*shape, generator=gen) for shape in ((256, 64), (64, 96), (96, 64))
    )
    V = torch.randn(96, 8, generator=gen)

    def step():
        weights = [w.clone().requires_grad_() for w in (W_enc, W_dec, V)]
        codes = sparse.encode(x, weights[0], torch.zeros(96), 32)
        (
            sparse.decode(codes, weights[1]).square().sum()
            + sparse.bi_interaction(codes, weights[2]).square().sum()
        ).backward()
        return [w.grad for w in weights]

    first = step()
    for _ in range(5):
        assert all(map(torch.equal, step(), first))


@pytest.mark.parametrize("closeness", [1, 1e-3, 1e-6])
def test_search_in_bfloat16_is_exact(closeness, monkeypatch):
    """Also where features are so alike that bfloat16 cannot tell them apart, and every token must be searched again."""
    monkeypatch.setattr(loops, "fast_bfloat16", lambda: True)
    x, shared, W_enc = random(70, 24), random(24, 1, seed=1), random(24, 300, seed=2)
    x, W_enc, b_enc = (
        t.float() for t in (x, shared + closeness * W_enc, closeness * random(300, seed=3))
    )
    codes = sparse.encode(x, W_enc, b_enc, 20)
    reference = formulas.encode(x.double(), W_enc.double(), b_enc.double(), 20)
    torch.testing.assert_close(
        codes.acts.sort(1, descending=True).values, reference.acts.float(), rtol=1e-5, atol=1e-5
    )
    if closeness == 1:
        torch.testing.assert_close(
            codes.dense(300), reference.dense(300).float(), rtol=1e-5, atol=1e-5
        )
