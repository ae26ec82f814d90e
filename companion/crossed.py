"""Interaction contrasts on a table of prompts x words: prompts and words are both samples, so both count as random factors.

Words belong to one of the four cells of a 2x2 design (as in `companion.factorial`) and every word is scored after every prompt. A result that
should hold for other prompts *and* other words needs the variance of both (Clark 1973, the "language-as-fixed-effect fallacy"). The published
analysis, which takes each prompt-word pair for an independent observation, stands beside it.
"""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import statsmodels.formula.api as smf
from scipy import stats
from threadpoolctl import threadpool_limits

from companion.factorial import WEIGHTS, Factors, cell_index

INTERACTION = WEIGHTS[2]


class Crossed(NamedTuple):
    """Values of all prompts and words."""

    values: np.ndarray
    """(prompts, words)"""
    cell: np.ndarray
    """Cell of each word, 0 to 3 in the order of `factorial.CELLS`."""
    prompts: Sequence[str]
    words: Sequence[str]
    """In the order of their first appearance: the published analysis pairs words by their position in their list."""


def crossed(frame: pd.DataFrame, factors: Factors, value: str = "value") -> Crossed:
    """Tidy rows (prompt, word, both factors, `value`) to a table.

    Raises ValueError, naming row and value, for an unknown label, a value that is not finite, a word in two groups, a prompt and word that are
    missing or repeated, fewer than two prompts, or fewer than two words in a cell.
    """
    cell = cell_index(frame, factors)
    if (bad := ~np.isfinite(frame[value].to_numpy(dtype=float))).any():
        raise ValueError(
            f"{value} = {frame[value].iloc[bad.argmax()]!r} in row {frame.index[bad.argmax()]!r} is not finite"
        )
    word_codes, words = pd.factorize(frame["word"])
    prompt_codes, prompts = pd.factorize(frame["prompt"])
    of_word = np.zeros(len(words), dtype=int)
    of_word[word_codes] = cell
    if (torn := of_word[word_codes] != cell).any():
        raise ValueError(
            f"word {frame['word'].iloc[torn.argmax()]!r} is in two groups (row {frame.index[torn.argmax()]!r})"
        )
    counts = np.zeros((len(prompts), len(words)), dtype=int)
    np.add.at(counts, (prompt_codes, word_codes), 1)
    if (counts != 1).any():
        p, w = np.argwhere(counts != 1)[0]
        raise ValueError(
            f"prompt {prompts[p]!r} with word {words[w]!r} has {counts[p, w]} rows, it needs exactly one"
        )
    sizes = np.bincount(of_word, minlength=4)
    if len(prompts) < 2 or sizes.min() < 2:
        raise ValueError(
            f"{len(prompts)} prompts and {sizes.tolist()} words per cell: at least 2 of each are needed to tell effect from noise"
        )
    table = np.empty(counts.shape)
    table[prompt_codes, word_codes] = frame[value]
    return Crossed(table, of_word, list(prompts), list(words))


def dose_slopes(
    frame: pd.DataFrame, multiplier: str = "multiplier", value: str = "value"
) -> pd.DataFrame:
    """One slope per prompt and word: least squares through 0 at multiplier 1, where nothing is clamped; `value` per unit of the multiplier.

    All clamp settings of one feature are doses of one intervention, so they make one test, not one each. The other columns (the word's
    factors) are kept; `linear` is the share of the squared values that the line explains, None where all values are 0.
    Raises ValueError for a multiplier or value that is not finite, or if no multiplier differs from 1.
    """
    for column in (multiplier, value):
        if (bad := ~np.isfinite(frame[column].to_numpy(dtype=float))).any():
            raise ValueError(
                f"{column} = {frame[column].iloc[bad.argmax()]!r} in row {frame.index[bad.argmax()]!r} is not finite"
            )
    dose = frame[multiplier] - 1
    if (dose == 0).all():
        raise ValueError(f"{multiplier} is 1 in all rows: a slope needs at least one other value")
    keys = [c for c in frame.columns if c not in (multiplier, value)]
    parts = frame[keys].assign(xy=dose * frame[value], xx=dose**2, yy=frame[value] ** 2)
    sums = parts.groupby(keys, sort=False)[["xy", "xx", "yy"]].sum().reset_index()
    linear = (sums.xy**2 / (sums.xx * sums.yy).replace(0, np.nan)).astype(object)
    return sums[keys].assign(value=sums.xy / sums.xx, linear=linear.where(linear.notna(), None))


class Test(NamedTuple):
    """One test of the interaction contrast."""

    test: str
    estimate: float
    """Difference of differences, in units of the values."""
    se: float | None
    df: float
    """Denominator degrees of freedom; inf for the mixed model's z."""
    t: float | None
    p: float | None
    """None, like t, where it cannot be computed; `reason` says why."""
    lo: float | None
    hi: float | None
    """95 % interval."""
    reason: str = ""


def _test(name: str, estimate: float, variance: float, df: float) -> Test:
    if variance == 0:
        return Test(
            name,
            estimate,
            0.0,
            df,
            None,
            None,
            None,
            None,
            "the values show no variation to test against",
        )
    se = float(np.sqrt(variance))
    half = stats.t.isf(0.025, df) * se
    return Test(
        name,
        estimate,
        se,
        df,
        estimate / se,
        float(2 * stats.t.sf(abs(estimate) / se, df)),
        estimate - half,
        estimate + half,
    )


def tests(data: Crossed) -> list[Test]:
    """The contrast tested over prompts, over words, and over both.

    by prompt: t of one contrast per prompt. by word: F(1, words - 4) of the 2x2 between words, each averaged over prompts. both: variances of
    both less what they share, V = V_word + V_prompt - V_residual, Satterthwaite's df; in a complete table this is the REML mixed model with
    random words and random prompt x cell terms, components that come out negative set to 0.
    """
    (n_prompts, n_words), counts = data.values.shape, np.bincount(data.cell, minlength=4)
    groups = (
        np.eye(4)[data.cell] / counts[data.cell, None]
    )  # (words, 4): averages the words of a cell
    by_prompt = data.values @ groups
    by_word = data.values.mean(axis=0)
    scores = by_prompt @ INTERACTION
    estimate, leverage = float(scores.mean()), float((INTERACTION**2 / counts).sum())
    word_error = by_word - by_prompt.mean(axis=0)[data.cell]
    residual = data.values - by_prompt[:, data.cell] - word_error
    df_prompt, df_word = n_prompts - 1, n_words - 4
    df_residual = df_prompt * df_word
    v_prompt = scores.var(ddof=1) / n_prompts
    v_word = (word_error**2).sum() / df_word * leverage
    v_residual = (residual**2).sum() / df_residual * leverage / n_prompts
    variance, df = _both((v_prompt, v_word, v_residual), (df_prompt, df_word, df_residual))
    return [
        _test("by prompt", estimate, v_prompt, df_prompt),
        _test("by word", estimate, v_word, df_word),
        _test("both random", estimate, variance, df),
    ]


def mean_test(values: np.ndarray) -> Test:
    """The mean of a table (prompts, words) against 0, prompts and words random; `tests`' "both random" without a design between words."""
    n, estimate = values.shape, float(values.mean())
    if min(n) < 2:
        raise ValueError(
            f"{n[0]} prompts and {n[1]} words: at least 2 of each are needed to tell a mean from noise"
        )
    of_prompt, of_word = values.mean(axis=1, keepdims=True), values.mean(axis=0, keepdims=True)
    residual = values - of_prompt - of_word + estimate
    df = n[0] - 1, n[1] - 1, (n[0] - 1) * (n[1] - 1)
    v = (
        of_prompt.var(ddof=1) / n[0],
        of_word.var(ddof=1) / n[1],
        (residual**2).sum() / df[2] / values.size,
    )
    return _test("mean", estimate, *_both(v, df))


def _both(v: Sequence[float], df: Sequence[float]) -> tuple[float, float]:
    """Variance and Satterthwaite's degrees of freedom from those over prompts, over words, and of the residual that both contain."""
    v_prompt, v_word, v_residual = v
    if v_prompt > v_residual and v_word > v_residual:
        variance = v_prompt + v_word - v_residual
        return variance, variance**2 / sum(x**2 / d for x, d in zip(v, df, strict=True))
    return max(
        zip(v, df, strict=True)
    )  # one source adds nothing to the noise that the other carries too


def mixed_model(data: Crossed) -> Test:
    """The same contrast from a mixed model (statsmodels, REML): fixed 2x2, random words, random prompts and prompt x effect slopes; Wald's z.

    A second opinion on `tests`' "both random"; z ignores how few prompts and words there are.
    """
    scale = data.values.std()
    estimate = tests(data)[0].estimate
    if scale == 0:
        return _test("mixed model", estimate, 0.0, np.inf)
    prompt, word = (index.ravel() for index in np.indices(data.values.shape))
    a, b = np.divmod(data.cell, 2) - np.array([[0.5], [0.5]])
    frame = pd.DataFrame(
        {
            "y": data.values.ravel() / scale,
            "prompt": prompt,
            "word": word,
            "a": a[word],
            "b": b[word],
            "whole": 1,
        }
    )
    frame["ab"] = frame.a * frame.b
    random = {"word": "0 + C(word)", "prompt": "0 + C(prompt)"} | {
        f"prompt_{x}": f"0 + C(prompt):{x}" for x in ("a", "b", "ab")
    }
    # One thread: on a few hundred rows more of them cost time, most of all beside other work. No warnings: statsmodels takes a component at
    # its bound of 0 for trouble; whether the fit converged is checked below.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = smf.mixedlm(
            "y ~ a + b + ab", frame, groups="whole", re_formula="0", vc_formula=random
        ).fit(reml=True, method=["lbfgs", "powell"])
    if not (fit.converged and np.isfinite(fit.bse["ab"])):
        return Test(
            "mixed model",
            estimate,
            None,
            np.inf,
            None,
            None,
            None,
            None,
            "the fit did not converge",
        )
    return _test(
        "mixed model", float(fit.params["ab"]) * scale, float(fit.bse["ab"] * scale) ** 2, np.inf
    )


def published(data: Crossed) -> Test:
    """The published interaction test: one-way F(1, 2n - 2) of two lists of differences, each prompt-word pair an observation.

    Words are paired by their position in their list, high minus low of the second factor, once within each level of the first; t is F's root
    with the sign of the contrast. Raises ValueError if the lists differ in length, since the pairing is then undefined.
    """
    columns = [np.flatnonzero(data.cell == c) for c in range(4)]
    if len({len(c) for c in columns}) > 1:
        raise ValueError(
            f"lists of {[len(c) for c in columns]} words cannot be paired by position: they must be equally long"
        )
    low, high = (
        (data.values[:, columns[1]] - data.values[:, columns[0]]).ravel(),
        (data.values[:, columns[3]] - data.values[:, columns[2]]).ravel(),
    )
    variance = (low.var(ddof=1) + high.var(ddof=1)) / len(low)
    return _test("published", float(high.mean() - low.mean()), float(variance), 2 * len(low) - 2)


def analyse(data: Crossed) -> pd.DataFrame:
    """All tests of one contrast, one row each with the fields of `Test`: by prompt, by word, both random, mixed model, published."""
    table = pd.DataFrame([*tests(data), mixed_model(data), published(data)]).astype(
        {c: object for c in ("se", "t", "p", "lo", "hi")}
    )
    return table.where(table.notna(), None)


def false_positives(
    data: Crossed, shuffles: int = 500, alpha: float = 0.05, seed: int = 0
) -> pd.DataFrame:
    """Share of shuffles of the words' labels in which each test finds p < alpha, with its exact binomial 95 % interval.

    Under shuffled labels there is no interaction to find; a valid test rejects in `alpha` of the shuffles. Columns: test, rate, lo, hi,
    shuffles. Raises ValueError if the values do not vary.
    """
    if data.values.std() == 0:
        raise ValueError("the values do not vary: no test can be made on them")
    rng, hits = np.random.default_rng(seed), {}
    for _ in range(shuffles):
        shuffled = data._replace(cell=rng.permutation(data.cell))
        for result in [*tests(shuffled), published(shuffled)]:
            hits[result.test] = hits.get(result.test, 0) + (
                result.p is not None and result.p < alpha
            )
    rows = [
        (test, n / shuffles, *stats.binomtest(int(n), shuffles).proportion_ci(0.95), shuffles)
        for test, n in hits.items()
    ]
    return pd.DataFrame(rows, columns=["test", "rate", "lo", "hi", "shuffles"])
