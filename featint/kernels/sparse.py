"""Operations on sparse codes, (activation, feature index) pairs: only active rows are touched.

What each computes says a slow reference of the same arguments in `benchmarks.formulas`; tests hold
the two together. A dense TopK step multiplies five (batch, d_in, d_sae) matrices. Here
only the encoder's product is left, and the gradients of encoder, decoder and factor table are all
the same sum over active pairs, `_weight_grad`.
"""

import functools
import logging
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from featint.kernels import loops

ROWS = 512  # tokens encoded at a time, into one buffer: no fresh memory need be paged in


class Codes(NamedTuple):
    """The active features of each token; an activation of 0: fewer than k were positive."""

    acts: Float[Tensor, "batch k"]
    """Activations, at least 0, in no particular order."""
    indices: Int64[Tensor, "batch k"]
    """The features they belong to."""

    def top(self, n: int) -> "Codes":
        """The n largest activations of each token, or all if there are no more than n."""
        if n >= self.acts.shape[1]:
            return self
        places = self.acts.detach().topk(n, sorted=False).indices
        return Codes(self.acts.gather(1, places), self.indices.gather(1, places))

    def dense(self, d_sae: int) -> Float[Tensor, "batch d_sae"]:
        """The codes as vectors of all features. For analysis: it needs batch x d_sae floats."""
        return self.acts.new_zeros(len(self.acts), d_sae).scatter_add(1, self.indices, self.acts)


def encode(
    x: Float[Tensor, "batch d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    k: int,
) -> Codes:
    """TopK(ReLU(x @ W_enc + b_enc)) (section 3.2).

    An entry that ReLU sent to 0 gets no gradient, nor do those below the k largest.
    """
    return Codes(*_Encode.apply(x, W_enc, b_enc, k))


def decode(codes: Codes, W: Float[Tensor, "d_sae d_out"]) -> Float[Tensor, "batch d_out"]:
    """codes @ W."""
    return _Decode.apply(*codes, W)


def decode_sum(
    codes: Codes, tables: Sequence[Float[Tensor, "d_sae d_out"]]
) -> Float[Tensor, "batch d_out"]:
    """codes @ W summed over the tables.

    Their gradients are the same number for number, so they are computed once.
    """
    return _Decode.apply(*codes, *tables)


def bi_interaction(
    codes: Codes, V: Float[Tensor, "d_sae d_factor"]
) -> Float[Tensor, "batch d_factor"]:
    """Sum over pairs i < j of active features of a_i a_j V_i * V_j (He & Chua 2017).

    As ((sum a V)^2 - sum (a V)^2) / 2.
    """
    return _BiInteraction.apply(*codes, V)


def prepare_cpu() -> None:
    """Settle two things that make training on the CPU slow; they hold for the whole process.

    Numbers below 1e-38, of which Adam's moments have many, cost a hundred times an ordinary one:
    they are rounded to 0. And gradients are made anew in every step: the C library (glibc) is told
    to keep their memory instead of returning it, because fresh memory is an eighth as fast.
    """
    torch.set_flush_denormal(True)
    loops.keep_memory()


class _Encode(Function):
    @staticmethod
    def forward(ctx, x, W_enc, b_enc, k):
        acts, indices = _top_pre_acts(x, W_enc, b_enc, k)
        acts.relu_()
        ctx.save_for_backward(x, W_enc, acts, indices)
        ctx.mark_non_differentiable(indices)
        return acts, indices

    @staticmethod
    @once_differentiable
    def backward(ctx, d_acts, _):
        x, W_enc, acts, indices = ctx.saved_tensors
        d_acts = d_acts * (acts > 0)
        d_x = d_W = d_b = None
        if ctx.needs_input_grad[0]:
            d_x = _bag(d_acts, indices, W_enc.T)
        if ctx.needs_input_grad[1]:
            d_W = _weight_grad(x, d_acts, indices, W_enc.shape[1]).T
        if ctx.needs_input_grad[2]:
            d_b = x.new_zeros(W_enc.shape[1]).index_add_(0, indices.flatten(), d_acts.flatten())
        return d_x, d_W, d_b, None


class _Decode(Function):
    @staticmethod
    def forward(ctx, acts, indices, *tables):
        table = sum(tables[1:], tables[0])
        ctx.save_for_backward(acts, indices, table)
        return _bag(acts, indices, table)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out):
        acts, indices, table = ctx.saved_tensors
        d_acts = _row_dots(d_out, indices, table) if ctx.needs_input_grad[0] else None
        d_table = None
        if any(ctx.needs_input_grad[2:]):
            d_table = _weight_grad(d_out, acts, indices, len(table))
        return d_acts, None, *(d_table if needed else None for needed in ctx.needs_input_grad[2:])


class _BiInteraction(Function):
    @staticmethod
    def forward(ctx, acts, indices, V):
        total = _bag(acts, indices, V)
        ctx.save_for_backward(acts, indices, V, total)
        return (total.square() - _bag(acts.square(), indices, V.square())) / 2

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out):
        acts, indices, V, total = ctx.saved_tensors
        d_total = d_out * total
        d_acts = d_V = None
        if ctx.needs_input_grad[0]:
            d_acts = _row_dots(d_total, indices, V) - acts * _row_dots(d_out, indices, V.square())
        if ctx.needs_input_grad[2]:
            squares = _weight_grad(d_out, acts.square(), indices, len(V))
            d_V = _weight_grad(d_total, acts, indices, len(V)) - V * squares
        return d_acts, None, d_V


def _fast(*tensors: Tensor) -> ModuleType | None:
    """The module that holds faster kernels for these: in C++ for the CPU, in Triton for CUDA."""
    if all(t.is_cuda and t.dtype == torch.float32 for t in tensors):
        return _triton()
    return loops if loops.usable(*tensors) else None


@functools.cache
def _triton() -> ModuleType | None:
    try:
        from featint.kernels import gpu
    except ImportError as e:
        logging.getLogger(__name__).warning("training runs in plain PyTorch on this GPU: %s", e)
        return None
    return gpu


def _top_pre_acts(x, W_enc, b_enc, k):
    """The k largest of x @ W_enc + b_enc and their features, (batch, k) each, block by block."""
    fast = _fast(x, W_enc, b_enc)
    if fast is not None and fast is not loops:
        return fast.top_pre_acts(x, W_enc, b_enc, k)
    compiled = fast is loops
    n = k + max(8, k // 4)  # candidates of a search in bfloat16
    many = 8 * n <= W_enc.shape[1]  # with fewer features it does not pay
    if compiled and many and x.dtype == torch.float32 and loops.fast_bfloat16():
        find = _search(x, W_enc, b_enc, k, n)
    else:
        pre_acts = x.new_empty(min(len(x), ROWS), W_enc.shape[1])

        def find(rows):
            block = torch.addmm(b_enc, rows, W_enc, out=pre_acts[: len(rows)])
            return loops.top(block, k) if compiled else torch.topk(block, k, sorted=False)

    acts = x.new_empty(len(x), k)
    indices = torch.empty(len(x), k, dtype=torch.int64, device=x.device)
    for start in range(0, len(x), ROWS):
        rows = slice(start, start + ROWS)
        acts[rows], indices[rows] = find(x[rows])
    return acts, indices


def _search(x, W_enc, b_enc, k, n):
    """A function that finds the k largest pre-activations of (tokens, d_in) with help of bfloat16.

    It computes the n candidates of a product in bfloat16 again in float32, so the values are as
    exact as ever. A feature is missed only if its own rounding error is twice that of any
    candidate; a token whose k-th value is so close to the last candidate that less would do is
    searched in float32.
    """
    features, narrow = W_enc.T.contiguous(), W_enc.T.bfloat16()
    narrow_bias = b_enc.bfloat16()
    pre_acts = x.new_empty(min(len(x), ROWS), W_enc.shape[1], dtype=torch.bfloat16)

    def find(rows):
        block = torch.addmm(narrow_bias, rows.bfloat16(), narrow.T, out=pre_acts[: len(rows)])
        rough, candidates = loops.top(block, n)
        exact = loops.row_dots(rows, candidates, features) + b_enc[candidates]
        acts, places = loops.top(exact, k)
        indices = candidates.gather(1, places)
        unsure = acts.amin(1) < rough.amin(1) + 2 * (rough - exact).abs().amax(1)
        if unsure.any():
            acts[unsure], indices[unsure] = loops.top(torch.addmm(b_enc, rows[unsure], W_enc), k)
        return acts, indices

    return find


def _bag(acts, indices, table):
    """Sum over k of acts[b, k] * table[indices[b, k]]: (batch, d)."""
    if fast := _fast(acts, table):
        return fast.bag(acts, indices, table)
    return F.embedding_bag(indices, table.contiguous(), per_sample_weights=acts, mode="sum")


def _row_dots(rows, indices, table):
    """rows[b] . table[indices[b, k]]: (batch, k)."""
    if fast := _fast(rows, table):
        return fast.row_dots(rows, indices, table)
    acts = rows.new_zeros(indices.shape)
    return _gradient(lambda acts: _bag(acts, indices, table), acts, rows)


def _weight_grad(rows, acts, indices, d_sae):
    """Sum over b, k of acts[b, k] * rows[b] into row indices[b, k]: (d_sae, d)."""
    if fast := _fast(rows, acts):
        return fast.weight_grad(rows, acts, indices, d_sae)
    table = rows.new_zeros(d_sae, rows.shape[1])
    return _gradient(lambda table: _bag(acts, indices, table), table, rows)


@torch.enable_grad()
def _gradient(function, at, d_out):
    """By PyTorch's own rules, of a linear function: where `at` is makes no difference."""
    return torch.autograd.grad(function(at.requires_grad_()), at, d_out)[0]
