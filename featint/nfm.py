"""The neural factorization machine on sparse codes (He & Chua 2017; paper, Methods: NFM)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from featint.config import FORMS, NFMConfig
from featint.kernels import sparse
from featint.kernels.sparse import Codes


class NFM(nn.Module):
    r"""A linear path and an interaction path, both from the same codes :math:`c`.

    .. math::
        \mathrm{linear\_out} &= c\, W_{lin} + b_{lin} \\ \mathrm{bi\_interaction} &=
        \tfrac12\left[(c V)^2 - c^2 V^2\right] = \sum_{i<j} c_i c_j \, V_i \odot V_j \\
        \mathrm{interaction\_out} &= \mathrm{MLP}(\mathrm{dropout}(\mathrm{bi\_interaction}))

    with MLP = Linear, ReLU, Linear. The paper's printed formula for the second line lacks the
    bracket. Initial values are the released code's: N(0, 0.01^2) for `W_lin` and the MLP, N(0,
    0.05^2) for `V`, zero for the biases.

    Other forms share its layout. `gelu` has GELU for ReLU; `products` writes bi_interaction itself,
    :math:`\mathrm{dropout}(\mathrm{bi\_interaction})\, W_{out} + b_{out}`, without MLP. Two rivals:
    `mlp` feeds :math:`c V` itself to the MLP; `polynomial` is a low-rank polynomial of second and
    third order, without MLP (the decoder of PolySAE, arXiv 2602.01322):
    :math:`[(c V)^2, (c V)^3]\, W_{out} + b_{out}`.
    """

    def __init__(
        self, d_in: int, d_sae: int, config: NFMConfig, generator: torch.Generator | None = None
    ):
        super().__init__()
        self.config = config

        def normal(*shape: int, std: float) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape).normal_(0, std, generator=generator))

        if config.linear:
            self.W_lin = normal(d_sae, d_in, std=0.01)
            self.b_lin = nn.Parameter(torch.zeros(d_in))
        if config.interaction:
            d = config.d_factor
            self.V = normal(d_sae, d, std=0.05)
            if config.form == "polynomial":
                d = 2 * d  # squares and cubes
            elif FORMS[config.form]:
                self.W_hidden, self.b_hidden = normal(d, d, std=0.01), nn.Parameter(torch.zeros(d))
            self.W_out, self.b_out = normal(d, d_in, std=0.01), nn.Parameter(torch.zeros(d_in))

    def visible(self, codes: Codes) -> Codes:
        """The codes that both paths see: all, or the `top_n` largest of each token."""
        return codes if self.config.top_n is None else codes.top(self.config.top_n)

    def linear_out(self, codes: Codes) -> Float[Tensor, "batch d_in"]:
        """The linear path, a second decoder with a bias."""
        return sparse.decode(self.visible(codes), self.W_lin) + self.b_lin

    def pooled(self, codes: Codes) -> Float[Tensor, "batch d_pooled"]:
        """What the codes are pooled to, with dropout in training: d_factor wide, twice that for
        `polynomial`."""
        codes = self.visible(codes)
        if self.config.normalise:
            size = codes.acts.square().mean(1, keepdim=True).sqrt().clamp(min=1e-6)
            codes = codes._replace(acts=codes.acts / size)
        alone = self.config.form in ("polynomial", "mlp")
        pooled = (sparse.decode if alone else sparse.bi_interaction)(codes, self.V)
        if self.config.form == "polynomial":
            pooled = torch.cat([pooled.square(), pooled.pow(3)], 1)
        return nn.functional.dropout(pooled, self.config.dropout, self.training)

    def hidden(self, codes: Codes) -> Float[Tensor, "batch d_factor"]:
        """The MLP's first layer before its activation, what the secondary SAE reads; forms without
        MLP have none."""
        return self.pooled(codes) @ self.W_hidden + self.b_hidden

    def interaction_out(self, codes: Codes) -> Float[Tensor, "batch d_in"]:
        """The interaction path.

        Even without active features it writes a constant, through the MLP's biases.
        """
        name = FORMS[self.config.form]
        top = getattr(nn.functional, name)(self.hidden(codes)) if name else self.pooled(codes)
        return top @ self.W_out + self.b_out

    def parts(self, codes: Codes) -> dict[str, Float[Tensor, "batch d_in"]]:
        """The paths that this NFM has, by name: `linear_out`, `interaction_out`."""
        parts = {}
        if self.config.linear:
            parts["linear_out"] = self.linear_out(codes)
        if self.config.interaction:
            parts["interaction_out"] = self.interaction_out(codes)
        return parts
