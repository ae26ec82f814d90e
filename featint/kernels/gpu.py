"""The sparse operations on a CUDA device: products of bfloat16, sums and results in float32.

Where a large share of the features is active, codes are laid out as vectors and multiplied by the
tensor cores; where few are, Triton kernels read the active rows alone. `benchmarks/gpu.py`
measured where the one overtakes the other. Triton comes with PyTorch's builds for CUDA.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

DENSE = 0.012
"""From this share of active features on, k / d_sae, vectors of all features are faster."""
ROWS = 8192  # tokens encoded at a time


def top_pre_acts(x: Tensor, W_enc: Tensor, b_enc: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of x @ W_enc + b_enc, rounded to bfloat16, and their features: (batch, k)."""
    narrow, bias = W_enc.bfloat16(), b_enc.bfloat16()
    blocks = (torch.addmm(bias, rows.bfloat16(), narrow) for rows in x.split(ROWS))
    top = [block.topk(k, sorted=False) for block in blocks]
    return torch.cat([t.values for t in top]).float(), torch.cat([t.indices for t in top])


def bag(acts: Tensor, indices: Tensor, table: Tensor) -> Tensor:
    """Sum over k of acts[b, k] * table[indices[b, k]]: (batch, d)."""
    (batch, k), (d_sae, d), table = indices.shape, table.shape, narrow(table)
    if many(indices, d_sae):
        return (vectors(acts, indices, d_sae) @ table)[:, :d].float()
    out, width = acts.new_empty(batch, d), min(1024, triton.next_power_of_2(d))
    programs = _bag[batch, triton.cdiv(d, width)]
    programs(acts.contiguous(), indices, table, out, k, d, table.shape[1], WIDTH=width)
    return out


def row_dots(rows: Tensor, indices: Tensor, table: Tensor) -> Tensor:
    """rows[b] . table[indices[b, k]]: (batch, k)."""
    rows, table = narrow(rows), narrow(table)
    if many(indices, len(table)):
        return (rows @ table.T).gather(1, indices).float()
    (batch, k), d = indices.shape, table.shape[1]
    out = torch.empty(batch, k, device=rows.device)
    _row_dots[batch, triton.cdiv(k, 16)](rows, indices, table, out, k, d, WIDTH=128)
    return out


def weight_grad(rows: Tensor, acts: Tensor, indices: Tensor, d_sae: int) -> Tensor:
    """Sum over b, k of acts[b, k] * rows[b] into row indices[b, k]: (d_sae, d)."""
    k, d, rows = indices.shape[1], rows.shape[1], narrow(rows)
    if many(indices, d_sae):
        return (vectors(acts, indices, d_sae).T @ rows)[:, :d].float()
    features, order = indices.flatten().int().sort()  # the entries of a feature side by side
    starts = torch.searchsorted(features, torch.arange(d_sae + 1, device=rows.device).int())
    out, width = acts.new_empty(d_sae, d), min(1024, triton.next_power_of_2(d))
    programs = _weight_grad[d_sae, triton.cdiv(d, width)]
    tokens, acts = order // k, acts.flatten()[order]
    programs(rows, tokens, acts, starts, out, d, rows.shape[1], WIDTH=width)
    return out


def narrow(rows: Tensor) -> Tensor:
    """In bfloat16, with columns of zeros up to a multiple of eight, without which the products
    take several times as long."""
    return F.pad(rows.bfloat16(), (0, -rows.shape[1] % 8)).contiguous()


def many(indices: Tensor, d_sae: int) -> bool:
    """Whether so large a share of the features is active that vectors of all are faster."""
    return indices.shape[1] >= DENSE * d_sae


def vectors(acts: Tensor, indices: Tensor, d_sae: int) -> Tensor:
    """The codes as vectors of all features, (batch, d_sae), bfloat16."""
    empty = torch.zeros(len(acts), d_sae, dtype=torch.bfloat16, device=acts.device)
    return empty.scatter_add_(1, indices, acts.bfloat16())


@triton.jit
def _bag(acts, indices, table, out, k, d, stride, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    total = tl.zeros((WIDTH,), tl.float32)
    for entry in range(row * k, row * k + k):
        at = tl.load(indices + entry) * stride + columns
        line = tl.load(table + at, mask=columns < d, other=0).to(tl.float32)
        total += tl.load(acts + entry) * line
    tl.store(out + row * d + columns, total, mask=columns < d)


@triton.jit
def _row_dots(rows, indices, table, out, k, d, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    entries = tl.program_id(1) * 16 + tl.arange(0, 16)
    features = tl.load(indices + row * k + entries, mask=entries < k, other=0)
    total = tl.zeros((16, WIDTH), tl.float32)
    for start in range(0, d, WIDTH):
        columns = start + tl.arange(0, WIDTH)
        inside = columns < d
        ours = tl.load(rows + row * d + columns, mask=inside, other=0).to(tl.float32)
        at = features[:, None] * d + columns[None, :]
        total += ours[None, :] * tl.load(table + at, mask=inside[None, :], other=0).to(tl.float32)
    tl.store(out + row * k + entries, tl.sum(total, 1), mask=entries < k)


@triton.jit
def _weight_grad(rows, tokens, acts, starts, out, d, stride, WIDTH: tl.constexpr):
    feature = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    total = tl.zeros((WIDTH,), tl.float32)
    for entry in range(tl.load(starts + feature), tl.load(starts + feature + 1)):
        at = tl.load(tokens + entry) * stride + columns
        line = tl.load(rows + at, mask=columns < d, other=0).to(tl.float32)
        total += tl.load(acts + entry) * line
    tl.store(out + feature * d + columns, total, mask=columns < d)
