"""Simulated 2x2 designs whose truth is known: what the walkthrough on factorial designs tests, and how tests go wrong."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from companion import factorial

FACTORS = {"register": ("casual", "formal"), "mood": ("neutral", "emotional")}


def table(means: Sequence[float]) -> pd.DataFrame:
    """A 2x2 table of cell means (order of `factorial.CELLS`) with rows' and columns' means, as one would do it by hand."""
    (rows, (low, high)), (_, columns) = list(FACTORS.items())[0], list(FACTORS.items())[1]
    cells = pd.DataFrame(
        np.reshape(means, (2, 2)), index=pd.Index([low, high], name=rows), columns=list(columns)
    )
    cells["mean"] = cells.mean(axis=1)
    cells.loc["mean"] = cells.mean(axis=0)
    return cells


def effects(means: Sequence[float]) -> dict[str, float]:
    """Both main effects and the interaction of four cell means, by name."""
    return dict(
        zip(
            factorial.effect_names(FACTORS),
            (factorial.WEIGHTS @ np.asarray(means, dtype=float)).tolist(),
            strict=True,
        )
    )


def worlds(named: Mapping[str, Sequence[float]]) -> pd.DataFrame:
    """Several sets of cell means as `figures.interactions.cells` draws them: exact, without intervals."""
    (first, one), (second, two) = FACTORS.items()
    return pd.DataFrame(
        [
            {"feature": name, first: one[a], second: two[b], "value": m, "lo": m, "hi": m}
            for name, means in named.items()
            for (a, b), m in zip(factorial.CELLS, means, strict=True)
        ]
    )


def sample(
    means: Sequence[float], n_topics: int, topic_sd: float, noise_sd: float, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One sentence per topic and cell: design (topic and the factors) and values (one column), for `factorial.rm_anova`."""
    rng = np.random.default_rng(seed)
    (first, one), (second, two) = FACTORS.items()
    design = pd.DataFrame(
        [
            {"topic": t, first: one[a], second: two[b]}
            for t in range(n_topics)
            for a, b in factorial.CELLS
        ]
    )
    level = np.repeat(topic_sd * rng.normal(size=n_topics), 4)
    return design, pd.DataFrame(
        {"feature": np.tile(means, n_topics) + level + noise_sd * rng.normal(size=4 * n_topics)}
    )


def pseudo_replication(
    topic_sds: Sequence[float],
    sentences: Sequence[int] = (1, 2, 4, 8, 16),
    n_topics: int = 12,
    draws: int = 500,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """False positives of the interaction at 5 % when topics differ in it but on average show none, per sentences of a topic in each cell.

    The noise between sentences has standard deviation 1, that of the four cells of a topic `topic_sd`. Per topic_sd a frame: x (sentences),
    `every sentence` (each one an observation, cells pooled) and `topics` (one contrast per topic).
    """
    rng, panels = np.random.default_rng(seed), {}
    for sd in topic_sds:
        rows = []
        for r in sentences:
            y = sd * rng.normal(size=(draws, n_topics, 4, 1)) + rng.normal(
                size=(draws, n_topics, 4, r)
            )
            contrast = y.mean(axis=(1, 3)) @ factorial.WEIGHTS[2]
            error = np.sqrt(y.var(axis=(1, 3), ddof=1).mean(axis=1) * 4 / (n_topics * r))
            naive = 2 * stats.t.sf(np.abs(contrast) / error, 4 * (n_topics * r - 1))
            scores = y.mean(axis=3) @ factorial.WEIGHTS[2]
            rows.append(
                (
                    r,
                    (naive < 0.05).mean(),
                    (stats.ttest_1samp(scores, 0, axis=1).pvalue < 0.05).mean(),
                )
            )
        panels[f"topics differ by {sd:g}"] = pd.DataFrame(
            rows, columns=["x", "every sentence", "topics"]
        )
    return panels


def double_dipping(
    n_topics: Sequence[int],
    n_features: Sequence[int] = (1, 10, 100, 1000),
    draws: int = 200,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """Standardised contrast of the best of many features that do nothing, on the topics that chose it and on as many others.

    Per number of topics in a half a frame: x (features), `where chosen` and `other half`, the latter with the sign that the choice saw.
    """
    rng, panels = np.random.default_rng(seed), {}
    for n in n_topics:
        rows = []
        for m in n_features:
            scores = rng.normal(size=(draws, 2, n, m))
            d = scores.mean(axis=2) / scores.std(axis=2, ddof=1)
            best = np.abs(d[:, 0]).argmax(axis=1)
            chosen, other = (
                np.take_along_axis(d[:, half], best[:, None], axis=1)[:, 0] for half in (0, 1)
            )
            rows.append((m, np.abs(chosen).mean(), (np.sign(chosen) * other).mean()))
        panels[f"{n} topics a half"] = pd.DataFrame(
            rows, columns=["x", "where chosen", "other half"]
        )
    return panels
