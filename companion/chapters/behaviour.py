"""The splice as the released code does it, and tests that take tokens for what they count."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import statsmodels.api as sm
from scipy import stats
from torch import Tensor

from companion import estimates
from companion.profiles import Profile
from featint import downstream, harvest, interventions
from featint.downstream import Condition
from featint.lm import LanguageModel
from featint.runs import Trained

MOST_WINDOWS = 40
"""No share is larger: all conditions with five twins each on more windows would take hours and say
no more about the main comparisons."""
TOKEN = ["article", "window", "position"]


def share_of(n: int, share: float) -> int:
    """That share of n windows, at least two and at most `MOST_WINDOWS`."""
    return min(n, max(2, min(MOST_WINDOWS, round(n * share))))


def published_conditions(models: Mapping[str, Trained]) -> dict[str, Condition]:
    """As the released code splices: raw activations go in and what comes out is put back, without
    the statistics of the training.

    The sequential model runs on the SAE at its full k, although its NFM was fitted at a quarter of
    it; its interaction path alone is its MLP on the factors themselves, not on pooled products.
    """
    sae, sequential = models["sae_published"].model, models["sequential_published"].model
    joint, nfm = models["joint_published"].model, sequential.nfm

    def unpooled(codes) -> Tensor:
        return interventions.unpooled(nfm, codes).relu() @ nfm.W_out + nfm.b_out

    def added(*paths) -> Condition:
        def reconstruct(x: Tensor) -> Tensor:
            codes = sae.encode(x)
            return sae.decode(codes) + sum(path(codes) for path in paths)

        return reconstruct

    return {
        "sae": added(),
        "sequential_linear": added(nfm.linear_out),
        "sequential_interaction": added(unpooled),
        "sequential": added(nfm.linear_out, nfm.interaction_out),
        "joint_own_path": downstream.by_path(joint, "own_path"),
        "joint_linear": downstream.by_path(joint, "plus_linear"),
        "joint_interaction": downstream.by_path(joint, "plus_interaction"),
        "joint": downstream.by_path(joint),
    }


def splice_published(
    language_model: LanguageModel,
    conditions: Mapping[str, Condition],
    p: Profile,
    n: int,
    draws: int = 0,
) -> pd.DataFrame:
    """`downstream.evaluate` as the released code does it: on the first n training windows, first
    positions replaced too, and one block after the one that the models were trained on."""
    _, block, site = p.harvest.hook_point.split(".", 2)
    later = replace(p.harvest, hook_point=f"blocks.{int(block) + 1}.{site}")
    windows = harvest.windows(p.harvest).windows["train"].first(n)
    seed = p.seeds[0]
    return downstream.evaluate(language_model, windows, later, conditions, draws, seed, "keep")


def contributions(
    kl: pd.DataFrame, models: Mapping[str, Sequence[str]], draws: int, **same
) -> pd.DataFrame:
    """KL removed by each path, in per cent of the KL with neither: added alone, last, and the mean
    of both (Shapley), see `estimates.path_shares`.

    `kl` has one row per article; `models` names the columns without paths, with the linear one,
    with the interaction one, and with both.
    """

    def removed(total: pd.DataFrame) -> dict:
        found = {}
        for model, columns in models.items():
            none, linear, interaction, both = (total[column] for column in columns)
            shares = estimates.path_shares(none, linear, interaction, both)
            for (path, kind), share in shares.items():
                found[model, path, f"contribution_{kind}"] = 100 * share * (none - both) / none
        return found

    names = ("model", "part", "quantity")
    return estimates.bootstrap(kl, removed, draws, names=names, unit="%", **same)


def unpaired_tests(
    rows: pd.DataFrame, measure: str, pairs: Sequence[tuple[str, str]]
) -> pd.DataFrame:
    """Student's t tests of mean(model) - mean(baseline) that take every token for independent and
    for unpaired, as the paper does: columns model, baseline, n (tokens of the model), t, p.

    `rows` are those of `downstream.evaluate`; the baseline `eps_random` is the SAE's random twins.
    """
    own = rows[rows.draw < 0].groupby("condition", observed=True)[measure]
    twins = rows.loc[(rows.draw >= 0) & (rows.condition == "sae"), measure]
    tests = []
    for model, baseline in pairs:
        a = own.get_group(model)
        b = twins if baseline == "eps_random" else own.get_group(baseline)
        t, p = stats.ttest_ind(a, b)
        tests.append({"model": model, "baseline": baseline, "n": len(a), "t": t, "p": p})
    return pd.DataFrame(tests)


def three_tests(rows: pd.DataFrame, model: str, baseline: str) -> pd.DataFrame:
    """Three t tests of mean KL(model) - mean KL(baseline) that differ in what they count: single
    tokens of two samples (the published choice), paired tokens, and paired tokens in articles
    (cluster-robust variance, df = articles - 1). Only the last is valid.

    `rows` are those of `downstream.evaluate`. Raises ValueError for tokens that one of the two
    lacks, or a single article.
    """
    kl = rows[rows.draw < 0].pivot(index=TOKEN, columns="condition", values="kl")
    a, b = kl[model], kl[baseline]
    estimates.require(kl[[model, baseline]])
    article, articles = pd.factorize(kl.index.get_level_values("article"))
    if len(articles) < 2:
        raise ValueError("all tokens are of one article: a clustered test needs at least 2")
    robust = sm.OLS(a - b, np.ones(len(kl))).fit(
        cov_type="cluster", cov_kwds={"groups": article}, use_t=True
    )
    tests = {
        "tokens, two samples": (2 * len(kl), stats.ttest_ind(a, b)),
        "tokens, paired": (len(kl), stats.ttest_rel(a, b)),
    }
    table = [
        (test, n, found.statistic, found.df, found.pvalue, *found.confidence_interval())
        for test, (n, found) in tests.items()
    ]
    df, t, p = len(articles) - 1, robust.tvalues.iloc[0], robust.pvalues.iloc[0]
    ends = robust.conf_int().to_numpy()[0]
    table.append(("tokens, paired, clustered", len(articles), t, df, p, *ends))
    table = pd.DataFrame(table, columns=["test", "n", "t", "df", "p", "lo", "hi"])
    table.insert(2, "difference", (a - b).mean())
    return table


def over_seeds(rows: Mapping[int, pd.DataFrame], pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Per cent of the baseline's KL, and of its rise in cross-entropy, that a model removes: mean
    over seeds with Student's interval, for pairs (model, baseline).

    `rows` are those of `downstream.evaluate` by seed, on the same windows.
    """
    by_seed = []
    for each in rows.values():
        total = downstream.sums(each).sum()
        losses = {"kl": total["kl"], "ce": total["ce_spliced"] - total["ce_clean", ""]}
        removed = {
            (model, f"{name}_reduction_over_seeds", baseline): 1 - loss[model] / loss[baseline]
            for name, loss in losses.items()
            for model, baseline in pairs
        }
        by_seed.append(100 * pd.Series(removed))
    frame = pd.DataFrame(by_seed).rename_axis(columns=["model", "quantity", "baseline"])
    return estimates.over_seeds(frame, unit="%")
