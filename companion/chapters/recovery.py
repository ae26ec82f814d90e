"""Do the models of this book find planted products? One trial, and sweeps of trials that are checked before any of them trains."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from typing import Literal

import pandas as pd
import torch
from joblib import Parallel, delayed
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn.functional import normalize

from companion.toys import features as toy
from companion.toys import planted
from companion.toys.planted import World, WorldConfig
from featint import pairs, train
from featint.config import NFMConfig, SAEConfig, TrainConfig, at_least, choose
from featint.joint import JointSAE
from featint.kernels.sparse import Codes
from featint.nfm import NFM
from featint.sae import Reconstruction, TopKSAE

SETTINGS = {
    "true codes": "NFM given the true codes",
    "sequential": "NFM on the error of a frozen SAE",
    "joint": "SAE and NFM trained together",
    "joint, no interaction": "the joint model without its interaction path",
    "SAE": "plain SAE of the same size",
    "SAE, matched": "plain SAE with as many parameters as the joint model",
}
"""The models that meet the planted truth."""
WITH_PAIRS = ("true codes", "sequential", "joint")
N_TEST = 10_000
TEST, FLOOR = 10**6, 10**6 + 1  # "steps" whose tokens no training sees
TOP = 40  # largest differences kept for a picture
REPORTED = 0.5  # a pair is reported if its second difference is at least half that of a planted pair of strength 1


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One model in one world. Raises ValueError for a size or setting that cannot be."""

    world: WorldConfig = WorldConfig()
    setting: Literal[
        "true codes", "sequential", "joint", "joint, no interaction", "SAE", "SAE, matched"
    ] = "true codes"
    n_tokens: int = 300_000
    """Training tokens, all different; the sequential model's SAE and NFM see as many each."""
    d_factor: int = 32
    """Width of the factor embedding V."""
    lr: float = 0.01
    """Adam's learning rate at the start."""
    batch_tokens: int = 256
    """Tokens per step."""

    hidden_bias: bool = False
    """Train the bias of the MLP's hidden layer. At toy scale the pooled products start so small that Adam's first steps on it put units
    below 0 on all tokens, for good; by default it stays at 0."""

    def __post_init__(self):
        choose("setting", self.setting, tuple(SETTINGS))
        at_least("d_factor", self.d_factor, 1)
        TrainConfig(
            n_tokens=self.n_tokens, batch_tokens=self.batch_tokens, lr=self.lr
        )  # refuses what cannot be

    @property
    def training(self) -> TrainConfig:
        """Budget and optimiser."""
        return TrainConfig(
            n_tokens=self.n_tokens, batch_tokens=self.batch_tokens, lr=self.lr, seed=self.world.seed
        )


class OnTrueCodes(nn.Module):
    """An NFM that is handed the true codes instead of an SAE's: rows hold n_features codes, then x."""

    def __init__(self, nfm: NFM, d_sae: int, k: int):
        super().__init__()
        self.nfm, self.d_sae, self.k = nfm, d_sae, k

    def encode(self, rows: Tensor) -> Codes:
        """The features present in each token."""
        return Codes(*rows[:, : self.d_sae].topk(self.k))

    def forward(self, rows: Tensor) -> Reconstruction:
        codes = self.encode(rows)
        return Reconstruction(sum(self.nfm.parts(codes).values()), codes)

    def loss(self, x_hat: Tensor, rows: Tensor) -> Tensor:
        """Mean squared error on the rows' x."""
        return train.mse(x_hat, rows[:, self.d_sae :])


def untrained(trial: Trial, world: World) -> nn.Module:
    """The trial's model with its initial values."""
    c, setting = world.config, trial.setting
    generator = torch.Generator().manual_seed(c.seed + 1)  # another stream than the world's
    config = NFMConfig(
        d_factor=trial.d_factor, dropout=0.0, interaction=setting != "joint, no interaction"
    )
    nfm = NFM(c.d_in, c.n_features, config, generator)
    if setting == "true codes":
        return OnTrueCodes(nfm, c.n_features, c.n_active)
    extra = (
        sum(p.numel() for p in nfm.parameters()) / (2 * c.d_in + 1)
        if setting == "SAE, matched"
        else 0
    )
    sae = TopKSAE(c.d_in, SAEConfig(d_sae=c.n_features + round(extra), k=c.n_active), generator)
    return sae if setting.startswith("SAE") else JointSAE(sae, nfm)


def fitted(trial: Trial, world: World) -> nn.Module:
    """The trial's model, trained."""
    model, config = untrained(trial, world), trial.training
    true = trial.setting == "true codes"
    batches = planted.Batches(
        world, config.n_steps, config.batch_tokens, world.config.seed, with_codes=true
    )
    frozen = trial.setting in WITH_PAIRS and not trial.hidden_bias
    scale = {"nfm.b_hidden": 0.0} if frozen else {}
    if trial.setting == "sequential":
        train.fit(model.sae, batches, config)
        scale |= {"sae": 0.0}
    train.fit(model, batches, replace(config, lr_scale=scale), model.loss if true else train.mse)
    return model


@torch.no_grad()
def run(trial: Trial) -> dict:
    """Train a trial's model and measure it on fresh tokens: one row.

    `fvu`, beside the floors of `World.floors` and `fvu_refit`, that of the best affine map of the model's own codes; `cosine`, the median
    match of the true directions. With an interaction path, `fvu_refit_pairs`, that of the path as it is and the best affine map beside it;
    for each way of scoring pairs (`difference`, `factors`) the area under the
    precision-recall curve `auprc_*` and `recall_*` at 5 % false pairs; of the pairs whose difference is at least `REPORTED` of a planted
    one's, `reported` and `false`; and `top`, the largest differences with whether they are planted. With products, `bought`: the share of
    them with which some single feature correlates by more than 0.5.
    """
    world = World(trial.world)
    samples = [
        world.draw(N_TEST, toy.step_generator(trial.world.seed, step)) for step in (FLOOR, TEST)
    ]
    with torch.enable_grad():
        model = fitted(trial, world)
    true = trial.setting == "true codes"
    rows, test = [torch.cat([s.codes, s.x], 1) if true else s.x for s in samples], samples[1]
    x_hat, codes = model(rows[1])
    linear_floor, floor = world.floors(*samples)
    both = model.encode(rows[0]), codes
    dense = [c.dense(model.d_sae) for c in both]
    targets = (dense[0], samples[0].x, dense[1], test.x)
    row = asdict(trial.world) | {
        f.name: getattr(trial, f.name) for f in fields(trial) if f.name != "world"
    }
    row |= {
        "parameters": sum(p.numel() for p in model.parameters()),
        "fvu": planted.share_unexplained(test.x, x_hat),
    }
    row |= {
        "fvu_refit": planted.least_squares(*targets),
        "fvu_linear_floor": linear_floor,
        "fvu_floor": floor,
    }
    match = torch.arange(world.config.n_features)
    if not true:
        row["cosine"], match = matched(directions(model), world.directions)
        if len(world.products):
            row["bought"] = bought(codes.dense(model.d_sae), test.products)
    if trial.setting in WITH_PAIRS:
        row["fvu_refit_pairs"] = planted.least_squares(
            *targets, given=tuple(map(model.nfm.interaction_out, both))
        )
        row |= found(model.nfm, codes, match, world)
    return row


def directions(model: nn.Module) -> Tensor:
    """What each feature of an SAE or a joint model writes: its row of the decoder, and of the linear path where there is one."""
    return model.sae.W_dec + model.nfm.W_lin if isinstance(model, JointSAE) else model.W_dec


def matched(learned: Tensor, true: Tensor) -> tuple[float, Tensor]:
    """One learned feature for each true one such that the cosines add up to the most: their median, and the features."""
    cosine = true @ normalize(learned, dim=1).T
    rows, columns = linear_sum_assignment(cosine.numpy(), maximize=True)
    return cosine[rows, columns].median().item(), torch.from_numpy(columns)


def bought(codes: Tensor, products: Tensor) -> float:
    """Share of the planted products that correlate by more than 0.5 with the code of some one feature."""
    together = torch.corrcoef(torch.cat([products, codes], 1).T)[
        : products.shape[1], products.shape[1] :
    ]
    return (together.nan_to_num(0.0).amax(1) > 0.5).double().mean().item()


def found(nfm: NFM, codes: Codes, match: Tensor, world: World) -> dict:
    """The pair measures of `run`, over all pairs of true features, each at its mean level where it fires."""
    every = torch.combinations(torch.arange(len(match)))
    dense = codes.dense(len(nfm.V))
    levels = dense.sum(0) / (dense > 0).sum(0).clamp(min=1)
    scores = {
        "difference": pairs.second_differences(nfm, match[every], levels),
        "factors": pairs.factor_effects(nfm, match[every], levels, codes),
    }
    truth = torch.zeros(len(match), len(match), dtype=torch.bool)
    row = {}
    if world.products.shape[-1] == 2:
        truth[world.products[:, 0], world.products[:, 1]] = True
    truth = truth[every[:, 0], every[:, 1]]
    if truth.any():
        for name, score in scores.items():
            row[f"auprc_{name}"], row[f"recall_{name}"] = pairs.agreement(score, truth)
    reported = scores["difference"] >= REPORTED * world.config.strength
    top = scores["difference"].sort(descending=True).indices[:TOP]
    row["top"] = list(zip(scores["difference"][top].tolist(), truth[top].tolist(), strict=True))
    return row | {"reported": int(reported.sum()), "false": int((reported & ~truth).sum())}


def trials(base: Trial, **values: Sequence) -> list[Trial]:
    """Every combination of the listed values of a trial's or its world's fields, all of them checked.

    Raises ValueError for an unknown field, an empty list, or a combination that cannot be, which it names.
    """
    inside, outside = ({f.name for f in fields(c)} - {"world"} for c in (base.world, base))
    for name, listed in values.items():
        choose("sweep parameter", name, sorted(inside | outside))
        if not len(listed):
            raise ValueError(f"the sweep over {name} is empty: give it at least one value")
    made = []
    for combination in product(*values.values()):
        chosen = dict(zip(values, combination, strict=True))
        try:
            world = replace(base.world, **{name: v for name, v in chosen.items() if name in inside})
            made.append(
                replace(
                    base, world=world, **{name: v for name, v in chosen.items() if name in outside}
                )
            )
        except ValueError as e:
            raise ValueError(
                f"the sweep cannot run {', '.join(f'{k} = {v!r}' for k, v in chosen.items())}: {e}"
            ) from e
    return made


def sweep(todo: Sequence[Trial]) -> pd.DataFrame:
    """One row of `run` per trial, as many trials at a time as there are processors."""
    return pd.DataFrame(Parallel(n_jobs=-1)(delayed(run)(trial) for trial in todo))


@torch.no_grad()
def path_fvu(model: TopKSAE | JointSAE, x: Tensor) -> dict[str, float]:
    """FVU of a model's own path, the SAE's output alone, and of the whole model."""
    parts = model.parts(model.encode(x))
    return {
        "own path": planted.share_unexplained(x, parts["sae_out"]),
        "whole model": planted.share_unexplained(x, sum(parts.values())),
    }


@torch.no_grad()
def gain_by_split(model: JointSAE, x: Tensor, splits: Sequence[float]) -> pd.DataFrame:
    """The gain over the own path, in %, if the linear path held the share `split` of the summed decoder; the outputs are the same for all."""
    codes = model.encode(x)
    whole = planted.share_unexplained(x, model.decode(codes))
    summed = codes.dense(model.d_sae) @ directions(model)
    rows = [
        {"split": s, "gain": 100 * (1 - whole / planted.share_unexplained(x, (1 - s) * summed))}
        for s in map(float, splits)
    ]
    return pd.DataFrame(rows)
