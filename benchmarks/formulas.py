"""What the operations of `featint.kernels.sparse` compute, written down plainly: for tests to compare
with, and for timings."""

import torch

from featint.kernels.sparse import Codes


def encode(x, W_enc, b_enc, k) -> Codes:
    """The formula of `encode`."""
    pre_acts = torch.relu(x @ W_enc + b_enc)
    return Codes(*pre_acts.topk(k))


def decode(codes, W):
    """The formula of `decode`."""
    return codes.dense(len(W)) @ W


def decode_sum(codes, tables):
    """The formula of `decode_sum`."""
    return sum(decode(codes, W) for W in tables)


def bi_interaction(codes, V):
    """The double sum of `bi_interaction`, over every pair of a token's entries."""
    vectors = codes.acts[..., None] * V[codes.indices]  # (batch, k, d_factor)
    i, j = torch.triu_indices(vectors.shape[1], vectors.shape[1], 1)
    return (vectors[:, i] * vectors[:, j]).sum(1)
