"""How often the book's 95 % intervals hold the truth, in worlds where it is known:
`python -m benchmarks.coverage OUT.json`, some minutes on one core; resumes.

Articles are drawn with replacement from real ones: `articles.csv` has the sums of the 193 articles
in the test text's first 164 windows, spliced into the language model, from one seed of each model
of the profile `full` (`--articles` measures them anew). Other seeds are made up, as follows.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from companion import designs, estimates, profiles, variants
from companion.chapters import interactions
from featint import activations, downstream, harvest, lm, reconstruction, runs, store

ARTICLES = Path(__file__).with_name("articles.csv")
WORLDS, BATCH = 2000, 100
ABOUT = ("interval", "by", "where", "n", "of", "of_seed")
COUNTS, SEEDS = (10, 20, 49, 300, 1505), 5
OF_ARTICLES = {  # interval: sums, the sum they are divided by, `of_article`, `of_seed`
    "FVU": (["sse_sae"], "sst", 0.99, 0.001),
    "mean KL": (["kl_sae"], "tokens", 0.99, 0.01),
    "gain, squared error": (["sse_joint"], "sse_sae", 0.5, 0.0019),
    "gain, KL": (["kl_joint"], "kl_sae", 0.5, 0.005),
    "gain, rise of the cross-entropy": (["ce_joint"], "ce_sae", 0.5, 0.01),
    "path share (Shapley) of KL": (
        ["kl_linear", "kl_interaction", "kl_both"],
        "kl_sae",
        0.9,
        0.005,
    ),
}
"""`of_article`: what share of the variance of an article's ratio is the article's own, whatever the
seed; the rest is of article and seed together. Variance components of five seeds at the size of
`smoke`: 0.53 for the joint model's gain, 0.89 for the sequential one's, 0.99 for FVU. `of_seed`:
standard deviation of a seed's ratio, as a share; that of the gain in squared error is 0.19 points in
the results of `full`. Both are also tried at none and at threefold."""


def measure() -> pd.DataFrame:
    """The sums of `articles.csv`, in the order in which the articles stand in the text."""
    p = profiles.full()
    config = {name: variants.get(name, p) for name in ("sae", "joint", "sequential")}
    acts, sae = activations.load(p.harvest, "test"), runs.get(config["sae"])
    conditions = {"sae": downstream.of_model(sae, acts)}
    conditions["joint"] = downstream.of_model(runs.get(config["joint"]), acts)
    for name, path in (
        ("linear", "plus_linear"),
        ("interaction", "plus_interaction"),
        ("both", "all"),
    ):
        conditions[name] = downstream.of_model(runs.get(config["sequential"]), acts, path)
    windows = harvest.windows(p.harvest).windows["test"].first(164)
    spliced = downstream.evaluate(lm.load(p.harvest.lm, "float32"), windows, p.harvest, conditions)
    order, losses = spliced["article"].unique(), downstream.sums(spliced)
    sums = reconstruction.sums({name: config[name] for name in ("sae", "joint")})
    errors = sums["sse"].xs("all", axis=1, level="part").add_prefix("sse_")
    rise = losses["ce_spliced"].sub(losses["ce_clean"].squeeze(), axis=0)[["sae", "joint"]]
    columns = [losses["tokens"].squeeze().rename("tokens"), losses["kl"].add_prefix("kl_")]
    columns += [rise.add_prefix("ce_"), sums["sst"].squeeze().rename("sst"), errors]
    return pd.concat(columns, axis=1, join="inner").loc[order].rename_axis("article")


def draw(
    articles: pd.DataFrame, kind: str, n: int, seeds: int, worlds: int, spread: float, rng
) -> tuple[pd.DataFrame, np.ndarray]:
    """Sums by seed and article, a column (world, of what) each, and the true ratios.

    Article a has the real sum B that is divided by, and seed s the sums E = R B + (f u + g v) tokens
    + d B of a model: R the true ratio, u the article's own deviation per token from it, v that of
    another article, drawn for this seed and article, and d the seed's.
    """
    tops, below, of_article, of_seed = OF_ARTICLES[kind]
    size, base = articles["tokens"].to_numpy(), articles[below].to_numpy()
    tops = articles[tops].to_numpy()
    true = tops.sum(0) / base.sum()
    u = (tops - base[:, None] * true) / size[:, None]
    a = rng.integers(len(size), size=(worlds, 1, n))
    own, other = u[a], (u - u.mean(0))[rng.integers(len(size), size=(worlds, seeds, n))]
    if seeds > 1:
        own = math.sqrt(of_article) * own + math.sqrt(1 - of_article) * other
    d = spread * of_seed * true * rng.standard_normal((worlds, seeds, 1, len(true)))
    sums = (true + d * (seeds > 1)) * base[a][..., None] + own * size[a][..., None]
    sums = np.concatenate([sums, np.broadcast_to(base[a][..., None], (worlds, seeds, n, 1))], -1)
    index = pd.MultiIndex.from_product([range(seeds), range(n)])
    table = sums.transpose(1, 2, 0, 3).reshape(seeds * n, -1)
    columns = [f"{world} {of}" for world in range(worlds) for of in (*range(len(true)), "base")]
    return pd.DataFrame(table, index, columns), true


def over_articles(kind: str, sums: pd.DataFrame, true: np.ndarray, worlds: int):
    """The book's interval in each world, and the truth."""
    pairs = [(f"{world} 0", f"{world} base") for world in range(worlds)]
    if kind.startswith("gain"):
        return estimates.gains(sums, pairs), 100 * (1 - true[0])
    if kind.startswith("path share"):

        def shares(total):
            of = {
                world: [total[f"{world} {x}"] for x in ("base", 0, 1, 2)] for world in range(worlds)
            }
            shares = {str(w): estimates.path_shares(*x) for w, x in of.items()}
            return {w: 100 * x["linear", "shapley"] for w, x in shares.items()}

        right = estimates.path_shares(1, *true)["linear", "shapley"]
        return estimates.of_totals(sums, shares), 100 * right

    def ratios(total):
        return {top: total[top] / total[base] for top, base in pairs}

    return estimates.of_totals(sums, ratios), true[0]


def of_articles(kind: str, n: int, seeds: int, spread: float):
    def batch(worlds: int, rng):
        return over_articles(kind, *draw(articles(), kind, n, seeds, worlds, spread, rng), worlds)

    return batch


def articles() -> pd.DataFrame:
    """The real articles' sums."""
    return pd.read_csv(ARTICLES, index_col="article")


def seeds_alone(n: int):
    """`over_seeds`: means of a normal number per seed, on the same text."""

    def batch(worlds: int, rng):
        by_seed = pd.DataFrame(rng.standard_normal((n, worlds))).rename(columns=str)
        return estimates.over_seeds(by_seed.rename_axis(columns="model")), 0.0

    return batch


def correlations(r: float, n: int, given: bool):
    """`spearman`: of normal numbers, which have this correlation once a third is held fixed."""

    def batch(worlds: int, rng):
        found, rank = [], 6 / math.pi * math.asin(r / 2)
        for _ in range(worlds):
            x, y, z = rng.standard_normal((3, n))
            frame = pd.DataFrame({"x": x, "y": r * x + math.sqrt(1 - r * r) * y, "z": z})
            found.append(estimates.spearman(frame, "x", "y", "z" if given else None))
        return pd.concat(found), rank

    return batch


def components(n: int):
    """`jackknife`: how much more of the variance the first principal component of one matrix of
    features holds than that of another, in so many blocks of 20 features."""

    def share(rows: np.ndarray) -> float:
        centred = rows - rows.mean(0)
        spectrum = np.linalg.eigvalsh(centred.T @ centred)
        return spectrum[-1] / spectrum.sum()

    spread = np.sqrt(np.array([4.0, 2, *[1] * 10])), np.sqrt(np.array([3.0, 2, *[1] * 10]))
    true = spread[0][0] ** 2 / (spread[0] ** 2).sum() - spread[1][0] ** 2 / (spread[1] ** 2).sum()

    def batch(worlds: int, rng):
        found = []
        for _ in range(worlds):
            one, two = (s * rng.standard_normal((20 * n, len(s))) for s in spread)
            block = np.arange(20 * n) % n
            found.append(
                estimates.jackknife(
                    lambda kept, one=one, two=two, block=block: {
                        "": share(one[kept[block]]) - share(two[kept[block]])
                    },
                    n,
                )
            )
        return pd.concat(found), true

    return batch


def explained(n: int):
    """`jackknife`: a path's share of the variance explained, in so many blocks of text of some
    articles each, whose activations have a mean of their own."""

    def batch(worlds: int, rng):
        found = []
        for _ in range(worlds):
            article = np.repeat(rng.standard_normal((2, 30 * n)), 20, axis=1)
            one, two = (article + rng.standard_normal(article.shape)) * [[1.0], [0.5]]
            parts = np.stack([one, two, one + two + rng.standard_normal(one.shape)])
            blocks = parts.reshape(3, n, -1)
            first, second = blocks.sum(-1), np.einsum("ibt,jbt->ijb", blocks, blocks)

            def statistic(kept, first=first, second=second, tokens=blocks.shape[-1]):
                mean = first @ kept / (kept.sum() * tokens)
                v = second @ kept / (kept.sum() * tokens) - np.outer(mean, mean)
                return {"": (2 * v[2, 0] - v[0, 0] - v[1, 0]) / v[2, 2]}

            found.append(estimates.jackknife(statistic, n))
        return pd.concat(found), 2 / 3.5  # variances 2 and 0.5 of the paths, 1 of the rest

    return batch


def contrasts(test: str, prompts: int, words: int):
    """`designs.contrasts` in prompts x words without interaction: words differ, prompts answer to
    each cell in their own way, and what an interval takes for given stays the same."""

    def batch(worlds: int, rng):
        cell = np.repeat(range(4), words)
        columns = pd.MultiIndex.from_arrays([cell, range(4 * words)], names=["cell", "word"])
        found, true = {}, []
        for world in range(worlds):
            of_word = 0.5 * rng.standard_normal(4 * words)
            of_prompt = 0.5 * rng.standard_normal((prompts, 4))
            noise = rng.standard_normal((prompts, 4 * words))
            table = pd.DataFrame(of_word + of_prompt[:, cell] + noise, columns=columns)
            found[world] = designs.contrasts(table)[test]
            word = np.bincount(cell, of_word) / words @ designs.INTERACTION
            prompt = of_prompt.mean(0) @ designs.INTERACTION
            true.append({"by prompt": word, "by word": prompt}.get(test, 0.0))
        return designs.t_tests(found), np.array(true)

    return batch


def prompts_and_words(prompts: int, words: int):
    """`designs.mean_test`: the mean of a table of prompts x words, both random."""

    def batch(worlds: int, rng):
        shapes = (worlds, prompts, words), (worlds, prompts, 1), (worlds, 1, words)
        tables = sum(rng.gamma(4, 1, shape) for shape in shapes)  # a skew of 1
        return pd.DataFrame([designs.mean_test(table) for table in tables]), 12.0

    return batch


def clamped(prompts: int, words: int, seeds: int, of_seed: float):
    """`interactions.over_seeds`: all seeds clamp on the same prompts and words, which answer to them
    alike in part. A seed's contrast is drawn around 0, `of_seed` times as wide as what words add to
    it, and turned by as many held-apart prompts (`interactions.turned`), so that the truth is
    E[d sign(d + e)] = sqrt(2 / pi) var(d) / sqrt(var(d) + var(e)), with e what words and held-apart
    prompts add."""

    of_words, of_prompts, of_both = 4 * 0.5 / words, 4 * 0.5 / prompts, 4 / words / prompts
    own = of_seed * math.sqrt(of_words)
    noise_of_sign = of_words + of_prompts + of_both
    true = math.sqrt(2 / math.pi) * own**2 / math.sqrt(own**2 + noise_of_sign)

    def batch(worlds: int, rng):
        cell = np.repeat(range(4), words)
        columns = pd.MultiIndex.from_arrays([cell, range(4 * words)], names=["cell", "word"])
        apart, found = range(prompts), []
        for _ in range(worlds):
            shared, tables = 0.5 * rng.standard_normal(4 * words), []
            answers = 0.5 * rng.standard_normal((2 * prompts, 4))
            for contrast in own * rng.standard_normal(seeds):
                of_word = shared + 0.5 * rng.standard_normal(4 * words)
                of_word += contrast * designs.INTERACTION[cell] / 4
                of_prompt = answers + 0.5 * rng.standard_normal((2 * prompts, 4))
                noise = rng.standard_normal((2 * prompts, 4 * words))
                table = pd.DataFrame(of_word + of_prompt[:, cell] + noise, columns=columns)
                tables.append(interactions.turned(table, apart))
            found.append(interactions.over_seeds(tables))
        return pd.DataFrame(found), true

    return batch


def settings() -> Iterator[tuple[dict, Callable]]:
    """What is simulated: interval, function, chapters, n and what one is of, and a function from a
    number of worlds and a generator to their intervals and the truth."""
    chapters = {
        "FVU": "Reconstruction, Baselines, Best chance",
        "mean KL": "Behaviour, Baselines",
        "gain, squared error": "Reconstruction, Baselines, Waterfall, Best chance, Efficiency, Two decoders",
        "gain, KL": "Behaviour, Baselines, Efficiency",
        "gain, rise of the cross-entropy": "Behaviour, Baselines",
        "path share (Shapley) of KL": "Reconstruction, Behaviour, Efficiency",
    }
    for seeds, spread in ((1, 0.0), (SEEDS, 1.0), (SEEDS, 0.0), (SEEDS, 3.0)):
        for kind, where in chapters.items():
            for n in COUNTS:
                about = {"interval": kind, "by": "of_totals", "where": where, "n": n}
                of = "articles" if seeds == 1 else f"articles x {seeds} seeds"
                yield about | {"of": of, "of_seed": spread}, of_articles(kind, n, seeds, spread)

    def row(interval, by, where, n, of):
        return {"interval": interval, "by": by, "where": where, "n": n, "of": of}

    for n, where in (
        (3, "Planted truth"),
        (5, "Seeds, Behaviour, Planted truth"),
        (32, "Interactions"),
    ):
        of = "topics" if n == 32 else "seeds"
        yield row("mean", "over_seeds", where, n, of), seeds_alone(n)
    yield row("drop of a principal component", "jackknife", "Norms", 20, "blocks"), components(20)
    yield row("share of variance explained", "jackknife", "Norms", 13, "blocks"), explained(13)
    for r, n, given in ((0.3, 100, False), (0.8, 100, False), (0.3, 400, True)):
        name = f"Spearman's r{', one held fixed,' * given} around {r}"
        about = row(name, "spearman", "Norms, Best chance", n, "features")
        yield about, correlations(r, n, given)
    for test in ("by prompt", "by word", "both random"):
        about = row(
            f"2x2 contrast, {test}", "designs.contrasts", "Interactions", 20, "prompts x 64 words"
        )
        yield about, contrasts(test, 20, 16)
    about = row("mean, both random", "designs.mean_test", "Interactions", 20, "prompts x 64 words")
    yield about, prompts_and_words(20, 64)
    for of_seed in (0.0, 1.0, 3.0):
        of = f"prompts x 64 words x {SEEDS} seeds"
        name = "2x2 contrast, seeds random too"
        about = row(name, "interactions.over_seeds", "Interactions", 20, of) | {"of_seed": of_seed}
        yield about, clamped(20, 16, SEEDS, of_seed)


def covers(batch: Callable, worlds: int = WORLDS, seed: int = 0) -> dict:
    """In which share of worlds the interval holds the truth, the share's standard error, how often
    the truth lies below and above, and the median width."""
    rng, below, above, width = np.random.default_rng(seed), [], [], []
    for start in range(0, worlds, BATCH):
        found, true = batch(min(BATCH, worlds - start), rng)
        lo, hi = found["lo"].to_numpy(dtype=float), found["hi"].to_numpy(dtype=float)
        below.append(true < lo)
        above.append(true > hi)
        width.append(hi - lo)
    under, over = np.concatenate(below).mean(), np.concatenate(above).mean()
    share = 1 - under - over
    error = math.sqrt(share * (1 - share) / worlds)
    ends = {"below": under, "above": over, "width": np.median(np.concatenate(width))}
    return {"coverage": share, "error": error, "worlds": worlds} | {
        k: float(x) for k, x in ends.items()
    }


def neighbours() -> list[dict]:
    """How an article's deviation from the ratio correlates with that of the next in the text, with
    which it may share a window."""
    rows, real = [], articles()
    for kind, (tops, below, *_) in OF_ARTICLES.items():
        top = real[tops[0]]
        u = top - real[below] * top.sum() / real[below].sum()
        r = stats.pearsonr(u[:-1], u[1:])
        rows.append(
            {"interval": kind, "r": float(r.statistic), "p": float(r.pvalue), "n": len(u) - 1}
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="the JSON file to write, after every row")
    parser.add_argument("--articles", action="store_true", help=f"measure {ARTICLES.name} anew")
    asked, began = parser.parse_args(), time.monotonic()
    if asked.articles:
        measure().to_csv(ARTICLES, float_format="%.6g")
    rows = json.loads(asked.out.read_text(encoding="utf-8"))["rows"] if asked.out.exists() else []
    known = {json.dumps({k: r[k] for k in r if k in ABOUT}): r for r in rows}
    rows = []
    for about, batch in settings():
        rows.append(known.get(json.dumps(about)) or about | covers(batch))
        last = rows[-1]
        print(f"{time.monotonic() - began:5.0f} s  {last}", flush=True)
        content = {"provenance": store.provenance(), "neighbours": neighbours(), "rows": rows}
        store.write_json(asked.out, content)


if __name__ == "__main__":
    main()
