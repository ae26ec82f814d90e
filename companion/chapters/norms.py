"""Claim C4: squared norms of directions, their history, modes, and what they predict."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import pingouin
import statsmodels.formula.api as smf
import torch
from jaxtyping import Float
from safetensors.numpy import load_file, save_file
from scipy import stats
from torch import Tensor

from companion import estimates
from featint import corpora, geometry, metrics, path_effects, runs, store, train
from featint.activations import Activations
from featint.config import ModelConfig, to_json
from featint.joint import JointSAE
from featint.kernels.sparse import Codes
from featint.sae import TopKSAE

MULTIPLE = 0.2 / (3200 / (3 * 50_000))
"""The paper parts its features, by eye, at the squared norm 0.2, 9.4 times that at the start."""
RARE = 0.05
"""A rare feature was active on fewer than this share of k / d_sae, the average, of its tokens."""
MIN_WEIGHT = 0.05
"""A mode holds at least this share of the features."""
MIN_FIRED = 20
"""Features active on fewer held-out tokens have no measured effect."""
BINS, MIN_GROUP = 20, 10
"""Bins of like firing rate, and how many features of either group those that hold both need."""
EVERY = 3
"""Effects are measured on every third block of text; rates and selectivity on all."""
KIND = "norm-sweep"
LINEAR_STD, FACTOR_STD = 0.01, 0.05  # of the initial W_lin and V, as in `featint.nfm`


def decoder(model: TopKSAE | JointSAE) -> Tensor:
    """(d_sae, d_in) the SAE's directions."""
    return (model if isinstance(model, TopKSAE) else model.sae).W_dec.detach().cpu()


def history(config: ModelConfig, model: TopKSAE | JointSAE, fired_tokens: Tensor) -> pd.DataFrame:
    """One row per feature: `s` its squared norm, `start` that at the start, `cosine` of its
    direction with the initial one, `updates`, and whether it is `rare`."""
    W = decoder(model)
    initial = decoder(runs.build(config, W.shape[1]))
    rate = fired_tokens.double().numpy() / (config.train.n_steps * config.train.batch_tokens)
    cosine = torch.nn.functional.cosine_similarity(W.double(), initial.double())
    usual = rate.mean() if config.sae.threshold else config.sae.k / config.sae.d_sae
    columns = {
        "s": geometry.norms(W) ** 2,
        "start": geometry.norms(initial) ** 2,
        "cosine": cosine.numpy(),
        "updates": fired_tokens.numpy(),
        "rare": rate < RARE * usual,
    }
    return pd.DataFrame(columns).rename_axis("feature")


def weight_shares(
    decoder: Float[np.ndarray, " d_sae"],
    linear: Float[np.ndarray, " d_sae"] | float,
    interaction: Float[np.ndarray, " d_sae"] | float,
) -> pd.DataFrame:
    r"""The published contribution ratios, from the lengths r, l and e of each feature's rows in the
    decoder, the linear path's matrix and the factor table (released code).

    .. math::
        \text{decoder} = r / T, \quad \text{linear} = l / T, \quad \text{interaction} = e / T, \quad
        \text{nfm} = (l + e) / T, \qquad T = r + l + e

    One row per feature with these columns, and `s`, the squared norm :math:`r^2`.
    """
    total = decoder + linear + interaction
    lengths = {"linear": linear, "interaction": interaction, "decoder": decoder}
    shares = pd.DataFrame({name: length / total for name, length in lengths.items()})
    return shares.assign(nfm=1 - shares["decoder"], s=decoder**2)


def initial_norms(
    d_sae: int, d_in: int, d_factor: int, seed: int | None = None
) -> tuple[np.ndarray, np.ndarray] | tuple[float, float]:
    """Lengths of the rows of the linear path's matrix and of the factor table before training:
    drawn with a seed, (d_sae,) each; without one, what is expected of all of them.

    The length of a row of d Gaussian weights is their standard deviation times chi with d degrees
    of freedom, so that lengths are drawn and not weights.
    """
    chis = ((LINEAR_STD, d_in), (FACTOR_STD, d_factor))
    if seed is None:
        return tuple(std * float(stats.chi(d).mean()) for std, d in chis)
    rng = np.random.default_rng(seed)
    return tuple(std * np.sqrt(rng.chisquare(d, d_sae)) for std, d in chis)


def modes(histories: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Tests of one mode against two, of all features and of those that are not rare, on both
    scales: `geometry.bimodality` with places of modes as squared norms; `p_holm`, the dip's p
    corrected over all rows; `two`, whether two Gaussians fit better than one by BIC, their density
    has a valley, and neither is a handful of outliers. Index model, features, scale."""
    tests = {}
    for model, features in histories.items():
        for which, s in (("all", features.s), ("not rare", features.s[~features.rare])):
            tests[model, which, "s"] = geometry.bimodality(s.to_numpy())
            tests[model, which, "log s"] = geometry.bimodality(np.log(s.to_numpy()))
    index = pd.MultiIndex.from_tuples(tests, names=["model", "features", "scale"])
    table = pd.DataFrame(tests.values(), index)
    table[["low", "high"]] = [pair or (np.nan, np.nan) for pair in table.pop("means")]
    numbers = table.columns.difference(["n", "reason"])
    table = table.astype(dict.fromkeys(numbers, float))  # None becomes NaN: a dash in tables
    logarithms = pd.IndexSlice[:, :, "log s"], ["low", "high", "valley"]
    table.loc[logarithms] = np.exp(table.loc[logarithms])
    weighty = table.low_weight.between(MIN_WEIGHT, 1 - MIN_WEIGHT)
    two = table.valley.notna() & (table.bic_gain > 0) & weighty
    return table.assign(two=two, p_holm=pingouin.multicomp(table.dip_p, method="holm")[1])


def known(value: float, unit: str, reason: str) -> dict:
    """`value` and `unit` of a number; of one that could not be computed, None and the reason."""
    missing = pd.isna(value)
    return {"value": None if missing else float(value), "unit": reason if missing else unit}


def blocks(model: TopKSAE | JointSAE, acts: Activations) -> tuple[list[Tensor], list[Codes]]:
    """Every third block of text, or all if there are few, at least two, and its codes."""
    pieces = acts.pieces(min(4096, -(-len(acts) // 2)))
    some = range(0, len(pieces), EVERY if len(pieces) >= 2 * EVERY else 1)
    return [pieces[i] for i in some], [model.encode(pieces[i]) for i in some]


def observe(model: TopKSAE | JointSAE, history: pd.DataFrame, acts: Activations) -> pd.DataFrame:
    """`history`, and how a model's features behave on held-out text: firing `rate` and
    `selectivity`; `path_effects.by_feature`, NaN for those that fired too rarely to tell."""
    codes = [model.encode(x) for x in acts.pieces()]
    effects = path_effects.by_feature(model, *blocks(model, acts))
    effects = effects.where(effects.fired >= MIN_FIRED).assign(fired=effects.fired)
    labelled = torch.tensor([topic != corpora.NO_TOPIC for topic in acts.topics])
    topic, selectivity = acts.topic.where(labelled[acts.topic], -1), np.nan  # without topics
    if labelled.sum() > 1:
        selectivity = metrics.selectivity(codes, topic, acts.article % 2, model.d_sae).numpy()
    rate = metrics.density(codes, model.d_sae).numpy()
    return history.join(effects).assign(rate=rate, selectivity=selectivity)


def matched(features: pd.DataFrame, outcome: str, **same) -> pd.DataFrame:
    """Mean of an outcome over low-norm features minus that over high-norm ones of like firing rate:
    least squares with one intercept per bin of the rate and heteroscedasticity-robust errors (HC3).
    A tidy frame of one row; n counts the features in bins that hold both groups."""
    there = features.dropna(subset=outcome)
    order = there.rate.rank(method="first")
    there = there.assign(bin=pd.qcut(order, BINS, labels=False, duplicates="drop"))
    both = there[there.groupby("bin").low.transform("nunique") == 2]
    n_low = int(both.low.sum())
    if min(n_low, len(both) - n_low) < MIN_GROUP:
        few = f"{n_low} low- and {len(both) - n_low} high-norm features have a like firing rate"
        reason = f"{few}: {MIN_GROUP} of each are needed"
        return estimates.tidy([{"value": None}], n=len(both), **same | {"unit": reason})
    fit = smf.ols(f"{outcome} ~ low + C(bin)", both).fit(cov_type="HC3")
    value, (lo, hi) = fit.params["low[T.True]"], fit.conf_int().loc["low[T.True]"]
    return estimates.tidy([{"value": value, "lo": lo, "hi": hi}], n=len(both), **same)


def in_words(frame: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """Estimates for readers: a row per model and part, a column per quantity in `names`, the
    smallest n, and why something is missing."""
    words = [estimates.interval(row.value, row.lo, row.hi, ".3f") for row in frame.itertuples()]
    rows = frame.assign(words=words, remark=frame.unit.where(frame.value.isna(), ""))
    by = ["model", "part"]
    about = rows.groupby(by, sort=False).agg(n=("n", "min"), remark=("remark", "max"))
    cells = rows.pivot(index=by, columns="quantity", values="words").fillna("–")
    table = cells[list(names)].rename(columns=names).join(about.astype({"n": int}), how="right")
    return table.infer_objects().reset_index()  # n as whole numbers


def retrained(config: ModelConfig, half: bool = False) -> pd.DataFrame:
    """The `history` of a model trained so, in half precision or not, with `attrs["dead"]`, the
    share of dead features. From the store, which keeps this only, or trained."""
    key = {"model": to_json(config), "half": half}
    how = replace(config.train, half_precision=half)
    if not store.exists(KIND, key):
        acts, _ = runs.training_tokens(config)
        model = runs.build(config, acts.d_in).to(store.device())
        batches = acts.batches(how)
        checkpoint = store.cache() / "checkpoints" / f"{KIND}-{store.key(key)}"
        fitted = train.fit(model, batches, how, checkpoint=checkpoint, label=KIND)
        columns = history(config, model, fitted.fired_tokens.cpu()).items()
        dead = fitted.history.dead_share.iloc[-1]
        with store.create(KIND, key, {"dead": dead}, seed=how.seed) as folder:
            arrays = {name: column.to_numpy() for name, column in columns}
            save_file(arrays, folder / "norms.safetensors")
        store.discard(checkpoint)
    artefact = store.load(KIND, key)
    features = pd.DataFrame(load_file(artefact.file("norms.safetensors")))
    features.attrs["dead"] = artefact.meta["dead"]
    return features
