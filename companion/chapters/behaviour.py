"""Claims C2 and C3, measured: every reconstruction spliced into the language model, under both protocols."""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import pandas as pd
from torch import Tensor

from companion import variants
from companion.profiles import Profile
from featint import activations, downstream, harvest, lm, metrics, runs
from featint.activations import Activations
from featint.corpora import Windows
from featint.downstream import Condition
from featint.kernels.sparse import Codes
from featint.nfm import NFM
from featint.runs import Trained

MAIN = variants.SEEDED["behaviour"]
"""The models that the controlled comparisons rest on: evaluated on all windows, and on some of them from every seed."""
JOINT_PATHS = {
    "joint_own_path": "own_path",
    "joint_linear": "plus_linear",
    "joint_interaction": "plus_interaction",
    "joint": "all",
}
SHRUNK = (0.5, 0.75)
"""The SAE's own error made smaller by these factors: less of it, in the same direction."""
DETAIL_SHARE = 1 / 10
"""Share of the windows on which all conditions and their random twins are evaluated; the others see only `MAIN`."""
PUBLISHED_SHARE = 1 / 16
"""So many windows of the training split, relative to the test windows, for the splice as published."""
MOST_WINDOWS = 40
"""No share is larger: with all conditions and five twins of each, more would take hours and say no more about the main comparisons."""
SEEDS_SHARE = 1 / 8
"""Share of the windows on which the `MAIN` models of further seeds are evaluated."""
PUBLISHED_DRAWS = 5
LABELS = {
    "zero": "zero ablation",
    "mean": "mean ablation",
    "sae": "SAE",
    "sae_tuned": "SAE, own best rate",
    "sae_matched": "SAE, matched size",
    "sequential_linear": "SAE + linear",
    "sequential_interaction": "SAE + interaction",
    "sequential": "SAE + both",
    "joint_own_path": "joint: own path",
    "joint_linear": "joint: + linear",
    "joint_interaction": "joint: + interaction",
    "joint": "joint: all",
    "joint_no_interaction": "joint, no interaction",
} | {f"sae_error_{100 * factor:.0f}": f"SAE, error x {factor:g}" for factor in SHRUNK}
"""What readers see."""


class Measured(NamedTuple):
    """The rows of `downstream.evaluate`, one per token and condition."""

    controlled: pd.DataFrame
    """Test windows: all conditions and twins on the first `detail` windows, the `MAIN` ones on all, those of further seeds on a share."""
    published: pd.DataFrame
    """Training windows, spliced as the released code does."""
    detail: int
    """How many windows see all conditions."""


def load_lm(p: Profile) -> lm.LanguageModel:
    """The language model in float32: bfloat16 alone would cost more KL than some of the differences asked for."""
    return lm.load(p.harvest.lm, "float32")


def by_path(trained: Trained, path: str) -> Condition:
    """A model's reconstruction by some of its parts, see `metrics.PATHS`, on normalised activations."""

    def reconstruct(x: Tensor) -> Tensor:
        parts = trained.model.parts(trained.model.encode(x))
        return sum(parts[part] for part in metrics.PATHS[path] if part in parts)

    return reconstruct


def shrunk(function: Condition, factor: float) -> Condition:
    """The condition with its error multiplied by `factor`."""
    return lambda x: x + factor * (function(x) - x)


def controlled_conditions(models: Mapping[str, Trained], acts: Activations) -> dict[str, Condition]:
    """All conditions by name, on raw activations. The SAE path of the sequential model is the SAE, bit for bit, and is not repeated.

    Raises ValueError if a model was trained on other activations than `acts`.
    """

    def of(name: str, path: str = "all") -> Condition:
        return downstream.condition(by_path(models[name], path), models[name].config, acts)

    sae = of("sae")
    return {
        "zero": downstream.zero_ablation,
        "mean": downstream.mean_ablation(acts.mean),
        "sae": sae,
        "sae_tuned": of("sae_tuned"),
        "sae_matched": of("sae_matched"),
        "sequential_linear": of("sequential", "plus_linear"),
        "sequential_interaction": of("sequential", "plus_interaction"),
        "sequential": of("sequential"),
        **joint_conditions(models["joint"], acts),
        "joint_no_interaction": of("joint_no_interaction"),
    } | {f"sae_error_{100 * factor:.0f}": shrunk(sae, factor) for factor in SHRUNK}


def joint_conditions(trained: Trained, acts: Activations) -> dict[str, Condition]:
    """The joint model's own SAE path, with either NFM path, and with both."""
    return {
        name: downstream.condition(by_path(trained, path), trained.config, acts)
        for name, path in JOINT_PATHS.items()
    }


def unpooled(nfm: NFM, codes: Codes) -> Tensor:
    """The interaction path as the released code evaluates it alone: its MLP on the embedding itself, not on the pooled products."""
    plain = NFM(nfm.W_out.shape[1], len(nfm.V), replace(nfm.config, form="mlp", linear=False))
    plain.load_state_dict(
        {name: value for name, value in nfm.state_dict().items() if not name.endswith("_lin")}
    )
    return plain.requires_grad_(False).eval().to(nfm.V.device).interaction_out(codes)


def published_conditions(models: Mapping[str, Trained]) -> dict[str, Condition]:
    """As the released code splices: raw activations go in and what comes out is put back, without the statistics of the training.

    The sequential model runs on the SAE at its full k, although its NFM was fitted at a quarter of it.
    """
    sae, nfm = models["sae_published"].model, models["sequential_published"].model.nfm

    def sequential(*added) -> Condition:
        def reconstruct(x: Tensor) -> Tensor:
            codes = sae.encode(x)
            return sae.decode(codes) + sum(path(codes) for path in added)

        return reconstruct

    return {
        "sae": sequential(),
        "sequential_linear": sequential(nfm.linear_out),
        "sequential_interaction": sequential(lambda codes: unpooled(nfm, codes)),
        "sequential": sequential(nfm.linear_out, nfm.interaction_out),
        **{name: by_path(models["joint_published"], path) for name, path in JOINT_PATHS.items()},
    }


def next_block(hook_point: str) -> str:
    """The same site one block later, where the released code splices what it trained on the block before."""
    _, block, site = hook_point.split(".", 2)
    return f"blocks.{int(block) + 1}.{site}"


def draws_of(p: Profile) -> int:
    """Random twins per condition and token: five where there is time for several seeds, else one, whose chance averages out over the tokens."""
    return 5 if len(p.seeds) > 1 else 1


def share_of(n: int, share: float) -> int:
    """That share of n windows, at least two and at most `MOST_WINDOWS`."""
    return min(n, max(2, min(MOST_WINDOWS, round(n * share))))


def measure(
    models: Mapping[str, Trained],
    p: Profile,
    draws: int,
    language_model: lm.LanguageModel | None = None,
) -> Measured:
    """All forward passes of the chapter.

    `models` has those of `variants.CHAPTERS["behaviour"]`, and `<name>@<seed>` for `MAIN` from further seeds; `draws` are random twins per condition.
    """
    language_model = language_model or load_lm(p)
    acts = activations.load(p.harvest, "test")
    windows = harvest.windows(p.harvest).windows["test"].first(p.splice_windows)
    detail = share_of(p.splice_windows, DETAIL_SHARE)
    every = controlled_conditions(models, acts)
    more = {
        name: downstream.condition(by_path(m, "all"), m.config, acts)
        for name, m in models.items()
        if "@" in name
    }
    main = {name: every[name] for name in MAIN}
    shared = max(detail, round(p.splice_windows * SEEDS_SHARE))
    parts = [
        downstream.evaluate(
            language_model, windows.first(detail), p.harvest, every, draws, p.seeds[0]
        ),
        rest(downstream.evaluate(language_model, after(windows, detail), p.harvest, main), detail)
        if detail < len(windows.tokens)
        else None,
        downstream.evaluate(language_model, windows.first(shared), p.harvest, more)
        if more
        else None,
    ]
    controlled = pd.concat([plain(part) for part in parts if part is not None], ignore_index=True)
    published = measure_published(
        models, p, language_model, share_of(p.splice_windows, PUBLISHED_SHARE)
    )
    return Measured(controlled, published, detail)


def plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of several runs fit together, and add up, without categories and in float64."""
    return frame.astype(
        {"condition": str} | dict.fromkeys(("kl", "ce_clean", "ce_spliced", "error_norm"), float)
    )


def after(windows: Windows, n: int) -> Windows:
    """All windows but the first n."""
    return Windows(*(t[n:] for t in windows))


def rest(frame: pd.DataFrame, n: int) -> pd.DataFrame:
    """Rows of windows that follow n others."""
    return frame.assign(window=frame.window + n)


def measure_published(
    models: Mapping[str, Trained],
    p: Profile,
    language_model: lm.LanguageModel,
    n: int,
    names: tuple[str, ...] | None = None,
) -> pd.DataFrame:
    """The splice as published: first training windows, first positions replaced, one block later; random twins of the SAE alone."""
    conditions = published_conditions(models)
    conditions = {name: conditions[name] for name in names or conditions}
    site = replace(p.harvest, hook_point=next_block(p.harvest.hook_point))
    windows = harvest.windows(p.harvest).windows["train"].first(n)
    sae = {name: conditions.pop(name) for name in ("sae",) if name in conditions}
    parts = [downstream.evaluate(language_model, windows, site, conditions, 0, p.seeds[0], "keep")]
    if sae:
        parts.append(
            downstream.evaluate(
                language_model, windows, site, sae, PUBLISHED_DRAWS, p.seeds[0], "keep"
            )
        )
    return pd.concat([plain(part) for part in parts], ignore_index=True)


def sums(frame: pd.DataFrame) -> pd.DataFrame:
    """One row of sums per article: `tokens`, `ce_clean`, `<metric>/<condition>`, and `<metric>/<condition>~` for its random twins, mean over draws.

    Metrics are kl, ce, norm (error norm) and top1. Raises ValueError if a condition misses an article.
    """
    twin, names = (
        frame.draw >= 0,
        {"kl": "kl", "ce_spliced": "ce", "error_norm": "norm", "top1_same": "top1"},
    )
    draws = max(1, frame.draw.max() + 1)
    name = frame.condition.where(~twin, frame.condition + "~")
    by = (
        frame.assign(condition=name, tokens=1)
        .groupby(["article", "condition"])[[*names, "ce_clean", "tokens"]]
        .sum()
        .unstack()
    )
    if by.isna().to_numpy().any():
        raise ValueError(
            "a condition misses some of the articles: evaluate all conditions on the same windows"
        )
    columns = {
        f"{short}/{condition}": by[long, condition] / (draws if condition.endswith("~") else 1)
        for long, short in names.items()
        for condition in by[long]
    }
    first = next(c for c in by["kl"] if not c.endswith("~"))
    return pd.DataFrame(
        {"tokens": by["tokens", first], "ce_clean": by["ce_clean", first]} | columns
    )


def parts_of(m: Measured) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The controlled rows apart: all windows with the `MAIN` models of the first seed, and the windows that saw all conditions."""
    rows = m.controlled[~m.controlled.condition.str.contains("@")]
    return rows[rows.condition.isin(MAIN) & (rows.draw < 0)], rows[rows.window < m.detail]


def load_models(p: Profile) -> dict[str, Trained]:
    """The chapter's models; those of `MAIN` from all seeds of the profile. What the store lacks is trained on the spot."""
    models = {name: runs.get(variants.get(name, p)) for name in variants.CHAPTERS["behaviour"]}
    return models | {
        f"{name}@{seed}": runs.get(variants.get(name, p, seed))
        for seed in p.seeds[1:]
        for name in MAIN
    }
