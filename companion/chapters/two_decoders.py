"""One decoder or two: the linear path and the decoder read the same codes, so only their sum is learned and the split between them is free."""

import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from companion import stats
from companion.profiles import Profile
from companion.results import Value
from featint import activations, metrics, runs, train
from featint.config import ModelConfig, SAEConfig
from featint.joint import JointSAE
from featint.nfm import NFM
from featint.runs import Trained
from featint.sae import TopKSAE

SEGMENTS = 8
STEPS = 15
"""The float64 training: so many segments of so many steps; after each the state is looked at, and Adam starts anew."""
BATCH_TOKENS = 256
SPLITS = np.linspace(-0.5, 1.5, 81)
"""Shares of the summed decoder that are put into the linear path."""


class Separate(JointSAE):
    """A joint model whose two decoders are looked up one by one, so that their gradients are computed independently of each other."""

    def decode(self, codes):
        return sum(self.parts(codes).values())


def separate(model: JointSAE, **changes) -> Separate:
    """A float64 copy of a joint model that trains; `changes` are fields of its NFMConfig, e.g. top_n for a mask."""
    model = copy.deepcopy(model).double().requires_grad_(True)
    model.nfm.config = replace(model.nfm.config, dropout=0.0, **changes)
    return Separate(model.sae, model.nfm)


def gradients(model: JointSAE, x: Float[Tensor, "batch d_in"]) -> pd.DataFrame:
    """Gradients of decoder and linear path on one batch, float64: their norms, and the norm of their difference, without and with a mask."""
    k = model.sae.config.k
    rows = []
    for label, top_n in (("all codes", None), (f"the largest {k // 2} of {k}", k // 2)):
        copied = separate(model, top_n=top_n)
        train.mse(copied(x.double()).x_hat, x.double()).backward()
        a, b = copied.sae.W_dec.grad, copied.nfm.W_lin.grad
        rows.append(
            {
                "the linear path sees": label,
                "decoder": a.norm().item(),
                "linear path": b.norm().item(),
                "difference": (a - b).norm().item(),
            }
        )
    return pd.DataFrame(rows)


def start_of(config: ModelConfig, d_in: int) -> tuple[Tensor, Tensor]:
    """W_dec and W_lin, each (d_sae, d_in), as the seed of a joint model draws them."""
    model = runs.build(config, d_in)
    return model.sae.W_dec.detach(), model.nfm.W_lin.detach()


def drift(trained: Trained) -> dict[str, float]:
    """How far a finished joint model's W_lin - W_dec, their sum and W_dec moved in training (Frobenius norms)."""
    model = trained.model
    before_dec, before_lin = start_of(trained.config, model.sae.W_dec.shape[1])
    moved_dec, moved_lin = model.sae.W_dec - before_dec, model.nfm.W_lin - before_lin
    norms = {
        "difference": moved_lin - moved_dec,
        "sum": moved_lin + moved_dec,
        "decoder": moved_dec,
    }
    return {name: value.norm().item() for name, value in norms.items()}


def conservation(config: ModelConfig, p: Profile) -> pd.DataFrame:
    """Train a joint model from its seed in float64 on real activations, once seeing all codes and once the larger half of them.

    Columns: sees, step, difference (how far W_lin - W_dec has moved) and decoder (how far W_dec has), Frobenius norms.
    """
    acts = activations.load(config.harvest, "train")
    batches = acts.batches(SEGMENTS * STEPS * BATCH_TOKENS, BATCH_TOKENS, config.train.seed)
    settings = replace(
        config.train, n_tokens=STEPS * BATCH_TOKENS, batch_tokens=BATCH_TOKENS, lr_end_factor=1.0
    )
    rows = []
    for label, top_n in (("all codes", None), ("the larger half", config.sae.k // 2)):
        model = separate(runs.build(config, acts.d_in), top_n=top_n)
        decoder, linear = model.sae.W_dec.detach().clone(), model.nfm.W_lin.detach().clone()
        for segment in range(SEGMENTS):
            part = [batches[segment * STEPS + i].double() for i in range(STEPS)]
            train.fit(model, part, settings, label=f"float64, {label}")
            moved_dec, moved_lin = (
                model.sae.W_dec.detach() - decoder,
                model.nfm.W_lin.detach() - linear,
            )
            found = {
                "difference": (moved_lin - moved_dec).norm().item(),
                "decoder": moved_dec.norm().item(),
            }
            rows.append({"sees": label, "step": (segment + 1) * STEPS, **found})
    return pd.DataFrame(rows)


def merged(model: JointSAE) -> nn.Module:
    """The same function with one decoder: W_dec + W_lin and b_lin as its bias; an interaction path stays as it is.

    Raises ValueError if the linear path does not see all codes, for then no single decoder does the same.
    """
    nfm = model.nfm
    if nfm.config.top_n is not None or not nfm.config.linear:
        raise ValueError(
            f"linear = {nfm.config.linear}, top_n = {nfm.config.top_n}: only a linear path that sees all codes can be merged"
        )
    d_in = model.sae.W_dec.shape[1]
    sae = TopKSAE(d_in, SAEConfig(d_sae=model.d_sae, k=model.sae.config.k, decoder_bias=True)).to(
        model.sae.W_dec
    )
    bias = nfm.b_lin if model.sae.b_dec is None else nfm.b_lin + model.sae.b_dec
    sae.load_state_dict(
        {
            "W_enc": model.sae.W_enc,
            "b_enc": model.sae.b_enc,
            "W_dec": model.sae.W_dec + nfm.W_lin,
            "b_dec": bias,
        }
    )
    if not nfm.config.interaction:
        return sae
    rest = NFM(d_in, model.d_sae, replace(nfm.config, linear=False)).to(nfm.V)
    rest.load_state_dict(
        {name: value for name, value in nfm.state_dict().items() if name not in ("W_lin", "b_lin")}
    )
    return JointSAE(sae, rest).eval()


@torch.no_grad()
def merge_table(models: dict[str, Trained], x: Float[Tensor, "batch d_in"]) -> pd.DataFrame:
    """What merging changes, in float64 on a batch: parameters before and after, and the largest difference of any output."""
    rows = []
    for name, trained in models.items():
        two = separate(trained.model).eval()
        one = merged(two)
        counts = [sum(q.numel() for q in m.parameters()) for m in (two, one)]
        worst = (two(x.double()).x_hat - one(x.double()).x_hat).abs().max().item()
        rows.append(
            {
                "model": f"`{name}`",
                "parameters": counts[0],
                "merged": counts[1],
                "largest change of an output": worst,
            }
        )
    return pd.DataFrame(rows)


def summed_out(model: TopKSAE | JointSAE, codes) -> Tensor:
    """codes @ (W_dec + W_lin); for an SAE codes @ W_dec."""
    parts = model.parts(codes)
    if isinstance(model, TopKSAE):
        return parts["sae_out"]
    return parts["sae_out"] + parts["linear_out"] - model.nfm.b_lin


def split_sums(models: dict[str, nn.Module], acts: activations.Activations) -> pd.DataFrame:
    """Per article, for each model: its squared error, and the sums of |x|^2, x.y and |y|^2 with y = codes @ (W_dec + W_lin).

    The error of an own path with any share of y follows from the last three.
    """

    def parts(x):
        found = {"xx": x.square().sum(1)}
        for name, model in models.items():
            codes = model.encode(x)
            y = summed_out(model, codes)
            found |= {
                name: model.decode(codes),
                f"{name}/xy": (x * y).sum(1),
                f"{name}/yy": y.square().sum(1),
            }
        return found

    return metrics.by_article(parts, acts.pieces(), acts.article)


def own_path_sse(t: pd.DataFrame | pd.Series, name: str, split: float):
    """Squared error of an SAE path that holds the share 1 - `split` of the summed decoder; `t` has columns (or entries) as `split_sums`."""
    keeps = 1 - split
    return t["xx"] - 2 * keeps * t[f"{name}/xy"] + keeps**2 * t[f"{name}/yy"]


def closed_form(fvu, split):
    r"""The gain as published, in per cent, that a split s gives to a model of FVU e that integrates nothing: 100 (1 - e / (e + s^2 (1 - e))).

    Holds where the reconstruction is uncorrelated with its error and all of it is split; s = 1/2 is an even split.
    """
    return 100 * (1 - fvu / (fvu + np.square(split) * (1 - fvu)))


def split_for(fvu, gain):
    """The split at which `closed_form` gives `gain` per cent; numbers or columns."""
    return np.sqrt(fvu * gain / (100 - gain) / (1 - fvu))


def split_curves(sums: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """The gain as published at every split, measured and by the closed form: columns model, split, gain, closed_form."""
    total = sums.sum()
    rows = []
    for name in names:
        e = total[f"sse/{name}"] / total["sst"]
        for split in SPLITS:
            gain = 100 * (1 - total[f"sse/{name}"] / own_path_sse(total, name, split))
            rows.append(
                {"model": name, "split": split, "gain": gain, "closed_form": closed_form(e, split)}
            )
    return pd.DataFrame(rows)


def estimates(
    sums: pd.DataFrame, own_paths: pd.DataFrame, draws: int, published_gain: float
) -> pd.DataFrame:
    """What the figure shows in numbers, articles drawn anew; `own_paths` is `heldout.sums` of `joint`."""
    sums = sums.join(own_paths[["sse/joint/own_path", "sse/joint/all"]])

    def statistic(t):
        found = {}
        for name in ("sae", "joint", "joint_no_interaction"):
            e = t[f"sse/{name}"] / t["sst"]
            found |= {
                f"{name}/fvu": e,
                f"{name}/gain_even_split": 100
                * (1 - t[f"sse/{name}"] / own_path_sse(t, name, 0.5)),
            }
            found |= {
                f"{name}/gain_even_split_closed": closed_form(e, 0.5),
                f"{name}/split_of_published_gain": split_for(e, published_gain),
            }
        found["joint/gain_own_path"] = 100 * (1 - t["sse/joint/all"] / t["sse/joint/own_path"])
        found["joint/split"] = split_for(found["joint/fvu"], found["joint/gain_own_path"])
        return found

    return stats.bootstrap(sums, statistic, draws)


UNITS = {"fvu": "fraction", "split": "share", "split_of_published_gain": "share"}


def values(
    table: pd.DataFrame, drifts: dict[str, dict], kept: pd.DataFrame, merges: pd.DataFrame
) -> dict[str, Value]:
    """The chapter's results file."""
    found = {}
    for name, row in table.iterrows():
        unit = UNITS.get(name.split("/")[1], "%")
        found[f"{name}/controlled"] = Value(
            row.value, int(row.n), f"{unit}; n articles", "controlled", (row.lo, row.hi)
        )
    for name, moved in drifts.items():
        for what, norm in moved.items():
            found[f"{name}/moved_{what}/controlled"] = Value(
                norm, 1, "Frobenius norm; n seeds", "controlled"
            )
    last = kept.groupby("sees").last()
    for label, row in last.iterrows():
        key = "float64_all" if label == "all codes" else "float64_masked"
        found[f"{key}/moved_difference/controlled"] = Value(
            row.difference, 1, "Frobenius norm; n seeds", "controlled"
        )
        found[f"{key}/moved_decoder/controlled"] = Value(
            row.decoder, 1, "Frobenius norm; n seeds", "controlled"
        )
    for row in merges.itertuples():
        found[f"{row.model.strip('`')}/merge_change/controlled"] = Value(
            row[4], 1, "largest |difference|; n models", "controlled"
        )
    return found


def drift_table(drifts: dict[str, dict]) -> pd.DataFrame:
    """`drift` of several models, a row each."""
    columns = {"difference": "W_lin − W_dec", "sum": "W_lin + W_dec", "decoder": "W_dec"}
    return pd.DataFrame(
        [
            {"model": f"`{name}`", **{columns[what]: norm for what, norm in moved.items()}}
            for name, moved in drifts.items()
        ]
    )


def split_table(table: pd.DataFrame, paper: float) -> pd.DataFrame:
    """`estimates` as readers see them, a row per model."""
    wanted = {
        "fvu": "FVU",
        "gain_even_split": "gain at s = 1/2, %",
        "gain_even_split_closed": "closed form, %",
    }
    wanted["split_of_published_gain"] = f"s for {paper:g} %"
    models = [name.removesuffix("/fvu") for name in table.index if name.endswith("/fvu")]
    return pd.DataFrame(
        [
            {
                "model": f"`{m}`",
                **{label: table.loc[f"{m}/{key}", "value"] for key, label in wanted.items()},
            }
            for m in models
        ]
    )
