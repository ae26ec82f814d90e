"""Claim C5, measured: which features answer to a 2x2 design of sentences, with topics as the sample, and how many would under shuffled labels."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy import stats as st
from torch import Tensor

from companion import factorial, stats, stimuli
from featint import interventions
from featint.activations import Activations
from featint.joint import JointSAE
from featint.kernels.sparse import Codes
from featint.lm import LanguageModel, read
from featint.runs import Trained
from featint.secondary import SecondarySAE

DESIGN, NULL = "formality_emotion", "shuffled labels"
BATCH_SENTENCES = 32
ALPHA = 0.05
BOUND_SHARE = 0.5
"""The smallest interaction of a feature that would matter: one cell departs from additivity by so much of the feature's mean activation."""


class Reader(NamedTuple):
    """How raw activations become the codes of one dictionary."""

    encode: Callable[[Tensor], Codes]
    d_sae: int
    first_position: str = "drop"
    """Whether the separator before a sentence and other sinks count among its tokens; the released code keeps them."""


def readers(model: JointSAE, inside: SecondarySAE, acts: Activations) -> dict[str, Reader]:
    """The way the models were trained: `primary` features and, from the inside of the interaction path, `secondary`."""

    def primary(x: Tensor) -> Codes:
        return model.encode(acts.normalise(x))

    return {
        "primary": Reader(primary, model.d_sae),
        "secondary": Reader(lambda x: inside.encode(model.nfm.hidden(primary(x))), inside.d_sae),
    }


def published_readers(model: JointSAE, inside: SecondarySAE) -> dict[str, Reader]:
    """The same as the released code reads them: raw activations, no pooling, no statistics for the secondary SAE."""
    return {
        "published primary": Reader(model.encode, model.d_sae, "keep"),
        "published secondary": Reader(
            lambda x: inside.sae.encode(interventions.unpooled(model, model.encode(x))),
            inside.d_sae,
            "keep",
        ),
    }


@torch.no_grad()
def responses(
    lm: LanguageModel, design: pd.DataFrame, hook_point: str, dictionaries: Mapping[str, Reader]
) -> dict[str, pd.DataFrame]:
    """Mean activation of every feature over the tokens of each sentence, read after a separator: name -> frame (sentences, features)."""
    found = {name: [] for name in dictionaries}
    texts = design["text"].tolist()
    for first in range(0, len(texts), BATCH_SENTENCES):
        tokens, last = interventions.pad(lm, texts[first : first + BATCH_SENTENCES])
        reading = read(lm, tokens, hook_point)
        sentence = torch.arange(tokens.shape[1], device=last.device) <= last[:, None]
        for name, reader in dictionaries.items():
            counted = sentence if reader.first_position == "keep" else sentence & ~reading.sinks
            dense = reader.encode(reading.x[counted]).dense(reader.d_sae)
            sums = dense.new_zeros(len(tokens), reader.d_sae).index_add_(
                0, counted.nonzero()[:, 0], dense
            )
            found[name].append((sums / counted.sum(1, keepdim=True)).double().cpu())
    return {
        name: pd.DataFrame(torch.cat(parts).numpy(), index=design.index)
        for name, parts in found.items()
    }


class Discovery(NamedTuple):
    """One dictionary on one design: selected on one half of the topics, measured on the other."""

    selection: pd.DataFrame
    """`factorial.rm_anova` of all live features on the discovery half."""
    confirmation: pd.DataFrame
    """The same features on the confirmation half."""
    null: pd.DataFrame
    """`factorial.shuffled_passes` on the discovery half."""
    live: pd.Index
    """Features that fire on any sentence of the discovery half."""

    @property
    def both(self) -> pd.DataFrame:
        """One row per feature and effect; columns of the confirmation half end in `_confirmation`."""
        return self.selection.merge(
            self.confirmation, on=["feature", "effect"], suffixes=("", "_confirmation")
        )

    def ranked(self, effect: str) -> pd.DataFrame:
        """`both` of one effect, the largest F of the discovery half first, indexed by feature."""
        rows = self.both[lambda t: t.effect == effect]
        return rows.sort_values("F", ascending=False, kind="stable").set_index("feature")

    def volcano(self, effect: str) -> pd.DataFrame:
        """Selection half of one effect for `figures.interactions.volcano`: d (mean contrast over its standard deviation), p, q."""
        rows = self.selection[self.selection.effect == effect]
        return rows.assign(d=np.sign(rows.estimate) * np.sqrt(rows.F / (rows.df2 + 1)))[
            ["d", "p", "q"]
        ]

    def least_selective(self, among: pd.Index) -> int:
        """The feature whose largest F of the three effects is smallest on the discovery half."""
        return int(
            self.selection[self.selection.feature.isin(among)].groupby("feature").F.max().idxmin()
        )


def discover(
    design: pd.DataFrame, values: pd.DataFrame, draws: int = 100, seed: int = 0
) -> Discovery:
    """Test every live feature; raises ValueError if none fires on the discovery half."""
    factors = stimuli.factors(design)
    half = {name: design.index[design.half == name] for name in stimuli.HALVES}
    live = values.columns[(values.loc[half["discovery"]] > 0).any()]
    if live.empty:
        raise ValueError(
            "no feature fires on any sentence of the discovery half: there is nothing to test"
        )
    tables = [
        factorial.rm_anova(design.loc[rows], values.loc[rows, live], factors)
        for rows in half.values()
    ]
    rows = half["discovery"]
    return Discovery(
        *tables,
        factorial.shuffled_passes(
            design.loc[rows], values.loc[rows, live], factors, draws=draws, seed=seed
        ),
        live,
    )


class Study(NamedTuple):
    """Claim C5: the designs, what every feature answered, and what was found."""

    designs: dict[str, pd.DataFrame]
    responses: dict[str, dict[str, pd.DataFrame]]
    """Design -> dictionary -> (sentences, features)."""
    found: dict[tuple[str, str], Discovery]
    """(design, dictionary), the null design included."""

    @property
    def effect(self) -> str:
        """The first design's interaction."""
        return factorial.effect_names(stimuli.factors(self.designs[DESIGN]))[2]


def study(
    lm: LanguageModel,
    models: Mapping[str, Trained],
    acts: Activations,
    seed: int = 0,
    draws: int = 100,
) -> Study:
    """Read both designs and test every live feature; the null design is the first one with shuffled labels."""
    designs = {name: stimuli.load(name) for name in stimuli.DESIGNS}
    own = readers(models["sequential"].model, models["secondary"].model, acts)
    published = published_readers(
        models["sequential_published"].model, models["secondary_published"].model
    )
    found = {
        name: responses(
            lm, design, acts.config.hook_point, own | (published if name == DESIGN else {})
        )
        for name, design in designs.items()
    }
    designs[NULL], found[NULL] = stimuli.shuffle_labels(designs[DESIGN], seed), found[DESIGN]
    tested = {
        (name, of): discover(designs[name], found[name][of], draws, seed)
        for name in designs
        for of in own
    }
    return Study(designs, found, tested)


def passes(found: Mapping[tuple[str, str], Discovery]) -> pd.DataFrame:
    """(design, dictionary) -> how many features pass on the discovery half, against shuffled labels, and how many of them hold on the other half.

    `held`: same sign and p < 0.05 on the confirmation half. The two eta columns are medians over the features that passed.
    """
    rows = []
    for (design, dictionary), one in found.items():
        for effect, table in one.both.groupby("effect", sort=False):
            passed = table[table.q < ALPHA]
            held = (passed.p_confirmation < ALPHA) & (
                np.sign(passed.estimate) == np.sign(passed.estimate_confirmation)
            )
            null = one.null[one.null.effect == effect]
            rows.append(
                {
                    "design": design,
                    "dictionary": dictionary,
                    "effect": effect,
                    "live": len(one.live),
                    "pass": len(passed),
                    "shuffled, mean": null.q_passes.mean(),
                    "shuffled, most": int(null.q_passes.max()),
                    "held": int(held.sum()),
                    "eta², selection": passed.partial_eta2.median(),
                    "eta², confirmation": passed.partial_eta2_confirmation.median(),
                    "p < 0.05 shuffled": null.p_passes.mean() / len(one.live),
                }
            )
    return pd.DataFrame(rows)


def cell_means(
    design: pd.DataFrame, values: pd.DataFrame, features: list[int], label: str
) -> pd.DataFrame:
    """Mean activation per feature and cell on the confirmation half, with 95 % intervals over topics: feature, the two factors, value, lo, hi.

    `label`, the dictionary's name, goes before the feature's number.

    Each topic's own level over the four cells is taken out before the interval (Cousineau 2005, with Morey's factor of 4 / 3 on the variance),
    as the comparison between cells is within topics.
    """
    factors, rows = stimuli.factors(design), design.index[design.half == "confirmation"]
    data = factorial.cells(design.loc[rows], values.loc[rows, features], factors)
    within = data - data.mean(axis=1, keepdims=True)
    half_width = st.t.isf((1 - stats.LEVEL) / 2, len(data) - 1) * np.sqrt(
        4 / 3 * within.var(axis=0, ddof=1) / len(data)
    )
    names = list(factors)
    return pd.DataFrame(
        [
            {
                "feature": f"{label} {feature}",
                names[0]: factors[names[0]][a],
                names[1]: factors[names[1]][b],
                "value": mean[i],
                "lo": mean[i] - half_width[c, i],
                "hi": mean[i] + half_width[c, i],
            }
            for c, ((a, b), mean) in enumerate(zip(factorial.CELLS, data.mean(axis=0), strict=True))
            for i, feature in enumerate(features)
        ]
    )


def contrast_over_bound(design: pd.DataFrame, values: pd.DataFrame, feature: int) -> stats.Estimate:
    """A feature's interaction on the confirmation half, over BOUND_SHARE of its mean activation on the discovery half; interval over topics."""
    half = {name: design.index[design.half == name] for name in stimuli.HALVES}
    factors = stimuli.factors(design)
    rows = half["confirmation"]
    scores = factorial.contrast_scores(design.loc[rows], values.loc[rows, [feature]], factors)[
        factorial.effect_names(factors)[2]
    ][:, 0]
    return stats.interval_over_seeds(
        (scores / (BOUND_SHARE * values.loc[half["discovery"], feature].mean())).tolist()
    )


def one_way(design: pd.DataFrame, values: pd.DataFrame) -> pd.DataFrame:
    """The published test: one-way F over the four cells, every sentence an observation, all sentences; index feature, columns F, p, highest cell's mean.

    Features that are the same on all sentences are left out. The test cannot tell an interaction from a main effect.
    """
    cell = factorial.cell_index(design, stimuli.factors(design))
    varied = values.loc[:, values.std() > 0]
    result = st.f_oneway(*(varied[cell == c] for c in range(4)), axis=0)
    return pd.DataFrame(
        {"F": result.statistic, "p": result.pvalue, "high_high": varied[cell == 3].mean()},
        index=varied.columns,
    )


def one_feature_on(
    model: JointSAE, inside: SecondarySAE, feature: int, activation: float, pooled: bool
) -> Float[Tensor, " d_sae"]:
    """Secondary activations when one primary feature is on and nothing else, as in the paper's histogram.

    `pooled=False` as published, with codes @ V and no statistics. With pooling there is no pair to multiply: only the biases are left.
    """
    codes = Codes(
        torch.tensor([[activation]]).to(model.sae.W_enc),
        torch.tensor([[feature]], device=model.sae.W_enc.device),
    )
    if pooled:
        return inside.encode(model.nfm.hidden(codes)).dense(inside.d_sae)[0]
    return inside.sae.encode(interventions.unpooled(model, codes)).dense(inside.d_sae)[0]


def strongest_primary(design: pd.DataFrame, values: pd.DataFrame) -> int:
    """The published choice: the largest |t| of high against low of the first factor, all sentences independent, uncorrected, nothing held out."""
    factor, (low, high) = next(iter(stimuli.factors(design).items()))
    varied = values.loc[:, values.std() > 0]
    t = st.ttest_ind(
        varied[design[factor] == high], varied[design[factor] == low], axis=0
    ).statistic
    return int(varied.columns[np.abs(t).argmax()])
