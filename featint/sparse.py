"""Operations on sparse codes, (activation, feature index) pairs: none of them touches more than the k active rows of a weight.

Each has a slow reference of the same arguments next to it, `dense_*`, that says what it computes; tests hold the two together.
A dense TopK step multiplies five (batch, d_in, d_sae) matrices. Here only the encoder's product is left, and the gradients of
encoder, decoder and factor table are all the same sum over active pairs, `_weight_grad`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

ROWS = 512  # tokens encoded at a time: their pre-activations stay in one buffer, so that fresh memory need not be paged in


class Codes(NamedTuple):
    """The active features of each token; an activation of 0 means that fewer than k were positive."""

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


def encode(x: Float[Tensor, "batch d_in"], W_enc: Float[Tensor, "d_in d_sae"], b_enc: Float[Tensor, " d_sae"], k: int) -> Codes:
    """TopK(ReLU(x @ W_enc + b_enc)) (section 3.2). An entry that ReLU sent to 0 gets no gradient, nor do those below the k largest."""
    return Codes(*_Encode.apply(x, W_enc, b_enc, k))


def dense_encode(x, W_enc, b_enc, k) -> Codes:
    """The formula of `encode`."""
    pre_acts = torch.relu(x @ W_enc + b_enc)
    return Codes(*pre_acts.topk(k))


def decode(codes: Codes, W: Float[Tensor, "d_sae d_out"]) -> Float[Tensor, "batch d_out"]:
    """codes @ W."""
    return _Decode.apply(*codes, W)


def dense_decode(codes, W):
    """The formula of `decode`."""
    return codes.dense(len(W)) @ W


def decode_sum(codes: Codes, tables: Sequence[Float[Tensor, "d_sae d_out"]]) -> Float[Tensor, "batch d_out"]:
    """codes @ W summed over the tables. Their gradients are the same number for number, so they are computed once."""
    return _Decode.apply(*codes, *tables)


def dense_decode_sum(codes, tables):
    """The formula of `decode_sum`."""
    return sum(dense_decode(codes, W) for W in tables)


def bi_interaction(codes: Codes, V: Float[Tensor, "d_sae d_factor"]) -> Float[Tensor, "batch d_factor"]:
    """Sum over pairs i < j of active features of a_i a_j V_i * V_j, as ((sum a V)^2 - sum (a V)^2) / 2 (He & Chua 2017)."""
    return _BiInteraction.apply(*codes, V)


def dense_bi_interaction(codes, V):
    """The double sum of `bi_interaction`, over every pair of a token's entries."""
    vectors = codes.acts[..., None] * V[codes.indices]  # (batch, k, d_factor)
    i, j = torch.triu_indices(vectors.shape[1], vectors.shape[1], 1)
    return (vectors[:, i] * vectors[:, j]).sum(1)


def encoder_weight(d_in: int, d_sae: int) -> Float[Tensor, "d_in d_sae"]:
    """Uninitialised memory for `W_enc`: of shape (d_in, d_sae), but a feature's weights lie next to each other, as the gradient's do."""
    return torch.empty(d_sae, d_in).T


def flush_denormals() -> None:
    """Let the CPU round numbers below 1e-38 to 0. They appear in Adam's moments, and cost a hundred times an ordinary number."""
    torch.set_flush_denormal(True)


class _Encode(Function):
    @staticmethod
    def forward(ctx, x, W_enc, b_enc, k):
        acts, indices = x.new_empty(len(x), k), torch.empty(len(x), k, dtype=torch.int64, device=x.device)
        pre_acts = x.new_empty(min(len(x), ROWS), W_enc.shape[1])
        for start in range(0, len(x), ROWS):
            rows = slice(start, start + ROWS)
            block = torch.addmm(b_enc, x[rows], W_enc, out=pre_acts[: len(x[rows])])
            torch.topk(block, k, sorted=False, out=(acts[rows], indices[rows]))
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
        table = tables[0] if len(tables) == 1 else torch.stack(tables).sum(0)
        ctx.save_for_backward(acts, indices, table)
        return _bag(acts, indices, table)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out):
        acts, indices, table = ctx.saved_tensors
        d_acts = _row_dots(d_out, indices, table) if ctx.needs_input_grad[0] else None
        d_table = _weight_grad(d_out, acts, indices, len(table)) if any(ctx.needs_input_grad[2:]) else None
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
            d_V = _weight_grad(d_total, acts, indices, len(V)) - V * _weight_grad(d_out, acts.square(), indices, len(V))
        return d_acts, None, d_V


def _bag(acts, indices, table):
    """Sum over k of acts[b, k] * table[indices[b, k]]: (batch, d)."""
    return F.embedding_bag(indices, table.contiguous(), per_sample_weights=acts, mode="sum")


def _row_dots(rows, indices, table):
    """rows[b] . table[indices[b, k]]: (batch, k)."""
    dots = rows.new_empty(indices.shape)
    for start in range(0, len(rows), ROWS // 8):  # few tokens at a time: the gathered rows take batch x k x d floats
        part = slice(start, start + ROWS // 8)
        torch.bmm(table[indices[part]], rows[part, :, None], out=dots[part, :, None])
    return dots


def _weight_grad(rows, acts, indices, d_sae):
    """Sum over b, k of acts[b, k] * rows[b] into row indices[b, k]: (d_sae, d)."""
    batch, k = indices.shape
    bag = torch.arange(batch, device=rows.device).repeat_interleave(k)
    size = torch.full((batch,), k, device=rows.device)
    return torch.ops.aten._embedding_bag_dense_backward(
        rows.contiguous(), indices.flatten(), bag, size, size, d_sae, False, 0, acts.flatten()
    )
