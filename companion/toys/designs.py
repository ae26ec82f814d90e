"""Simulated 2x2 designs whose truth is known: what the walkthrough on factorial designs tests, and
how tests go wrong."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from companion.designs import INTERACTION

FACTORS = {"register": ("casual", "formal"), "mood": ("neutral", "emotional")}
CELLS = pd.MultiIndex.from_product(FACTORS.values(), names=FACTORS)
"""Labels of the four cells, in the order of `designs.WEIGHTS`."""


def sample(
    means: Sequence[float], n_topics: int, topic_sd: float, noise_sd: float, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One sentence per topic and cell: the design (factors, topic) and one feature's values."""
    rng = np.random.default_rng(seed)
    level = np.repeat(topic_sd * rng.normal(size=n_topics), 4)
    feature = np.tile(means, n_topics) + level + noise_sd * rng.normal(size=4 * n_topics)
    design = pd.concat({t: CELLS.to_frame() for t in range(n_topics)}, names=["topic"])
    return design.reset_index("topic").reset_index(drop=True), pd.DataFrame({"feature": feature})


def pseudo_replication(
    topic_sds: Sequence[float],
    sentences: Sequence[int] = (1, 2, 4, 8, 16),
    n_topics: int = 12,
    draws: int = 500,
    seed: int = 0,
) -> pd.DataFrame:
    """False positives of the interaction at 5 % when topics differ in it but on average show none.

    The noise between sentences has standard deviation 1, that of a topic's cells `topic_sds` (one
    `panel` each). `x`: sentences of a topic in each cell. `every sentence`: each an observation,
    cells pooled; `topics`: one contrast per topic.
    """
    rng, rows = np.random.default_rng(seed), []
    for sd in topic_sds:
        for r in sentences:
            cell = sd * rng.normal(size=(draws, n_topics, 4, 1))
            y = cell + rng.normal(size=(draws, n_topics, 4, r))
            contrast = y.mean(axis=(1, 3)) @ INTERACTION
            error = np.sqrt(y.var(axis=(1, 3), ddof=1).mean(axis=1) * 4 / (n_topics * r))
            naive = 2 * stats.t.sf(np.abs(contrast) / error, 4 * (n_topics * r - 1))
            topics = stats.ttest_1samp(y.mean(axis=3) @ INTERACTION, 0, axis=1).pvalue
            rates = (naive < 0.05).mean(), (topics < 0.05).mean()
            rows.append((f"topics differ by {sd:g}", r, *rates))
    return pd.DataFrame(rows, columns=["panel", "x", "every sentence", "topics"])


def double_dipping(
    n_topics: Sequence[int],
    n_features: Sequence[int] = (1, 10, 100, 1000),
    draws: int = 200,
    seed: int = 0,
) -> pd.DataFrame:
    """Standardised contrast of the best of `x` features that do nothing, on the topics that chose
    it (`where chosen`) and, with the sign that the choice saw, on as many others (`other half`).

    One `panel` per number of topics in a half.
    """
    rng, rows = np.random.default_rng(seed), []
    for n in n_topics:
        for m in n_features:
            scores = rng.normal(size=(draws, 2, n, m))
            d = scores.mean(axis=2) / scores.std(axis=2, ddof=1)
            best = np.abs(d[:, 0]).argmax(axis=1)
            chosen, other = d[np.arange(draws), 0, best], d[np.arange(draws), 1, best]
            rows.append(
                (f"{n} topics a half", m, np.abs(chosen).mean(), (np.sign(chosen) * other).mean())
            )
    return pd.DataFrame(rows, columns=["panel", "x", "where chosen", "other half"])
