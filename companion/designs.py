"""2x2 designs: does a feature, or a clamp, answer to two factors *together*?

Sentences: every topic is one sentence in each of the four cells, so topics are the sample. Each
effect is one contrast per topic, its F(1, n - 1) the square of their one-sample t; effects with one
degree of freedom need no sphericity correction, so that this is the whole repeated-measures ANOVA.

Words: every word belongs to a cell and is scored after every prompt. What should hold for other
prompts *and* other words needs the variance of both (Clark 1973, the "language-as-fixed-effect
fallacy"). The published test, with each pair an independent observation, stands beside it.
"""

import warnings
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import statsmodels.formula.api as smf
from scipy import stats
from statsmodels.stats.proportion import proportion_confint
from threadpoolctl import threadpool_limits

from companion import estimates
from featint.config import choose

Factors = Mapping[str, tuple[str, str]]
"""Two factors with their levels, low before high: {"formality": ("casual", "formal"), ...}."""
WEIGHTS = np.array([[-0.5, -0.5, 0.5, 0.5], [-0.5, 0.5, -0.5, 0.5], [1.0, -1.0, -1.0, 1.0]])
"""Contrasts over the cells low/low, low/high, high/low, high/high: high minus low of each factor,
and the difference of differences."""
INTERACTION = WEIGHTS[2]
ALPHA = 0.05


def effect_names(factors: Factors) -> list[str]:
    """The two factors and their interaction: ["formality", "emotion", "formality x emotion"]."""
    if len(factors) != 2 or any(len(set(levels)) != 2 for levels in factors.values()):
        raise ValueError(f"factors = {dict(factors)!r} must be two, with two different levels each")
    return [*factors, " x ".join(factors)]


def cell_index(frame: pd.DataFrame, factors: Factors) -> np.ndarray:
    """The cell (0 to 3, as in WEIGHTS) of each row. Raises ValueError for an unknown label."""
    effect_names(factors)
    index = np.zeros(len(frame), dtype=int)
    for factor, levels in factors.items():
        for row, label in frame[factor].items():
            choose(f"row {row!r}: {factor}", label, levels)
        index = 2 * index + (frame[factor] == levels[1]).to_numpy()
    return index


def cells(design: pd.DataFrame, values: pd.DataFrame, factors: Factors) -> np.ndarray:
    """Sentences sorted into an array (topics, 4 cells, features), topics in sorted order.

    `design` has columns `topic` and the two factors, `values` the same rows and a column per
    feature. Raises ValueError for rows that do not match, an unknown label, a topic without
    exactly one sentence in every cell, a value that is not finite, or fewer than two topics.
    """
    if not design.index.equals(values.index):
        raise ValueError(f"{len(design)} rows of design and {len(values)} of values do not match")
    estimates.require(values)
    cell_index(design, factors)  # its labels are known
    topics = sorted(design["topic"].unique())
    cells = pd.MultiIndex.from_product([topics, *factors.values()], names=["topic", *factors])
    counts = design.value_counts(cells.names).reindex(cells, fill_value=0)
    if (wrong := counts[counts != 1]).size:
        (topic, *labels), n = wrong.index[0], wrong.iloc[0]
        raise ValueError(f"topic {topic!r} has {n} sentences in {'/'.join(labels)}, not one")
    if len(topics) < 2:
        raise ValueError(f"{len(topics)} topic is too few: the error is how topics differ")
    values = values.set_axis(pd.MultiIndex.from_frame(design[cells.names])).reindex(cells)
    return values.to_numpy(dtype=float).reshape(len(topics), 4, -1)


class ContrastTests(NamedTuple):
    """The three effects of every feature; arrays (3, features)."""

    estimate: np.ndarray
    F: np.ndarray
    p: np.ndarray


def contrast_tests(data: np.ndarray) -> ContrastTests:
    """F tests of the three contrasts in an array (topics, 4 cells, features).

    A contrast that is 0 for every topic has F = 0 and p = 1: a feature that never fires shows no
    effect, rather than none that can be computed.
    """
    n = len(data)
    per_topic = np.einsum("ec,tcf->etf", WEIGHTS, data)
    estimate, variance = per_topic.mean(axis=1), per_topic.var(axis=1, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        F = np.where(estimate == 0, 0.0, n * estimate**2 / variance)
    return ContrastTests(estimate, F, stats.f.sf(F, 1, n - 1))


def rm_anova(design: pd.DataFrame, values: pd.DataFrame, factors: Factors) -> pd.DataFrame:
    """Two-way repeated-measures ANOVA of every column of `values`, in one pass.

    One row per feature and effect: feature, effect, estimate (high minus low, or the difference of
    differences; unit of `values`), F, df1, df2, p, partial_eta2 = F / (F + df2), and q, the p
    adjusted over features by Benjamini and Hochberg (1995) within each effect. Hand over live
    features only: those that never fire would water down the adjustment. Raises as `cells`.
    """
    data = cells(design, values, factors)
    tests, df2 = contrast_tests(data), len(data) - 1
    q = stats.false_discovery_control(tests.p, axis=1)
    columns = {name: array.ravel() for name, array in (tests._asdict() | {"q": q}).items()}
    rows = [effect_names(factors), values.columns]
    index = pd.MultiIndex.from_product(rows, names=["effect", "feature"])
    table = pd.DataFrame(columns, index).reset_index()
    eta2 = 1 - df2 / (table.F + df2)  # 1 where F is infinite
    return table.assign(df1=1, df2=df2, partial_eta2=eta2)


def shuffled_passes(
    design: pd.DataFrame, values: pd.DataFrame, factors: Factors, draws: int = 100, seed: int = 0
) -> pd.DataFrame:
    """How many features pass when each topic's four labels are dealt anew: what chance would do.

    All features share each shuffle, so that their correlations stay. One row per draw and effect:
    draw, effect, p_passes (p < 0.05) and q_passes (q < 0.05, adjusted as in `rm_anova`).
    """
    data, rng, rows = cells(design, values, factors), np.random.default_rng(seed), []
    for draw in range(draws):
        order = rng.permuted(np.tile(np.arange(4), (len(data), 1)), axis=1)
        p = contrast_tests(np.take_along_axis(data, order[:, :, None], axis=1)).p
        q = stats.false_discovery_control(p, axis=1)
        passes = (p < ALPHA).sum(1), (q < ALPHA).sum(1)
        rows += zip([draw] * 3, effect_names(factors), *passes, strict=True)
    return pd.DataFrame(rows, columns=["draw", "effect", "p_passes", "q_passes"])


def cell_means(design: pd.DataFrame, values: pd.DataFrame, factors: Factors) -> pd.DataFrame:
    """Mean per feature and cell, its 95 % interval over topics: factors, feature, value, lo, hi.

    Each topic's own level over the four cells is taken out before the interval (Cousineau 2005,
    with Morey's factor of 4/3 on the variance), as cells are compared within topics.
    """
    data = cells(design, values, factors)
    within, n = data - data.mean(axis=1, keepdims=True), len(data)
    half = stats.t.isf(0.025, n - 1) * np.sqrt(4 / 3 * within.var(axis=0, ddof=1) / n)
    names = [*factors, "feature"]
    index = pd.MultiIndex.from_product([*factors.values(), values.columns], names=names)
    value, half = (pd.Series(x.ravel(), index) for x in (data.mean(axis=0), half))
    return pd.DataFrame({"value": value, "lo": value - half, "hi": value + half}).reset_index()


def crossed(frame: pd.DataFrame, factors: Factors) -> pd.DataFrame:
    """Tidy rows (prompt, word, both factors, value) as a table (prompts, words), in the order of
    their first appearance; columns have the levels `cell` and `word`.

    Raises ValueError for an unknown label, a value that is not finite, a word in two groups, a pair
    of prompt and word that is missing or repeated, or fewer than two prompts or words in a cell.
    """
    estimates.require(frame[["value"]])
    rows = frame[["prompt", "word", "value"]].assign(cell=cell_index(frame, factors))
    words = rows[["cell", "word"]].drop_duplicates()
    if (torn := words.word.duplicated()).any():
        raise ValueError(f"word {words.word[torn].iloc[0]!r} is in two groups")
    if (twice := rows.duplicated(["prompt", "word"])).any():
        raise ValueError("prompt {!r} with word {!r} stands twice".format(*rows[twice].iloc[0]))
    table = rows.pivot(index="prompt", columns=["cell", "word"], values="value")
    table = table.reindex(index=rows.prompt.unique(), columns=pd.MultiIndex.from_frame(words))
    if (lacking := table.isna().stack(["cell", "word"]).loc[lambda x: x]).size:
        prompt, _, word = lacking.index[0]
        raise ValueError(f"prompt {prompt!r} with word {word!r} has no value")
    sizes = words.cell.value_counts().reindex(range(4), fill_value=0).tolist()
    if len(table) < 2 or min(sizes) < 2:
        raise ValueError(f"{len(table)} prompts and {sizes} words per cell: it takes 2 of each")
    return table


class Contrast(NamedTuple):
    """A contrast and how sure it is."""

    estimate: float
    variance: float
    """Of the estimate; NaN where it cannot be had."""
    df: float
    """Degrees of freedom; infinite for a z test."""


def t_tests(contrasts: Mapping[object, Contrast]) -> pd.DataFrame:
    """Two-sided tests by name: estimate, se, df, t, F = t², p, and the 95 % interval lo, hi.

    NaN where the values show no variation to test against.
    """
    table = pd.DataFrame(list(contrasts.values()), contrasts.keys(), Contrast._fields, float)
    se = np.sqrt(table.pop("variance"))
    t = table["estimate"] / se.where(se > 0)
    half = stats.t.isf(0.025, table["df"]) * se.where(se > 0)
    ends = {"lo": table["estimate"] - half, "hi": table["estimate"] + half}
    return table.assign(se=se, t=t, F=t**2, p=2 * stats.t.sf(t.abs(), table["df"]), **ends)


def interactions(table: pd.DataFrame, mixed: bool = False) -> pd.DataFrame:
    """`t_tests` of the `contrasts` of a `crossed` table; with `mixed`, of `mixed_model` too."""
    also = {"mixed model": mixed_model(table)} if mixed else {}
    return t_tests(contrasts(table) | also).rename_axis("test")


def contrasts(table: pd.DataFrame) -> dict[str, Contrast]:
    """The interaction contrast of a `crossed` table (prompts, words), by what counts as the sample.

    by prompt: one contrast per prompt. by word: the 2x2 between words, each averaged over prompts.
    both random: the variances of both less what they share, V = V_word + V_prompt - V_residual,
    with Satterthwaite's df; in a complete table this is the REML mixed model with random words and
    random prompt x cell terms, negative components set to 0. published: one-way F(1, 2n - 2) of two
    lists of differences, high minus low of the second factor, words paired by their position in
    their list and each pair after each prompt an observation.

    Raises ValueError if the four lists of words differ in length.
    """
    values, cell = table.to_numpy(), table.columns.get_level_values("cell").to_numpy()
    (n_prompts, n_words), counts = values.shape, np.bincount(cell, minlength=4)
    if len(set(counts)) > 1:
        raise ValueError(f"{counts} words per cell cannot be paired by their position")
    by_prompt = values @ (np.eye(4)[cell] / counts[cell, None])  # cell means (prompts, 4)
    by_word = values.mean(axis=0)
    per_prompt = by_prompt @ INTERACTION
    estimate, leverage = float(per_prompt.mean()), float((INTERACTION**2 / counts).sum())
    word_error = by_word - by_prompt.mean(axis=0)[cell]
    residual = values - by_prompt[:, cell] - word_error
    df = n_prompts - 1, n_words - 4, (n_prompts - 1) * (n_words - 4)
    v_prompt = per_prompt.var(ddof=1) / n_prompts
    v_word = (word_error**2).sum() / df[1] * leverage
    v_residual = (residual**2).sum() / df[2] * leverage / n_prompts
    by_cell = [values[:, cell == c] for c in range(4)]
    pairs = np.stack([by_cell[1] - by_cell[0], by_cell[3] - by_cell[2]]).reshape(2, -1)
    n_pairs = pairs.shape[1]
    both = estimates.both_random((v_prompt, v_word, v_residual), df)
    return {
        "by prompt": Contrast(estimate, v_prompt, df[0]),
        "by word": Contrast(estimate, v_word, df[1]),
        "both random": Contrast(estimate, *both),
        "published": Contrast(estimate, pairs.var(axis=1, ddof=1).sum() / n_pairs, 2 * n_pairs - 2),
    }


def mean_test(values: np.ndarray) -> pd.Series:
    """The mean of an array (prompts, words) against 0, both random: one row of `t_tests`."""
    n, estimate = values.shape, float(values.mean())
    if min(n) < 2:
        raise ValueError(f"{n[0]} prompts and {n[1]} words: it takes 2 of each")
    of_prompt, of_word = values.mean(axis=1, keepdims=True), values.mean(axis=0, keepdims=True)
    residual = values - of_prompt - of_word + estimate
    df = n[0] - 1, n[1] - 1, (n[0] - 1) * (n[1] - 1)
    of_residual = (residual**2).sum() / df[2] / values.size
    v = of_prompt.var(ddof=1) / n[0], of_word.var(ddof=1) / n[1], of_residual
    return t_tests({"mean": Contrast(estimate, *estimates.both_random(v, df))}).loc["mean"]


def mixed_model(table: pd.DataFrame) -> Contrast:
    """The contrast by a mixed model (statsmodels, REML): fixed 2x2, random words, random prompts
    and prompt x effect slopes. Its z ignores how few prompts and words there are."""
    scale = table.to_numpy().std()
    if scale == 0:
        return Contrast(0.0, 0.0, np.inf)
    frame = table.stack(["cell", "word"], future_stack=True).rename("y").reset_index()
    a, b = frame.cell // 2 - 0.5, frame.cell % 2 - 0.5
    frame = frame.assign(y=frame.y / scale, a=a, b=b, ab=a * b, all=1)
    random = {"word": "0 + C(word)", "prompt": "0 + C(prompt)"}
    random |= {f"prompt_{x}": f"0 + C(prompt):{x}" for x in ("a", "b", "ab")}
    # One thread: on a few hundred rows more of them cost time. No warnings: statsmodels takes a
    # component at its bound of 0 for trouble; whether the fit converged is checked below.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = smf.mixedlm(
            "y ~ a + b + ab", frame, groups="all", re_formula="0", vc_formula=random
        ).fit(reml=True, method=["lbfgs", "powell"])
    variance = float(fit.bse["ab"] * scale) ** 2 if fit.converged else np.nan
    return Contrast(float(fit.params["ab"]) * scale, variance, np.inf)


def false_positives(table: pd.DataFrame, shuffles: int = 500, seed: int = 0) -> pd.DataFrame:
    """In which share of shuffles of the words' labels each test finds p < 0.05.

    Under shuffled labels there is no interaction to find; a valid test rejects in 5 % of them.
    Index test; rate, its exact binomial 95 % interval lo, hi, `tail`, the chance of a rate so far
    from 5 %, and shuffles. Raises ValueError if the values do not vary.
    """
    if table.to_numpy().std() == 0:
        raise ValueError("the values do not vary: no test can be made on them")
    rng, found = np.random.default_rng(seed), {}
    for shuffle in range(shuffles):
        dealt = table.set_axis(table.columns[rng.permutation(table.shape[1])], axis=1)
        found |= {(shuffle, test): contrast for test, contrast in contrasts(dealt).items()}
    rejected = (t_tests(found)["p"] < ALPHA).groupby(level=1, sort=False).sum().rename_axis("test")
    lo, hi = proportion_confint(rejected, shuffles, method="beta")
    tail = [stats.binomtest(count, shuffles, ALPHA).pvalue for count in rejected]
    rates = {"rate": rejected / shuffles, "lo": lo, "hi": hi, "tail": tail}
    return pd.DataFrame(rates).assign(shuffles=shuffles)
