"""The linear path and the decoder read the same codes, so only their sum is learned and the split
between them is free."""

import copy
from dataclasses import replace

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor, nn

from companion.profiles import Profile
from featint import activations, geometry, reconstruction, runs, train
from featint.activations import Activations
from featint.config import ModelConfig, SAEConfig
from featint.joint import JointSAE
from featint.kernels import sparse
from featint.nfm import NFM
from featint.sae import TopKSAE

SEGMENTS, STEPS = 8, 15
"""The float64 training: so many segments of so many steps; after each the state is looked at, and
Adam starts anew."""
BATCH_TOKENS = 256


class Separate(JointSAE):
    """A joint model whose two decoders are looked up one by one, so that their gradients are
    computed independently of each other."""

    def decode(self, codes):
        return sum(self.parts(codes).values())


def separate(model: JointSAE, **changes) -> Separate:
    """A float64 copy of a joint model, without dropout, that trains; `changes` are fields of its
    NFMConfig, e.g. top_n for a mask."""
    model = copy.deepcopy(model).double().requires_grad_(True)
    model.nfm.config = replace(model.nfm.config, dropout=0.0, **changes)
    return Separate(model.sae, model.nfm)


def gradients(model: Separate, x: Float[Tensor, "batch d_in"]) -> dict[str, float]:
    """Frobenius norms of the gradients of decoder and linear path on one batch, and of their
    difference."""
    train.mse(model(x.double()).x_hat, x.double()).backward()
    decoder, linear = model.sae.W_dec.grad, model.nfm.W_lin.grad
    norms = {"decoder": decoder, "linear path": linear, "difference": linear - decoder}
    return {name: value.norm().item() for name, value in norms.items()}


def moved(start: JointSAE, end: JointSAE) -> dict[str, float]:
    """How far W_lin - W_dec, their sum and W_dec are from where they were (Frobenius norms)."""
    decoder, linear = end.sae.W_dec - start.sae.W_dec, end.nfm.W_lin - start.nfm.W_lin
    norms = {"difference": linear - decoder, "sum": linear + decoder, "decoder": decoder}
    return {name: value.norm().item() for name, value in norms.items()}


def conservation(config: ModelConfig, p: Profile) -> pd.DataFrame:
    """Train a joint model from its seed in float64 on real activations: `moved` after every
    `STEPS` steps, indexed by step."""
    acts = activations.load(config.harvest, "train")
    n_tokens = SEGMENTS * STEPS * BATCH_TOKENS
    batches = acts.batches(n_tokens, BATCH_TOKENS, config.train.seed)
    segment = {"n_tokens": n_tokens // SEGMENTS, "batch_tokens": BATCH_TOKENS}
    settings = replace(config.train, **segment, lr_end_factor=1.0)
    model = separate(runs.build(config, acts.d_in))
    start, found = copy.deepcopy(model), {}
    for step in range(0, SEGMENTS * STEPS, STEPS):
        part = [batches[step + i].double() for i in range(STEPS)]
        train.fit(model, part, settings, label=f"float64, top_n = {config.nfm.top_n}")
        found[step + STEPS] = moved(start, model)
    return pd.DataFrame(found).T.rename_axis("step")


def merged(model: JointSAE) -> nn.Module:
    """The same function with one decoder: W_dec + W_lin, and b_lin as its bias; an interaction path
    stays as it is.

    Raises ValueError if the linear path does not see all codes, for then no one decoder does it.
    """
    sae, nfm = model.sae, model.nfm
    if nfm.config.top_n is not None or not nfm.config.linear:
        raise ValueError(
            f"linear = {nfm.config.linear}, top_n = {nfm.config.top_n}: "
            "only a linear path that sees all codes can be merged"
        )
    d_in = sae.W_dec.shape[1]
    config = SAEConfig(d_sae=model.d_sae, k=sae.config.k, decoder_bias=True)
    state = {"W_dec": geometry.directions(model), "b_dec": nfm.b_lin}
    if sae.b_dec is not None:
        state["b_dec"] = nfm.b_lin + sae.b_dec
    one = TopKSAE(d_in, config).to(sae.W_dec)
    one.load_state_dict(sae.state_dict() | state)
    if not nfm.config.interaction:
        return one.eval()
    rest = NFM(d_in, model.d_sae, replace(nfm.config, linear=False)).to(nfm.V)
    rest.load_state_dict({name: nfm.state_dict()[name] for name in rest.state_dict()})
    return JointSAE(one, rest).eval()


def split_sums(model: TopKSAE | JointSAE, acts: Activations) -> pd.DataFrame:
    """Sums per article, from which the error of an own path with any share of y = codes @ (W_dec +
    W_lin) follows: columns tokens, sst, sse of the whole model, and xx, xy, yy, products of x and
    y."""

    def measures(x):
        codes = model.encode(x)
        y = sparse.decode(codes, geometry.directions(model))
        products = {"xx": x * x, "xy": x * y, "yy": y * y}
        sums = {(name, "", ""): product.sum(1) for name, product in products.items()}
        return {("", ""): model.decode(codes)} | sums

    return reconstruction.by_article(measures, acts.pieces(), acts.article).droplevel(
        [1, 2], axis=1
    )


def own_path_sse(total: pd.DataFrame | pd.Series, split):
    """Squared error of an SAE path that holds the share 1 - `split` of the summed decoder, |x -
    (1 - split) y|^2, from totals of `split_sums`."""
    keeps = 1 - split
    return total["xx"] - 2 * keeps * total["xy"] + keeps**2 * total["yy"]


def closed_form(fvu, split):
    """The gain as published, in per cent, of a model of this FVU that integrates nothing, if the
    linear path holds the share `split` of the summed decoder.

    Holds where the reconstruction is uncorrelated with its error and all of it is split.
    """
    return 100 * (1 - fvu / (fvu + np.square(split) * (1 - fvu)))


def split_for(fvu, gain):
    """The split at which `closed_form` gives `gain` per cent; numbers or columns."""
    return np.sqrt(fvu * gain / (100 - gain) / (1 - fvu))
