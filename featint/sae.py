"""The TopK sparse autoencoder (paper, Methods: primary and secondary SAE)."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from featint.config import SAEConfig
from featint.kernels import sparse
from featint.kernels.sparse import Codes


class Reconstruction(NamedTuple):
    """What every model returns for a batch of activations."""

    x_hat: Float[Tensor, "batch d_in"]
    """The reconstruction."""
    codes: Codes
    """The `k` active features of each token and their values."""


class TopKSAE(nn.Module):
    r"""A sparse autoencoder that keeps the `k` most active features of each token.

    .. math::
        \mathrm{codes} = \mathrm{TopK}(\mathrm{ReLU}(x W_{enc} + b_{enc})), \qquad
        \hat x = \mathrm{codes}\, W_{dec} \; [+ b_{dec}]

    Feature i writes the direction `W_dec[i]`. As in the released code the encoder starts as the
    decoder's transpose, drawn from U(-1/sqrt(d_sae), 1/sqrt(d_sae)), and nothing holds the
    directions' norms during training. The paper's SAE has no `b_dec`.

    A finished one with thresholds (`foreign`) keeps the k largest
    :math:`\mathrm{ReLU}(\mathrm{gain}\, u + \mathrm{offset})` of the features whose
    :math:`u = x W_{enc} + b_{enc}` is above 0. Standard SAEs have gain 1 and offset 0, JumpReLU
    SAEs their threshold as the offset, gated SAEs both.
    """

    def __init__(self, d_in: int, config: SAEConfig, generator: torch.Generator | None = None):
        super().__init__()
        self.config = config
        bound = config.d_sae**-0.5
        directions = torch.empty(config.d_sae, d_in).uniform_(-bound, bound, generator=generator)
        # (d_in, d_sae), stored row per feature: see featint.kernels.sparse
        self.W_enc = nn.Parameter(directions.clone().t())
        self.b_enc = nn.Parameter(torch.zeros(config.d_sae))
        self.W_dec = nn.Parameter(directions)  # (d_sae, d_in)
        self.b_dec = nn.Parameter(torch.zeros(d_in)) if config.decoder_bias else None
        if config.threshold:
            self.register_buffer("gain", torch.ones(config.d_sae))
            self.register_buffer("offset", torch.zeros(config.d_sae))

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return self.config.d_sae

    def encode(self, x: Float[Tensor, "batch d_in"]) -> Codes:
        """The `k` largest feature activations of each token; beside thresholds as many columns as
        the token with most of them needs."""
        if self.config.threshold:
            u = torch.addmm(self.b_enc, x, self.W_enc)
            acts = torch.where(u > 0, (self.gain * u + self.offset).relu(), 0.0)
            most = int((acts > 0).sum(1).max()) if len(x) else 0
            return Codes(*acts.topk(max(1, min(most, self.config.k))))
        return sparse.encode(x, self.W_enc, self.b_enc, self.config.k)

    def decode(self, codes: Codes) -> Float[Tensor, "batch d_in"]:
        """The sum of the active features' directions, weighted by their activations."""
        x_hat = sparse.decode(codes, self.W_dec)
        return x_hat if self.b_dec is None else x_hat + self.b_dec

    def parts(self, codes: Codes) -> dict[str, Float[Tensor, "batch d_in"]]:
        """The summands of the reconstruction by name; here the only one, `sae_out`."""
        return {"sae_out": self.decode(codes)}

    def forward(self, x: Float[Tensor, "batch d_in"]) -> Reconstruction:
        codes = self.encode(x)
        return Reconstruction(self.decode(codes), codes)
