"""Splices of several seeds, also as released, and tests that take tokens for what they count."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import statsmodels.api as sm

from companion import estimates
from companion.profiles import Profile
from featint import downstream, harvest
from featint.config import HarvestConfig
from featint.corpora import Windows
from featint.downstream import Condition
from featint.lm import LanguageModel


def share_of(n: int, share: float) -> int:
    """That share of n windows, at least two; at most 40, since more would take hours."""
    return min(n, max(2, min(40, round(n * share))))


def splice(
    language_model: LanguageModel,
    windows: Windows,
    site: HarvestConfig,
    conditions: Mapping[int, Mapping[str, Condition]],
    **how,
) -> pd.DataFrame:
    """Rows of `downstream.evaluate` of each `seed`'s conditions; one clean run serves them all."""
    flat = {f"{seed} {c}": f for seed, of in conditions.items() for c, f in of.items()}
    rows = downstream.evaluate(language_model, windows, site, flat, **how)
    rows[["seed", "condition"]] = rows["condition"].str.split(" ", n=1, expand=True)
    return rows.astype({"seed": int})


def splice_published(
    language_model: LanguageModel,
    conditions: Mapping[int, Mapping[str, Condition]],
    p: Profile,
    n: int,
    draws: int = 0,
) -> pd.DataFrame:
    """`splice` as the released code does it: on the first n training windows, first positions
    replaced too, and one block after the one that the models were trained on."""
    windows = harvest.windows(p.harvest).windows["train"].first(n)
    how = {"seed": p.seeds[0], "first_position": "keep"}
    return splice(language_model, windows, one_later(p), conditions, draws=draws, **how)


def one_later(p: Profile) -> HarvestConfig:
    """The same site one block later. Raises ValueError if there is no such block."""
    _, block, site = p.harvest.hook_point.split(".", 2)
    if int(block) + 1 >= p.n_layers:
        said = f"hook_point = {p.harvest.hook_point!r} is in the last of {p.n_layers} blocks"
        raise ValueError(f"{said}, but as published the splice is one later: take an earlier block")
    return replace(p.harvest, hook_point=f"blocks.{int(block) + 1}.{site}")


def three_tests(rows: pd.DataFrame, model: str, baseline: str) -> pd.DataFrame:
    """Three t tests of mean KL(model) - mean KL(baseline) that differ in what they count: single
    tokens of two samples (the published choice), paired tokens, and paired tokens in articles
    (cluster-robust variance, df = articles - 1). Only the last is valid.

    `rows`: of `downstream.evaluate`. Raises ValueError for tokens that one lacks, or one article.
    """
    own, token = rows[rows.draw < 0], ["article", "window", "position"]
    kl = own.pivot(index=token, columns="condition", values="kl")
    estimates.require(kl[[model, baseline]])
    article, articles = pd.factorize(kl.index.get_level_values("article"))
    n, n_articles = len(kl), len(articles)
    if n_articles < 2:
        raise ValueError("all tokens are of one article: a clustered test needs at least 2")
    is_model = np.repeat([1.0, 0.0], n)
    samples = sm.OLS(np.r_[kl[model], kl[baseline]], np.c_[is_model, np.ones(2 * n)])
    paired = sm.OLS((kl[model] - kl[baseline]).to_numpy(), np.ones(n))
    by_article = {"cov_type": "cluster", "cov_kwds": {"groups": article}, "use_t": True}
    fits = [  # the first coefficient is the difference
        ("tokens, two samples", 2 * n, 2 * n - 2, samples.fit()),
        ("tokens, paired", n, n - 1, paired.fit()),
        ("tokens, paired, clustered", n_articles, n_articles - 1, paired.fit(**by_article)),
    ]
    table = [
        (test, n, fit.params[0], fit.tvalues[0], df, fit.pvalues[0], *fit.conf_int()[0])
        for test, n, df, fit in fits
    ]
    return pd.DataFrame(table, columns=["test", "n", "difference", "t", "df", "p", "lo", "hi"])
