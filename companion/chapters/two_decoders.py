"""The linear path and the decoder read the same codes: their sum is learned, the split is free."""

import copy
from dataclasses import replace

import pandas as pd
from jaxtyping import Float
from torch import Tensor, nn

from companion.profiles import Profile
from featint import activations, geometry, reconstruction, runs, train
from featint.activations import Activations
from featint.config import ModelConfig
from featint.joint import JointSAE
from featint.kernels import sparse
from featint.nfm import NFM
from featint.sae import TopKSAE

SEGMENTS, STEPS = 8, 15
"""The float64 training: so many segments of so many steps; after each a look, and Adam anew."""
BATCH_TOKENS = 256


class Separate(JointSAE):
    """A joint model that looks up its two decoders one by one, each with its own gradient."""

    def decode(self, codes):
        return sum(self.parts(codes).values())


def separate(model: JointSAE, **changes) -> Separate:
    """A float64 copy of a joint model, without dropout, that trains; `changes` are fields of its
    NFMConfig, e.g. top_n for a mask."""
    model = copy.deepcopy(model).double().requires_grad_(True)
    model.nfm.config = replace(model.nfm.config, dropout=0.0, **changes)
    return Separate(model.sae, model.nfm)


def gradients(model: Separate, x: Float[Tensor, "batch d_in"]) -> dict[str, float]:
    """Frobenius norms of one batch's gradients of decoder and linear path, and their difference."""
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
    acts = activations.load(config.harvest, "train", config.train.first_position)
    how = {"batch_tokens": BATCH_TOKENS, "n_tokens": STEPS * BATCH_TOKENS, "lr_end_factor": 1.0}
    settings = replace(config.train, **how)
    batches = acts.batches(replace(settings, n_tokens=SEGMENTS * settings.n_tokens))
    model = separate(runs.build(config, acts.d_in))
    start, found = copy.deepcopy(model), {}
    for end in range(STEPS, (SEGMENTS + 1) * STEPS, STEPS):
        part = [batches[step].double() for step in range(end - STEPS, end)]
        train.fit(model, part, settings, label=f"float64, top_n = {config.nfm.top_n}")
        found[end] = moved(start, model)
    return pd.DataFrame(found).T.rename_axis("step")


def merged(model: JointSAE) -> nn.Module:
    """The same function with one decoder: W_dec + W_lin, and b_lin as its bias; an interaction path
    stays as it is.

    Raises ValueError if the linear path does not see all codes, for then no one decoder does it.
    """
    sae, nfm = model.sae, model.nfm
    if nfm.config.top_n is not None or not nfm.config.linear:
        given = f"linear = {nfm.config.linear}, top_n = {nfm.config.top_n}"
        raise ValueError(f"{given}: only a linear path that sees all codes can be merged")
    d_in, bias = sae.W_dec.shape[1], nfm.b_lin if sae.b_dec is None else nfm.b_lin + sae.b_dec
    one = TopKSAE(d_in, replace(sae.config, decoder_bias=True)).to(sae.W_dec)
    one.load_state_dict(sae.state_dict() | {"W_dec": geometry.directions(model), "b_dec": bias})
    if not nfm.config.interaction:
        return one.eval()
    rest = NFM(d_in, model.d_sae, replace(nfm.config, linear=False)).to(nfm.V)
    rest.load_state_dict(nfm.state_dict(), strict=False)  # without the linear path's
    return JointSAE(one, rest).eval()


def split_sums(model: TopKSAE | JointSAE, acts: Activations) -> pd.DataFrame:
    """Sums per article of tokens, sst, sse, and the products xx, xy and yy with y = codes @ (W_dec
    + W_lin): the error of an own path with any share of y follows from these."""

    def measures(x):
        codes = model.encode(x)
        y = sparse.decode(codes, geometry.directions(model))
        products = {"xx": x * x, "xy": x * y, "yy": y * y}
        sums = {(name, "", ""): product.sum(1) for name, product in products.items()}
        return {("", ""): model.decode(codes)} | sums

    sums = reconstruction.by_article(measures, acts.pieces(), acts.article)
    return sums.droplevel(["model", "part"], axis=1)
