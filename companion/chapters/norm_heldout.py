"""What a feature's norm predicts about it on held-out text: firing rate, topic selectivity, effect of its removal, and by which path it acts."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import pingouin
import statsmodels.formula.api as smf
import torch
from scipy import stats as st

from companion import stats
from companion.stats import Estimate
from featint import effects, metrics, runs
from featint.activations import Activations
from featint.contributions import LINEAR_STD
from featint.effects import parted
from featint.kernels.sparse import Codes
from featint.runs import Trained

MIN_FIRED = 20
"""Features active on fewer held-out tokens have no measured effect."""
BINS, MIN_GROUP = 20, 10
"""Firing rates are matched in so many bins of equally many features; a group needs so many features within the bins that hold both groups."""
EVERY = 3
"""Effects are measured on every third block of text; rates and selectivity on all."""
NO_TOPIC = "Uncategorized"
OUTCOMES = {
    "rate": "firing rate",
    "selectivity": "topic selectivity",
    "ablation": "effect of its removal",
}
"""What a norm might predict on held-out text."""


def selectivity(codes: Sequence[Codes], acts: Activations, d_sae: int) -> np.ndarray:
    """(d_sae,) how much a feature keeps to one topic: between 0 and 1, chance 1 / number of topics, NaN where it fires in one half of the articles only.

    The topic in which it fires most often is chosen on half of the articles. On the other half: its rate there, over the sum of its rates in all
    topics. Mean of both directions. Choosing and measuring on the same articles would make every rare feature look selective.
    """
    half, topic = acts.article % 2, acts.topic
    tokens = torch.stack(
        [torch.bincount(topic[half == h], minlength=len(acts.topics)) for h in (0, 1)]
    )
    usable = [
        t
        for t, name in enumerate(acts.topics)
        if name != NO_TOPIC and bool((tokens[:, t] > 0).all())
    ]
    cell = (half * len(acts.topics) + topic).split([len(c.acts) for c in codes])
    counts = torch.zeros(2 * len(acts.topics) * d_sae, dtype=torch.int64)
    for part, at in zip(codes, cell, strict=True):
        fires = (part.acts > 0).cpu()
        counts += torch.bincount(
            (at[:, None] * d_sae + part.indices.cpu())[fires], minlength=len(counts)
        )
    rates = (counts.view(2, -1, d_sae) / tokens[..., None].clamp(min=1))[:, usable].double()
    found = [
        other.gather(0, chosen.argmax(0, keepdim=True))[0]
        / other.sum(0).where((other.sum(0) > 0) & (chosen.sum(0) > 0), torch.nan)
        for chosen, other in (rates, rates.flip(0))
    ]
    return ((found[0] + found[1]) / 2).numpy()


def known(measured: pd.DataFrame) -> pd.DataFrame:
    """`effects.by_feature` with NaN for the effects of features that fired too rarely to tell."""
    return measured.where(measured.fired >= MIN_FIRED).assign(fired=measured.fired)


class Observed(NamedTuple):
    """A model on held-out text."""

    features: pd.DataFrame
    """`norms.history`, and `rate`, `selectivity`, `low` (norm below the split) and the columns of `effects.by_feature`."""
    groups: pd.DataFrame | None
    """As `effects.by_group`; None for a model without an NFM."""
    n_tokens: int
    """Tokens behind the effects."""


def observe(m: Trained, table: pd.DataFrame, low: np.ndarray, acts: Activations) -> Observed:
    """Measure every feature on held-out activations; `table` is the model's `norms.history`, `low` says which features have a low norm."""
    pieces, d_sae = acts.pieces(), m.config.sae.d_sae
    with torch.no_grad():
        codes = [m.model.encode(x) for x in pieces]
    some = (
        list(range(0, len(pieces), EVERY)) if len(pieces) >= 2 * EVERY else list(range(len(pieces)))
    )
    blocks = [pieces[i] for i in some], [codes[i] for i in some]
    features = table.join(known(effects.by_feature(m.model, *blocks))).assign(
        rate=metrics.density(codes, d_sae).numpy(),
        selectivity=selectivity(codes, acts, d_sae),
        low=low,
    )
    groups = (
        effects.by_group(m.model, *blocks, torch.tensor(low))
        if parted(m.model)[1] is not None
        else None
    )
    return Observed(features, groups, sum(map(len, blocks[0])))


def matched(features: pd.DataFrame, outcome: str, factor: float = 1.0) -> Estimate:
    """Mean of an outcome over low-norm features minus that over high-norm ones of like firing rate, times `factor`; heteroscedasticity-robust interval.

    Least squares with one intercept per bin of the firing rate; only bins that hold both groups take part, and n counts the features in them.
    """
    known = features[features[outcome].notna()].assign(
        y=lambda f: factor * f[outcome], low=lambda f: f.low.astype(float)
    )
    known = known.assign(
        bin=pd.qcut(known.rate.rank(method="first"), min(BINS, len(known)), labels=False)
        if len(known)
        else 0
    )
    both = known[known.groupby("bin").low.transform("nunique") == 2]
    counts = (int(both.low.sum()), int((1 - both.low).sum()))
    if min(counts) < MIN_GROUP:
        return Estimate(
            None,
            None,
            None,
            len(both),
            f"{counts[0]} low- and {counts[1]} high-norm features have a like firing rate: {MIN_GROUP} of each are needed",
        )
    fit = smf.ols("y ~ low + C(bin)", both).fit(cov_type="HC3")
    return Estimate(float(fit.params["low"]), *map(float, fit.conf_int().loc["low"]), len(both))


def spearman(features: pd.DataFrame, x: str, y: str) -> Estimate:
    """Rank correlation with Fisher's interval; a reason where it is undefined."""
    known = features[[x, y]].dropna()
    if len(known) < 5 or min(known[x].nunique(), known[y].nunique()) < 2:
        return Estimate(
            None, None, None, len(known), f"{len(known)} features, or no variation: no correlation"
        )
    r = float(st.spearmanr(known[x], known[y]).statistic)
    lo, hi = (
        pingouin.compute_esci(stat=r, nx=len(known), ny=len(known), eftype="r", decimals=12)
        if abs(r) < 1
        else (r, r)
    )
    return Estimate(r, float(lo), float(hi), len(known))


def partial(features: pd.DataFrame, outcome: str) -> Estimate:
    """Rank correlation of an outcome with the squared norm, firing rate held fixed."""
    known = features[["s", "rate", outcome]].dropna()
    if len(known) < 6:
        return Estimate(None, None, None, len(known), f"{len(known)} features are too few")
    return stats.partial_spearman(known, "s", outcome, given="rate")


def predictions(observed: dict[str, Observed]) -> pd.DataFrame:
    """What the norm predicts, per model and outcome: `plain` and `partial` rank correlation (firing rate held fixed) and the matched `difference`.

    Cells are `Estimate`s; the firing rate itself has only the plain correlation.
    """
    rows = []
    for model, (features, _, _) in observed.items():
        for outcome, what in OUTCOMES.items():
            nothing = Estimate(
                None, None, None, len(features), "the firing rate is what is held fixed"
            )
            more = (
                (nothing, nothing)
                if outcome == "rate"
                else (partial(features, outcome), matched(features, outcome))
            )
            rows.append((model, what, spearman(features, "s", outcome), *more))
    return pd.DataFrame(rows, columns=["model", "outcome", "plain", "partial", "difference"])


def by_chance(m: Trained, features: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The features of `observe` with decoder and linear shares as another draw of the linear path's initial weights would have made them.

    Decoder and linear path get the same gradient, so that training adds the same to both rows of a feature; their difference stays as drawn. What
    a norm predicts about shares made with a new draw, it does not predict because of anything learned. The interaction path is left out.
    """
    sae, nfm = parted(m.model)
    moved = sae.W_dec - parted(runs.build(m.config, sae.W_dec.shape[1]))[0].W_dec
    drawn = (
        LINEAR_STD * torch.randn(nfm.W_lin.shape, generator=torch.Generator().manual_seed(seed))
        + moved.cpu()
    )
    W_dec = sae.W_dec.cpu().double()
    whole = W_dec + drawn.double()
    share = ((W_dec * whole).sum(1) / whole.square().sum(1)).detach().numpy()
    share = np.where(features.fired >= MIN_FIRED, share, np.nan)
    return features.assign(decoder=share, linear=1 - share, interaction=np.nan)


def cell(found: Estimate) -> str:
    """An estimate as words: `0.12 (0.05 to 0.19)`, or a dash."""
    if found.value is None:
        return "–"
    return f"{found.value:.3f} ({found.lo:.3f} to {found.hi:.3f})".replace("-", "−")


def as_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """`predictions` for readers."""
    names = {
        "plain": "with the norm",
        "partial": "at equal firing rate",
        "difference": "low minus high",
    }
    table = predictions[["model", "outcome"]].assign(
        **{name: predictions[column].map(cell) for column, name in names.items()}
    )
    table["n"] = [min(row.plain.n, row.partial.n) for row in predictions.itertuples()]
    table["remark"] = [
        next((e.reason for e in (row.partial, row.difference) if e.reason), "")
        for row in predictions.itertuples()
    ]
    return table


SHARES = {
    "decoder": "decoder",
    "linear": "linear path",
    "interaction": "interaction path",
    "nfm": "linear and interaction",
}


def effect_table(m: Trained, observed: Observed, seed: int) -> pd.DataFrame:
    """Per path: mean share of a feature's output, low minus high at like firing rate (points), partial correlation with the norm, and that by chance."""
    features, drawn = (
        f.assign(nfm=f.linear + f.interaction.fillna(0))
        for f in (observed.features, by_chance(m, observed.features, seed))
    )
    rows = []
    for share, name in SHARES.items():
        difference, correlation = matched(features, share, factor=100), partial(features, share)
        chance = Estimate(None, None, None, 0) if share == "interaction" else partial(drawn, share)
        rows.append(
            {
                "path": name,
                "mean, %": 100 * features[share].mean(),
                "low minus high, points": cell(difference),
                "with the norm": cell(correlation),
                "by chance": cell(chance),
                "n": correlation.n,
                "remark": difference.reason,
            }
        )
    return pd.DataFrame(rows)


def group_rows(observed: Observed) -> pd.DataFrame:
    """For `figures.intervals`: the variance of x that each path explains through each group that has features, in per cent."""
    there = {
        group
        for group, any_ in (
            ("low", observed.features.low.any()),
            ("high", not observed.features.low.all()),
        )
        if any_
    }
    roles = {"decoder": "sae", "linear": "linear", "interaction": "interaction"}
    return pd.DataFrame(
        [
            {
                "label": f"{path},\n{group} norm",
                "role": roles[path],
                **(100 * row[["value", "lo", "hi"]]),
            }
            for (path, group), row in observed.groups.iterrows()
            if group in there
        ]
    )
