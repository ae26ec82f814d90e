"""An SAE and an NFM on its codes, whose outputs add up.

Paper, Methods: joint and sequential training.
"""

from jaxtyping import Float
from torch import Tensor, nn

from featint.kernels import sparse
from featint.kernels.sparse import Codes
from featint.nfm import NFM
from featint.sae import Reconstruction, TopKSAE


class JointSAE(nn.Module):
    r"""The sum of a TopK SAE's output and an NFM's, from the same codes.

    .. math:: \hat x = \mathrm{sae\_out} + \mathrm{linear\_out} + \mathrm{interaction\_out}

    Trained in one phase it is the paper's joint model. Trained with the SAE frozen it is the
    sequential one: fitting x with a frozen SAE is fitting `error = x - sae_out` with the NFM.
    """

    def __init__(self, sae: TopKSAE, nfm: NFM):
        super().__init__()
        self.sae, self.nfm = sae, nfm

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return self.sae.d_sae

    def encode(self, x: Float[Tensor, "batch d_in"]) -> Codes:
        """The SAE's codes."""
        return self.sae.encode(x)

    def decode(self, codes: Codes) -> Float[Tensor, "batch d_in"]:
        """The sum of the parts.

        Where the linear path sees all codes, decoder and linear path are looked up as one table.
        """
        nfm = self.nfm
        if not nfm.config.linear or nfm.config.top_n is not None:
            return sum(self.parts(codes).values())
        x_hat = sparse.decode_sum(codes, (self.sae.W_dec, nfm.W_lin)) + nfm.b_lin
        if self.sae.b_dec is not None:
            x_hat = x_hat + self.sae.b_dec
        return x_hat + nfm.interaction_out(codes) if nfm.config.interaction else x_hat

    def parts(self, codes: Codes) -> dict[str, Float[Tensor, "batch d_in"]]:
        """The summands of the reconstruction by name: `sae_out` and the NFM's."""
        return self.sae.parts(codes) | self.nfm.parts(codes)

    def forward(self, x: Float[Tensor, "batch d_in"]) -> Reconstruction:
        codes = self.encode(x)
        return Reconstruction(self.decode(codes), codes)
