"""The exercises that check themselves, by name. `right` is what the page itself uses, or what follows from it; an answer may be off by
`tolerance`, a share of the largest number. `wrong` is what some arrive at, each with what they overlooked. The first of the `hints` says
the least. An answer that is a function is called with each of the `cases`. On a page, `ask` labels the box for the answer.
"""

import math

import numpy as np
import pandas as pd
import torch
from scipy import stats
from statsmodels.stats import power

from companion import designs, estimates, profiles
from companion.chapters import norms
from featint import downstream, planted
from featint.kernels import sparse


def drawn(seed: int, draw, *shape: int) -> torch.Tensor:
    """The same random numbers every time."""
    return draw(*shape, generator=torch.Generator().manual_seed(seed))


def top_k(x, k):
    codes = sparse.encode(x, torch.eye(x.shape[1]), torch.zeros(x.shape[1]), k)
    return codes.dense(x.shape[1])


def kept(x, places):
    return torch.zeros_like(x).scatter(1, places, x.gather(1, places))


def pooled(c, V):
    return sparse.bi_interaction(sparse.Codes(c[None], torch.arange(len(c))[None]), V)


K, D = profiles.paper().sae.k, profiles.paper().nfm.d_factor


def own_path(e, s):
    """Its FVU, where the model's is e and the linear path says the share s of the reconstruction r."""
    r = (1 - e) ** 0.5 * torch.tensor([[1.0], [-1], [1], [-1]])
    error = e**0.5 * torch.tensor([[1.0], [1], [-1], [-1]])
    return planted.fvu(r + error, (1 - s) * r)


def kl(clean, spliced):
    clean, nothing = downstream.Clean.of(clean), torch.zeros(len(clean), dtype=torch.long)
    return downstream.compare(clean, spliced, nothing)["kl"]


def weighed(by, clean, spliced):
    return (by.softmax(-1) * (clean.log_softmax(-1) - spliced.log_softmax(-1))).sum(-1)


WORDS = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.8, 0.2]]).log()


def of_contrast(statistic):
    """A function of activations from one of what each topic's contrast is."""
    return lambda activation: statistic(activation @ designs.INTERACTION)


CELLS = [4, 6, 5, 3]
OF_ALL_THREE = estimates.both_random((0.0081, 0.0007, 0.0005), (4, 1499, 5996))[0]


def over_seeds(gains):
    frame = pd.DataFrame({"gain": gains}).rename_axis(columns="model")
    return estimates.over_seeds(frame)[["value", "lo", "hi"]].iloc[0]


def both_sides(gains, quantile, error):
    return gains.mean() + np.array([0, -1, 1]) * quantile * error


def t(gains):
    return stats.t.ppf(0.975, len(gains) - 1)


def found(alpha=0.05, share=0.8, **known):
    return power.TTestPower().solve_power(alpha=alpha, power=share, **known)


EXERCISES = {
    "superposition-top-k": {
        "cases": [
            (torch.tensor([[3.0, -1, 2, 5], [-4, -3, -2, 1]]), 2),
            (drawn(0, torch.randn, 5, 8), 3),
        ],
        "right": top_k,
        "tolerance": 1e-5,
        "hints": [
            "`x.clamp(min=0)` is ReLU.",
            "`x.topk(k).indices` says where the k largest of each row are; `scatter` puts numbers there into a tensor of zeros.",
        ],
        "wrong": [
            (
                lambda x, k: kept(x, x.topk(k).indices),
                "some of what is left is below zero. ReLU comes first.",
            ),
            (
                lambda x, k: kept(x, x.abs().topk(k).indices),
                "a large negative number is not a large one. ReLU comes first.",
            ),
            (
                lambda x, k: x.clamp(min=0),
                "that is ReLU alone. No more than k numbers of a row may stay.",
            ),
        ],
    },
    "superposition-halfway": {
        "ask": "cosine of the angle",
        "right": math.cos(2 * math.pi / 5 / 2),
        "tolerance": 0.01,
        "hints": [
            "Five spokes divide the full circle into five equal angles.",
            "Halfway is half of such an angle: 36 degrees.",
        ],
        "wrong": [
            (
                math.cos(2 * math.pi / 5),
                "that is the cosine between two neighbouring spokes, and the direction lies halfway.",
            ),
            (36, "36 degrees is the angle. Its cosine is asked for."),
        ],
    },
    "fm-pooled": {
        "cases": [(drawn(n, torch.rand, n), drawn(n, torch.randn, n, 3)) for n in (1, 2, 5)],
        "right": pooled,
        "tolerance": 1e-3,
        "hints": [
            "`c @ V` is the sum of the features' vectors, each times its code.",
            "Its square holds every pair twice and every feature with itself once; the latter is `c**2 @ V**2`.",
        ],
        "wrong": [
            (
                lambda c, V: (c @ V) ** 2 / 2 - c**2 @ V**2,
                "that is the formula without its bracket; one feature alone must give zero.",
            ),
            (lambda c, V: (c @ V) ** 2 - c**2 @ V**2, "every pair is counted twice."),
            (
                lambda c, V: (c @ V) ** 2,
                "every feature is paired with itself, too; one feature alone must give zero.",
            ),
        ],
    },
    "fm-cost": {
        "ask": "products in the double loop, for each one in the formula",
        "right": K * (K - 1) / 2 * 2 * D / (3 * K * D + D),
        "tolerance": 0.03,
        "hints": [
            "k features make k (k − 1) / 2 pairs, each with d products of entries and d by the product of the codes.",
            "The formula takes 3 k d + d, so that d drops out of the ratio.",
        ],
        "wrong": [
            (
                K * (K - 1) / 2 / (3 * K + 1),
                "each pair takes two products per entry, of the two vectors and by the codes.",
            )
        ],
    },
    "joint-own-path": {
        "cases": [(0.25, 0.5), (0.1, 0.9), (0.3, 0.0)],
        "right": own_path,
        "tolerance": 1e-4,
        "hints": [
            "x − (1 − s) r = (x − r) + s r, two parts at right angles: their squared lengths add up.",
            "Of the variance, x − r has the share e and r the share 1 − e.",
        ],
        "wrong": [
            (
                lambda e, s: e + s * (1 - e),
                "lengths were added. Squared lengths add up, so that s is squared.",
            ),
            (
                lambda e, s: e + (1 - s) ** 2 * (1 - e),
                "s is the share that the own path lacks, not the one that it has.",
            ),
            (
                lambda e, s: 1 - e / (e + s**2 * (1 - e)),
                "that is the gain. Of the own path the FVU is asked for.",
            ),
        ],
    },
    "joint-half": {
        "ask": "gain at s = 1/2, per cent",
        "right": 100 * (1 - 0.25 / own_path(0.25, 0.5)),
        "tolerance": 0.01,
        "hints": [
            "The own path's FVU is e + s² (1 − e).",
            "At e = 1/4 and s = 1/2 that is 1/4 + 3/16.",
        ],
        "wrong": [
            (60, "the own path lacks s r, whose squared length is s² times that of r."),
            (75, "that is what the whole model explains. The gain compares the two errors."),
        ],
    },
    "splice-kl": {
        "cases": [tuple(drawn(seed, torch.randn, 2, 4, 6)) for seed in (0, 1)],
        "right": kl,
        "tolerance": 1e-3,
        "hints": [
            "`logits.log_softmax(-1)` are the logarithms of the probabilities.",
            "Weigh the difference of the logarithms, clean less spliced, by the clean probabilities, and add up over the last dimension.",
        ],
        "wrong": [
            (
                lambda clean, spliced: weighed(spliced, spliced, clean),
                "that is KL(q || p). The truth, by which is weighed, is the clean model.",
            ),
            (
                lambda clean, spliced: weighed(clean, clean, spliced) / math.log(2),
                "that is in bits. Nats take the natural logarithm.",
            ),
            (
                lambda clean, spliced: (clean.softmax(-1) * (clean - spliced)).sum(-1),
                "logits are no logarithms of probabilities before they are normalised.",
            ),
        ],
    },
    "splice-words": {
        "ask": "KL divergence, nats",
        "right": kl(*WORDS).item(),
        "tolerance": 0.01,
        "hints": [
            "Two words, two summands: 0.5 log(0.5 / 0.8) and 0.5 log(0.5 / 0.2).",
            "The logarithm is the natural one.",
        ],
        "wrong": [
            (kl(*WORDS[::-1]).item(), "that is KL(q || p). The truth is one half each."),
            (kl(*WORDS).item() / math.log(2), "that is in bits. Nats take the natural logarithm."),
        ],
    },
    "norm-share": {
        "cases": [tuple(np.random.default_rng(0).uniform(0.1, 2, (3, 5)))],
        "right": lambda *lengths: norms.weight_shares(*lengths)["nfm"],
        "tolerance": 1e-6,
        "hints": [
            "The NFM has two of the three vectors.",
            "Its share is their length over that of all three.",
        ],
        "wrong": [
            (lambda d, m, e: d / (d + m + e), "that is the decoder's share."),
            (
                lambda d, m, e: (m**2 + e**2) / (d**2 + m**2 + e**2),
                "the definition takes lengths, not squared lengths.",
            ),
        ],
    },
    "norm-steps": {
        "ask": "way of the rare feature, in multiples of that in the plot",
        "right": 4**0.5 / 4,
        "tolerance": 0.01,
        "hints": [
            "It moves by the root of f of a full step per training step.",
            "f is four times as large, and there is a quarter of the steps.",
        ],
        "wrong": [
            (2, "twice as far per step. There is only a quarter of the steps."),
            (
                1,
                "it is seen as often, but Adam's step does not grow with what is in a batch in proportion.",
            ),
            (4, "Adam divides by the root of the mean square, which grows, too."),
        ],
    },
    "designs-F": {
        "cases": [
            (np.random.default_rng(seed).normal(size=(8, 4)) + np.arange(8)[:, None],)
            for seed in (0, 1)
        ],
        "right": lambda activation: designs.contrast_tests(activation[:, :, None]).F[2],
        "tolerance": 1e-6,
        "hints": [
            "Every topic gives one number: its difference of differences, `activation @ designs.INTERACTION`.",
            "F is the square of the t of these numbers against zero: their mean over its standard error.",
        ],
        "wrong": [
            (
                lambda activation: (
                    len(activation)
                    * (activation @ designs.INTERACTION).mean() ** 2
                    / (4 * activation.var(axis=0, ddof=1).mean())
                ),
                "the error contains how topics differ in level. Every topic is compared with itself.",
            ),
            (
                of_contrast(lambda c: c.mean() / c.std(ddof=1) * len(c) ** 0.5),
                "that is t, and F is its square.",
            ),
            (
                of_contrast(lambda c: len(c) * c.mean() ** 2 / c.var()),
                "the variance of a sample divides by n − 1 (`ddof=1`).",
            ),
            (
                of_contrast(lambda c: c.mean() ** 2 / c.var(ddof=1)),
                "the mean of n topics varies by an n-th of their variance.",
            ),
        ],
    },
    "designs-by-hand": {
        "ask": "the interaction in the exercise",
        "right": designs.INTERACTION @ CELLS,
        "tolerance": 1e-3,
        "hints": [
            "How much does emotion add in formal sentences?",
            "Take away how much it adds in casual ones.",
        ],
        "wrong": [
            (-designs.INTERACTION @ CELLS, "right but for the sign. It is formal less casual."),
            (designs.WEIGHTS[0] @ CELLS, "that is the main effect of register."),
            (designs.WEIGHTS[1] @ CELLS, "that is the main effect of mood."),
            (designs.INTERACTION @ CELLS / 2, "a difference of differences is not halved."),
        ],
    },
    "seeds-both": {
        "ask": "standard error",
        "right": OF_ALL_THREE**0.5,
        "tolerance": 0.01,
        "hints": [
            "Add the first two variances and take the third off once.",
            "A standard error is the root of a variance.",
        ],
        "wrong": [
            ((0.0081 + 0.0007) ** 0.5, "what both contain was counted twice."),
            (OF_ALL_THREE, "that is the variance. The standard error is its root."),
            (0.0007**0.5, "that is silent about other seeds."),
        ],
    },
    "seeds-interval": {
        "cases": [(np.random.default_rng(n).normal(0.5, 1, n),) for n in (3, 5, 12)],
        "right": over_seeds,
        "tolerance": 1e-3,
        "hints": [
            "The standard error of a mean is the standard deviation (`ddof=1`) over the root of n.",
            "`scipy.stats.t.ppf(0.975, n - 1)` of these to either side.",
        ],
        "wrong": [
            (
                lambda g: both_sides(g, stats.norm.ppf(0.975), stats.sem(g)),
                "with few seeds 1.96 is too hopeful. Student's t has n - 1 degrees of freedom.",
            ),
            (
                lambda g: both_sides(g, t(g), g.std(ddof=1)),
                "so much do single seeds differ. Their mean differs by that over the root of n.",
            ),
            (
                lambda g: both_sides(g, t(g), stats.sem(g, ddof=0)),
                "the standard deviation of a sample divides by n - 1 (`ddof=1`).",
            ),
        ],
    },
    "seen-topics": {
        "ask": "topics",
        "right": found(effect_size=0.25),
        "tolerance": 0.03,
        "hints": [
            "The rule: the limit is about 2.8 over the root of n.",
            "Solve it for n: (2.8 / 0.25)².",
        ],
        "wrong": [
            (2.8 / 0.25, "that is the root of n."),
            (
                (1.96 / 0.25) ** 2,
                "that many find it in one of two experiments. The 0.84 is missing.",
            ),
            (24 / 0.25 * 0.5, "half the effect takes four times the topics, not twice."),
        ],
    },
    "seen-limit": {
        "cases": [(6, 0.05), (24, 0.05), (24, 0.001)],
        "right": lambda n, alpha: found(alpha, nobs=n),
        "tolerance": 0.04,
        "hints": [
            "Statsmodels has it: `statsmodels.stats.power.TTestPower().solve_power`, with all but the effect size given.",
            "By simulation: raise the effect until four of five tests give p < alpha.",
        ],
        "wrong": [
            (
                lambda n, alpha: (stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(0.8)) / n**0.5,
                "with few topics the normal distribution is too hopeful. Student's t has n − 1 degrees of freedom.",
            ),
            (lambda n, alpha: found(alpha, 0.5, nobs=n), "that one of two experiments find."),
            (lambda n, alpha: found(nobs=n), "the level is alpha, not always 5 %."),
        ],
    },
}
