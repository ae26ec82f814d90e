"""The 2x2 design with topic as random factor: repeated-measures ANOVA of many features at once, and what it finds when labels mean nothing.

Each topic appears in all four cells, so each effect is one contrast score per topic, and its F(1, n - 1) is the square of the one-sample t
of these scores. That is the whole repeated-measures ANOVA of a 2x2 design: effects with one degree of freedom need no sphericity correction.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

Factors = Mapping[str, tuple[str, str]]
"""Two factors, each with its two levels in the order low, high: {"formality": ("casual", "formal"), "emotion": ("neutral", "emotional")}."""

CELLS = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Levels (first factor, second factor) of the four cells, in the order used everywhere."""
WEIGHTS = np.array([[-0.5, -0.5, 0.5, 0.5], [-0.5, 0.5, -0.5, 0.5], [1.0, -1.0, -1.0, 1.0]])
"""Contrasts over the four cells: high minus low for each factor, and the difference of differences for their interaction."""


def effect_names(factors: Factors) -> list[str]:
    """The two factors and their interaction: ["formality", "emotion", "formality x emotion"]."""
    if len(factors) != 2 or any(len(set(levels)) != 2 for levels in factors.values()):
        raise ValueError(
            f"factors = {dict(factors)!r} must be two factors with two different levels each"
        )
    return [*factors, " x ".join(factors)]


def cell_index(frame: pd.DataFrame, factors: Factors) -> np.ndarray:
    """The cell (0 to 3, as in CELLS) of each row. Raises ValueError for a missing column or an unknown label, naming the row."""
    effect_names(factors)
    index = np.zeros(len(frame), dtype=int)
    for factor, levels in factors.items():
        if factor not in frame.columns:
            raise ValueError(
                f"column {factor!r} is missing; there are: {', '.join(map(repr, frame.columns))}"
            )
        unknown = ~frame[factor].isin(levels).to_numpy()
        if unknown.any():
            row, label = frame.index[unknown.argmax()], frame[factor].iloc[unknown.argmax()]
            raise ValueError(
                f"{factor} = {label!r} in row {row!r} is not known; allowed: {', '.join(map(repr, levels))}"
            )
        index = 2 * index + (frame[factor] == levels[1]).to_numpy()
    return index


def cells(
    design: pd.DataFrame, values: pd.DataFrame, factors: Factors, unit: str = "topic"
) -> np.ndarray:
    """Sort observations into an array (units, 4 cells, features); units in sorted order.

    `design` has columns `unit` and the two factors; `values` has the same rows and one column per feature. Raises ValueError, naming row and
    value, for rows that do not match, an unknown label, a unit that lacks a cell or has it twice, a value that is not finite, or one unit only.
    """
    if not design.index.equals(values.index):
        raise ValueError(
            f"design has {len(design)} rows and values {len(values)}: their indexes must be the same"
        )
    cell = cell_index(design, factors)
    if design[unit].isna().any():
        raise ValueError(f"{unit} is missing in row {design.index[design[unit].isna().argmax()]!r}")
    array = values.to_numpy(dtype=float)
    if (bad := ~np.isfinite(array)).any():
        row, column = np.argwhere(bad)[0]
        raise ValueError(
            f"feature {values.columns[column]!r} = {array[row, column]} in row {values.index[row]!r} is not finite"
        )
    codes, units = pd.factorize(design[unit], sort=True)
    position = 4 * codes + cell
    if (twice := pd.Series(position).duplicated().to_numpy()).any():
        at = twice.argmax()
        raise ValueError(
            f"{unit} {design[unit].iloc[at]!r} has {_label(int(cell[at]), factors)} twice: again in row {design.index[at]!r}"
        )
    if missing := sorted(set(range(4 * len(units))) - set(position)):
        raise ValueError(
            f"{unit} {units[missing[0] // 4]!r} has no {_label(missing[0] % 4, factors)}: each {unit} needs all four cells"
        )
    if len(units) < 2:
        raise ValueError(
            f"{len(units)} {unit} is too few: the ANOVA takes its error from differences between at least 2"
        )
    return array[np.argsort(position)].reshape(len(units), 4, -1)


def _label(cell: int, factors: Factors) -> str:
    return "/".join(levels[i] for levels, i in zip(factors.values(), CELLS[cell], strict=True))


class Effects(NamedTuple):
    """The three effects of every feature; arrays (3, features)."""

    estimate: np.ndarray
    F: np.ndarray
    p: np.ndarray


def effects(data: np.ndarray) -> Effects:
    """F tests of the three contrasts from `cells`' array (units, 4, features).

    A contrast that is 0 for every unit has F = 0 and p = 1: a feature that never fires shows no effect rather than none that can be computed.
    """
    n = len(data)
    scores = np.einsum("ec,ucf->euf", WEIGHTS, data)
    estimate, variance = scores.mean(axis=1), scores.var(axis=1, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        F = np.where(estimate == 0, 0.0, n * estimate**2 / variance)
    return Effects(estimate, F, stats.f.sf(F, 1, n - 1))


def rm_anova(
    design: pd.DataFrame, values: pd.DataFrame, factors: Factors, unit: str = "topic"
) -> pd.DataFrame:
    """Two-way repeated-measures ANOVA of every column of `values`, in one pass.

    Returns one row per feature and effect: feature, effect, estimate (high minus low; for the interaction the difference of differences, in
    the units of `values`), F, df1, df2, p, partial_eta2 = F / (F + df2), and q, the p adjusted over features by Benjamini and Hochberg
    (1995) within each effect. Hand over live features only: those that never fire would water down the adjustment. Raises as `cells` does.
    """
    data = cells(design, values, factors, unit)
    found, df2 = effects(data), len(data) - 1
    names = effect_names(factors)
    with np.errstate(invalid="ignore"):
        partial_eta2 = np.where(np.isinf(found.F), 1.0, found.F / (found.F + df2))
    q = stats.false_discovery_control(found.p, axis=1)
    return pd.DataFrame(
        {
            "feature": np.tile(values.columns, 3),
            "effect": np.repeat(names, values.shape[1]),
            **{"estimate": found.estimate.ravel(), "F": found.F.ravel(), "df1": 1, "df2": df2},
            **{"p": found.p.ravel(), "partial_eta2": partial_eta2.ravel(), "q": q.ravel()},
        }
    )


def shuffled_passes(
    design: pd.DataFrame,
    values: pd.DataFrame,
    factors: Factors,
    unit: str = "topic",
    draws: int = 100,
    alpha: float = 0.05,
    seed: int = 0,
) -> pd.DataFrame:
    """How many features pass when the four labels are shuffled within each unit: the yardstick for how many pass with the true ones.

    All features share each shuffle, so that their correlations stay. Returns one row per draw and effect: draw, effect, p_passes (p < alpha)
    and q_passes (q < alpha, adjusted as in `rm_anova`).
    """
    data, rng, rows = cells(design, values, factors, unit), np.random.default_rng(seed), []
    for draw in range(draws):
        order = rng.permuted(np.tile(np.arange(4), (len(data), 1)), axis=1)
        p = effects(np.take_along_axis(data, order[:, :, None], axis=1)).p
        q = stats.false_discovery_control(p, axis=1)
        rows += zip(
            [draw] * 3, effect_names(factors), (p < alpha).sum(1), (q < alpha).sum(1), strict=True
        )
    return pd.DataFrame(rows, columns=["draw", "effect", "p_passes", "q_passes"])


def sign_flip(scores: np.ndarray, draws: int = 2000, seed: int = 0) -> np.ndarray:
    """Exact two-sided test of mean 0 for each column of contrast scores (units, features), without assuming normality.

    Under the null hypothesis a unit's contrast is as likely as its negative. Flipping signs leaves the sum of squares alone, so |t| orders the
    draws as |sum| does. p counts the data as one of the draws: (1 + draws at least as extreme) / (1 + draws).
    """
    if not np.isfinite(scores).all():
        raise ValueError(
            f"scores hold {int((~np.isfinite(scores)).sum())} values that are not finite"
        )
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(draws, len(scores)))
    observed = np.abs(scores.sum(axis=0))
    return (1 + (np.abs(signs @ scores) >= observed * (1 - 1e-12)).sum(axis=0)) / (1 + draws)


def contrast_scores(
    design: pd.DataFrame, values: pd.DataFrame, factors: Factors, unit: str = "topic"
) -> dict[str, np.ndarray]:
    """Per effect the contrast of each unit and feature, (units, features): what `sign_flip` tests and figures show."""
    scores = np.einsum("ec,ucf->euf", WEIGHTS, cells(design, values, factors, unit))
    return dict(zip(effect_names(factors), scores, strict=True))
