"""The secondary SAE: a sparse autoencoder of the inside of an NFM's interaction path.

Paper, Methods: secondary SAE.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from featint.activations import denormalise, normalise
from featint.kernels.sparse import Codes
from featint.sae import Reconstruction, TopKSAE


class SecondarySAE(nn.Module):
    r"""A TopK SAE of :math:`u`, the first layer of an NFM's MLP before its ReLU (`nfm.NFM.hidden`),
    z-scored per dimension.

    .. math::
        \mathrm{codes} = \mathrm{encode}\left(\frac{u - \mu}{\sigma}\right), \qquad \hat u = \sigma
        \, \mathrm{decode}(\mathrm{codes}) + \mu

    Mean and standard deviation are part of the model and saved with it, so that it cannot be used
    on other statistics than its training's. The released code z-scores in training only and does
    not keep the statistics.
    """

    def __init__(
        self, sae: TopKSAE, mean: Float[Tensor, " d_factor"], std: Float[Tensor, " d_factor"]
    ):
        super().__init__()
        self.sae = sae
        self.register_buffer("mean", mean)
        self.register_buffer("std", torch.where(std > 0, std, 1.0))

    @torch.no_grad()
    def standardise(self, u: Float[Tensor, "n d_factor"]) -> None:
        """Take the statistics from these values; a constant dimension is left undivided."""
        std = u.std(0, correction=0).float()
        self.mean.copy_(u.mean(0))
        self.std.copy_(torch.where(std > 0, std, 1.0))

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return self.sae.d_sae

    def encode(self, u: Float[Tensor, "batch d_factor"]) -> Codes:
        """The codes of `u` as the NFM computes it."""
        return self.sae.encode(normalise(u, self.mean, self.std))

    def decode(self, codes: Codes) -> Float[Tensor, "batch d_factor"]:
        """Back in the units of `u`."""
        return denormalise(self.sae.decode(codes), self.mean, self.std)

    def direction(self, feature: int) -> Float[Tensor, " d_factor"]:
        """What a code of 1 adds to `u`."""
        return self.sae.W_dec[feature] * self.std

    def forward(self, u: Float[Tensor, "batch d_factor"]) -> Reconstruction:
        codes = self.encode(u)
        return Reconstruction(self.decode(codes), codes)

    def loss(
        self, u_hat: Float[Tensor, "batch d_factor"], u: Float[Tensor, "batch d_factor"]
    ) -> Tensor:
        """Mean squared error of the z-scored values."""
        return ((u_hat - u) / self.std).square().mean()
