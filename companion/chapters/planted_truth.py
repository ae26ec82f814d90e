"""The chapter Planted truth: do the models of this book find planted products? One attempt, sweeps
of attempts that are checked before any of them trains, and means over seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, product

import pandas as pd
import torch
from joblib import Parallel, delayed
from torch import nn

from companion import estimates
from featint import geometry, planted, store, train
from featint.config import NFMConfig, SAEConfig, TrainConfig, at_least, choose
from featint.joint import JointSAE
from featint.kernels.sparse import Codes
from featint.nfm import NFM
from featint.planted import OnTrueCodes, World
from featint.sae import TopKSAE

MODELS = ("true_codes", "sequential", "joint", "joint_no_interaction", "sae", "sae_matched")
"""Who meets the planted truth; `sae_matched` has as many parameters as the joint model."""
WITH_PAIRS = MODELS[:3]
N_TEST = 10_000
TEST, FLOOR = 10**6, 10**6 + 1  # "steps" whose tokens no training sees
SHARES = ("recall_difference", "recall_factors", "auprc_difference", "auprc_factors", "bought")
"""Measures that cannot leave 0 to 1; neither do their intervals."""


@dataclass(frozen=True, kw_only=True)
class Attempt(planted.WorldConfig):
    """One model in one world, both from one seed. Raises ValueError for what cannot be."""

    model: str = "true_codes"
    """One of `MODELS`."""
    n_tokens: int = 300_000
    """Training tokens, all different; the sequential model's SAE and NFM see as many each."""
    batch_tokens: int = 256
    """Tokens per step."""
    lr: float = 0.01
    """Adam's learning rate at the start."""
    d_factor: int = 32
    """Width of the factor embedding V."""
    hidden_bias: bool = False
    """Train the bias of the MLP's hidden layer; else it stays 0. At toy scale the pooled products
    start so small that Adam's first steps on it put units below 0 on all tokens, for good."""

    def __post_init__(self):
        super().__post_init__()
        choose("model", self.model, MODELS)
        at_least("d_factor", self.d_factor, 1)
        _ = self.training  # refuses what cannot be

    @property
    def training(self) -> TrainConfig:
        """Budget and optimiser."""
        budget = {"n_tokens": self.n_tokens, "batch_tokens": self.batch_tokens, "lr": self.lr}
        return TrainConfig(**budget, seed=self.seed)


def attempts(base: Attempt, **values: Sequence) -> list[Attempt]:
    """Every combination of the listed values of an attempt's fields. Raises ValueError for an
    unknown field, an empty list and what cannot be."""
    for name in values:
        choose("sweep parameter", name, sorted(asdict(base)))
    if empty := [name for name, listed in values.items() if not len(listed)]:
        raise ValueError(f"the sweep over {empty[0]} is empty: give it at least one value")
    return [replace(base, **dict(zip(values, c, strict=True))) for c in product(*values.values())]


def untrained(a: Attempt, path: Callable[..., NFM] = NFM) -> nn.Module:
    """The attempt's model with its initial values; `path` makes its NFM."""
    generator = torch.Generator().manual_seed(a.seed + 1)  # another stream than the world's
    paths = {"interaction": a.model != "joint_no_interaction", "dropout": 0.0}
    nfm = path(a.d_in, a.n_features, NFMConfig(d_factor=a.d_factor, **paths), generator)
    if a.model == "true_codes":
        return OnTrueCodes(nfm, a.n_features, a.n_active)
    d_sae = a.n_features
    if a.model == "sae_matched":  # a feature has an encoder's column, a bias, a decoder's row
        d_sae += round(sum(p.numel() for p in nfm.parameters()) / (2 * a.d_in + 1))
    sae = TopKSAE(a.d_in, SAEConfig(d_sae=d_sae, k=a.n_active), generator)
    return sae if a.model.startswith("sae") else JointSAE(sae, nfm)


def fitted(a: Attempt, world: World, path: Callable[..., NFM] = NFM) -> nn.Module:
    """The attempt's model, trained on the fastest device and brought back."""
    model, config, true = untrained(a, path), a.training, a.model == "true_codes"
    model, world = model.to(store.device()), world.to(store.device())
    batches = world.batches(config.n_steps, config.batch_tokens, a.seed, with_codes=true)
    scale = {"nfm.b_hidden": 0.0} if a.model in WITH_PAIRS and not a.hidden_bias else {}
    if a.model == "sequential":
        train.fit(model.sae, batches, config)
        scale["sae"] = 0.0
    train.fit(model, batches, replace(config, lr_scale=scale), model.loss if true else train.mse)
    return model.cpu()


def measured(a: Attempt) -> dict:
    """Train an attempt's model and measure it on fresh tokens: one row, the attempt's fields and

    - `parameters`; `fvu`, beside `fvu_linear_floor` and `fvu_floor` (`World.floors`) and
      `fvu_refit`, that of the best affine map of the model's own codes;
    - with learned codes `cosine`, the median match of the true directions, and, with products,
      `bought` of them;
    - with an interaction path `fvu_refit_pairs`, that of the path as it is and the best affine map
      beside it, and `planted.pairs_found`.
    """
    world, true = World(a), a.model == "true_codes"
    model = fitted(a, world).requires_grad_(False)
    fit, test = (world.draw(N_TEST, planted.step_generator(a.seed, s)) for s in (FLOOR, TEST))
    rows = [torch.cat([s.codes, s.x], 1) if true else s.x for s in (fit, test)]
    codes = [model.encode(r) for r in rows]
    dense, match = [c.dense(model.d_sae) for c in codes], torch.arange(a.n_features)
    targets = dense[0], fit.x, dense[1], test.x
    row = asdict(a) | {
        "parameters": sum(p.numel() for p in model.parameters()),
        "fvu": planted.fvu(test.x, model(rows[1]).x_hat),
        "fvu_refit": planted.least_squares(*targets),
    }
    row["fvu_linear_floor"], row["fvu_floor"] = world.floors(fit, test)
    if not true:
        cosine, match = planted.matched(geometry.directions(model), world.directions)
        row["cosine"] = cosine.median().item()
        if len(world.products):
            row["bought"] = planted.bought(dense[1], test.products)
    if a.model in WITH_PAIRS:
        paths = tuple(model.nfm.interaction_out(c) for c in codes)
        row["fvu_refit_pairs"] = planted.least_squares(*targets, given=paths)
        on = store.device()
        of = Codes(*(part.to(on) for part in codes[1]))
        row |= planted.pairs_found(model.nfm.to(on), of, match.to(on), world)
    return row


def run(sweeps: Mapping[str, Sequence[Attempt]]) -> dict[str, pd.DataFrame]:
    """The rows of `measured` of every sweep, as many at a time as there are processors; an attempt
    that several sweeps share is trained once."""
    todo = list(dict.fromkeys(chain.from_iterable(sweeps.values())))
    rows = dict(zip(todo, Parallel(n_jobs=-1)(map(delayed(measured), todo)), strict=True))
    return {name: pd.DataFrame([rows[a] for a in sweep]) for name, sweep in sweeps.items()}


def means(rows: pd.DataFrame, units: Mapping[str, str]) -> pd.DataFrame:
    """Means over seeds of the measures in `units`, per model (and per part, if rows have one), as
    `estimates.tidy`, without what a model does not have; where the unit is %, times 100."""
    whole = pd.Series({m: 100 if unit == "%" else 1 for m, unit in units.items() if m in rows})
    rows = rows.assign(part=rows.get("part", "")).set_index(["seed", "model", "part"])
    table = rows[list(whole.index)].astype(float) * whole
    table = table.unstack(["model", "part"], sort=False).dropna(axis=1, how="all")
    found = estimates.over_seeds(table.rename_axis(columns=["quantity", "model", "part"]))
    shares = found["lo"].notna() & found["quantity"].isin(SHARES)
    ends = found.loc[shares, ["lo", "hi"]].astype(float)
    most = found.loc[shares, "quantity"].map(whole)
    found.loc[shares, ["lo", "hi"]] = ends.clip(lower=0).clip(upper=most, axis=0)
    return found.assign(unit=found["quantity"].map(units))
