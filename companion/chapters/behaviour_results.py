"""What the chapter on behaviour reports: estimates with their intervals from the rows of `companion.chapters.behaviour`, and the frames its figures draw."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import ttest_ind

from companion import stats
from companion.chapters.behaviour import LABELS, MAIN, Measured, parts_of, sums
from companion.results import Value

REDUCTIONS = {
    "sequential/kl_reduction_vs_sae": ("sequential", "sae"),
    "joint/kl_reduction_vs_sae": ("joint", "sae"),
    "joint_no_interaction/kl_reduction_vs_sae": ("joint_no_interaction", "sae"),
    "joint/kl_reduction_vs_no_interaction": ("joint", "joint_no_interaction"),
}
"""Comparisons on all windows: 100 (1 - KL of the first / KL of the second). Each has its counterpart in cross-entropy."""
DETAIL_REDUCTIONS = {
    "sequential_linear/kl_reduction_vs_sae": ("sequential_linear", "sae"),
    "sequential_interaction/kl_reduction_vs_sae": ("sequential_interaction", "sae"),
    "joint/kl_reduction_vs_sae_tuned": ("joint", "sae_tuned"),
    "joint/kl_reduction_vs_sae_matched": ("joint", "sae_matched"),
    "joint/kl_reduction_own_path": ("joint", "joint_own_path"),
    "joint_linear/kl_reduction_own_path": ("joint_linear", "joint_own_path"),
    "joint_interaction/kl_reduction_own_path": ("joint_interaction", "joint_own_path"),
}
PUBLISHED_REDUCTIONS = {
    "sequential/kl_reduction": ("sequential", "sae"),
    "sequential_linear/kl_reduction": ("sequential_linear", "sae"),
    "sequential_interaction/kl_reduction": ("sequential_interaction", "sae"),
    "joint/kl_reduction_own_path": ("joint", "joint_own_path"),
    "joint_linear/kl_reduction_own_path": ("joint_linear", "joint_own_path"),
    "joint_interaction/kl_reduction_own_path": ("joint_interaction", "joint_own_path"),
}
PATHS = {
    "sequential": ("sae", "sequential_linear", "sequential_interaction", "sequential"),
    "joint": ("joint_own_path", "joint_linear", "joint_interaction", "joint"),
}
"""Conditions without paths, with the linear one, with the interaction one, with both."""


class Estimates(NamedTuple):
    """Tables with rows by name and columns value, lo, hi, n (articles)."""

    main: pd.DataFrame
    """The comparisons on all windows."""
    detail: pd.DataFrame
    """All conditions, on the first windows."""
    published: pd.DataFrame
    """By the released code's definitions."""
    seeds: pd.DataFrame
    """The comparisons of `main`, over seeds; empty with one seed."""
    tokens: dict[str, int]
    """Evaluated tokens per condition behind each."""


def cut(t: pd.DataFrame | pd.Series, ours: str, baseline: str) -> pd.Series | float:
    """Per cent of the baseline's KL that is gone."""
    return 100 * (1 - t[f"kl/{ours}"] / t[f"kl/{baseline}"])


def ce_cut(t: pd.DataFrame | pd.Series, ours: str, baseline: str) -> pd.Series | float:
    """Per cent of the baseline's rise in cross-entropy that is gone."""
    return 100 * (1 - (t[f"ce/{ours}"] - t["ce_clean"]) / (t[f"ce/{baseline}"] - t["ce_clean"]))


def main_statistics(t: pd.DataFrame | pd.Series) -> dict:
    """The controlled comparisons, from sums or draws of sums."""
    found = {name: cut(t, *pair) for name, pair in REDUCTIONS.items()}
    return found | {
        name.replace("kl_", "ce_"): ce_cut(t, *pair) for name, pair in REDUCTIONS.items()
    }


def detail_statistics(t: pd.DataFrame | pd.Series) -> dict:
    """Levels and ratios of every condition, comparisons, and what each path contributes in per cent of the KL without any."""
    conditions = [c.removeprefix("kl/") for c in t if c.startswith("kl/") and not c.endswith("~")]
    found = {}
    for c in conditions:
        found |= {
            f"{c}/kl": t[f"kl/{c}"] / t.tokens,
            f"{c}/kl_random": t[f"kl/{c}~"] / t.tokens,
            f"{c}/kl_ratio": t[f"kl/{c}"] / t[f"kl/{c}~"],
            f"{c}/error_norm": t[f"norm/{c}"] / t.tokens,
            f"{c}/ce_rise": (t[f"ce/{c}"] - t.ce_clean) / t.tokens,
            f"{c}/top1_same": 100 * t[f"top1/{c}"] / t.tokens,
        }
        for ablation in ("zero", "mean"):
            found[f"{c}/recovered_{ablation}"] = (
                100 * (t[f"ce/{ablation}"] - t[f"ce/{c}"]) / (t[f"ce/{ablation}"] - t.ce_clean)
            )
    found |= {name: cut(t, *pair) for name, pair in DETAIL_REDUCTIONS.items()}
    for model, conditions in PATHS.items():
        none, linear, interaction, both = (t[f"kl/{c}"] for c in conditions)
        shares = stats.path_shares(none, linear, interaction, both)
        found |= {
            f"{model}/contribution_{name}": 100 * share * (none - both) / none
            for name, share in shares.items()
        }
    return found


def published_statistics(t: pd.DataFrame | pd.Series) -> dict:
    """The paper's quotients: KL of the own or the SAE's path as baseline, total cross-entropy, one random error for all."""
    found = {name: cut(t, *pair) for name, pair in PUBLISHED_REDUCTIONS.items()}
    for c in ("joint", "joint_linear", "joint_interaction"):
        found[f"{c}/ce_reduction_own_path"] = 100 * (1 - t[f"ce/{c}"] / t["ce/joint_own_path"])
    found |= {
        f"{c}/kl": t[f"kl/{c}"] / t.tokens for c in ("sae", "sequential", "joint_own_path", "joint")
    }
    return found | {f"{c}/kl_ratio": t[f"kl/{c}"] / t["kl/sae~"] for c in ("sae", "sequential")}


def estimate(m: Measured, draws: int) -> Estimates:
    """All estimates, articles drawn anew `draws` times."""
    main, detail = parts_of(m)
    tables = {"main": sums(main), "detail": sums(detail), "published": sums(m.published)}
    statistics = {
        "main": main_statistics,
        "detail": detail_statistics,
        "published": published_statistics,
    }
    estimates = {
        name: stats.bootstrap(table, statistics[name], draws) for name, table in tables.items()
    }
    return Estimates(
        **estimates,
        seeds=over_seeds(m.controlled),
        tokens={name: int(table.tokens.sum()) for name, table in tables.items()},
    )


def over_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """The comparisons of each seed on the windows that all seeds saw, with their mean and interval over seeds."""
    further = rows.condition.str.contains("@")
    if not further.any():
        return pd.DataFrame(columns=["value", "lo", "hi", "n"])
    rows = rows[
        (rows.draw < 0)
        & (rows.condition.isin(MAIN) | further)
        & (rows.window <= rows.window[further].max())
    ]
    seed = rows.condition.str.partition("@")[2]
    found = [
        pd.Series(
            main_statistics(sums(part.assign(condition=part.condition.str.partition("@")[0])).sum())
        )
        for _, part in rows.groupby(seed)
    ]
    return pd.DataFrame(
        {
            name: stats.interval_over_seeds(values)[:4]
            for name, values in pd.concat(found, axis=1).T.items()
        },
        index=["value", "lo", "hi", "n"],
    ).T


def token_tests(published: pd.DataFrame) -> dict[str, tuple[float, str]]:
    """The two-sample t tests on tokens that the paper quotes, value and unit by name."""
    own = published[published.draw < 0]
    column = {
        (c, what): own.loc[own.condition == c, what].to_numpy()
        for c in own.condition.unique()
        for what in ("kl", "ce_spliced")
    }
    random = published.loc[(published.condition == "sae") & (published.draw >= 0), "kl"]
    found = {
        f"sequential_{path}/t_vs_eps_random": (
            ttest_ind(column[f"sequential_{path}", "kl"], random).statistic,
            "t",
        )
        for path in ("linear", "interaction")
    }
    tests = {
        what: [
            ttest_ind(column["joint_own_path", what], column[c, what])
            for c in ("joint_linear", "joint_interaction", "joint")
        ]
        for what in ("kl", "ce_spliced")
    }
    found |= {
        f"joint/{name}_smallest_t": (min(abs(t.statistic) for t in tests[what]), "t")
        for what, name in (("kl", "kl"), ("ce_spliced", "ce"))
    }
    return found | {
        "joint/largest_p": (max(t.pvalue for group in tests.values() for t in group), "p")
    }


def unit(name: str) -> str:
    """The unit of a value id of this chapter."""
    metric = name.split("/")[1]
    return {
        "kl_ratio": "x",
        "kl": "nats",
        "kl_random": "nats",
        "ce_rise": "nats",
        "error_norm": "norm",
    }.get(metric, "%")


def value(row: pd.Series, unit: str, protocol: str) -> Value:
    """An estimate as a result. A percentile interval of very few articles may miss the estimate itself; it then ends there."""
    ci = None if pd.isna(row.lo) else (min(row.lo, row.value), max(row.hi, row.value))
    return Value(float(row.value), int(row.n), unit, protocol, ci)


def values(m: Measured, e: Estimates) -> dict[str, Value]:
    """The chapter's results file."""
    found = {
        "setting/evaluated_tokens": Value(
            e.tokens["main"], e.tokens["main"], "measurements; n tokens", "setting"
        )
    }
    for name, n in {"detail": "detail", "published": "published"}.items():
        found[f"setting/{name}_tokens"] = Value(
            e.tokens[n], e.tokens[n], "tokens; n tokens", "setting"
        )
    for table, protocol in (
        (e.detail, "controlled"),
        (e.main, "controlled"),
        (e.published, "as published"),
    ):
        found |= {
            f"{name}/{protocol.replace(' ', '_')}": value(
                row, f"{unit(name)}; n articles", protocol
            )
            for name, row in table.iterrows()
        }
    found |= {
        f"{name}_over_seeds/controlled": value(row, "%; n seeds", "controlled")
        for name, row in e.seeds.iterrows()
    }
    n = int((m.published.draw < 0).sum() // m.published.condition.nunique())
    tests = token_tests(m.published)
    return found | {
        f"{name}/as_published": Value(float(x), n, f"{kind}; n tokens", "as published")
        for name, (x, kind) in tests.items()
    }


def levels(e: Estimates) -> pd.DataFrame:
    """The levels of every condition: rows conditions, columns error_norm, kl, kl_random and the others of `condition_table`."""
    names = e.detail.index.str.split("/")
    found = e.detail["value"].set_axis(pd.MultiIndex.from_tuples(map(tuple, names))).unstack()
    return found.reindex(LABELS)


def condition_table(e: Estimates) -> pd.DataFrame:
    """One row per condition: how far off, how bad, compared with random directions, and how much is recovered."""
    columns = {
        "error norm": "error_norm",
        "KL": "kl",
        "KL, random": "kl_random",
        "ratio": "kl_ratio",
        "CE rise": "ce_rise",
        "recovered, zero": "recovered_zero",
        "recovered, mean": "recovered_mean",
        "same top": "top1_same",
    }
    return (
        levels(e)[list(columns.values())]
        .set_axis(list(columns), axis=1)
        .rename(LABELS)
        .rename_axis("condition")
    )


def gain_rows(e: Estimates) -> pd.DataFrame:
    """The controlled comparisons, for `figures.intervals`."""
    roles = {"sequential": "sequential", "joint": "joint", "joint_no_interaction": "linear"}
    return pd.DataFrame(
        [
            {
                "label": f"{a}\nover {b}",
                "role": "interaction" if b == "joint_no_interaction" else roles[a],
                **e.main.loc[name, ["value", "lo", "hi"]],
            }
            for name, (a, b) in REDUCTIONS.items()
        ]
    )


def protocol_rows(e: Estimates) -> pd.DataFrame:
    """KL reductions under both protocols, for `figures.paired_bars`."""
    pairs = {
        "sequential": ("sequential/kl_reduction", e.main.loc["sequential/kl_reduction_vs_sae"]),
        "joint": ("joint/kl_reduction_own_path", e.main.loc["joint/kl_reduction_vs_sae"]),
        "interaction\nin joint": (
            "joint_interaction/kl_reduction_own_path",
            e.main.loc["joint/kl_reduction_vs_no_interaction"],
        ),
    }
    return pd.DataFrame(
        [
            {"label": label, "protocol": protocol, **row[["value", "lo", "hi"]]}
            for label, (name, controlled) in pairs.items()
            for protocol, row in (
                ("as published", e.published.loc[name]),
                ("controlled", controlled),
            )
        ]
    )


def contribution_rows(e: Estimates) -> pd.DataFrame:
    """What each path takes off the KL, added alone, added last, and averaged: columns model, path, kind, value, lo, hi."""
    return pd.DataFrame(
        [
            {
                "model": model,
                "path": path,
                "kind": kind,
                **e.detail.loc[f"{model}/contribution_{path}_{kind}", ["value", "lo", "hi"]],
            }
            for model in PATHS
            for path in ("linear", "interaction")
            for kind in ("alone", "last", "shapley")
        ]
    )


def naive_table(
    m: Measured,
    pairs: Sequence[tuple[str, str]] = (("sae", "sequential"), ("joint_no_interaction", "joint")),
) -> pd.DataFrame:
    """Three t tests of the same difference in KL for each pair of models, see `stats.naive_and_clustered`."""
    rows = parts_of(m)[0]
    frames = []
    for a, b in pairs:
        wide = stats.pair(
            rows[rows.condition.isin([a, b])], ["article", "window", "position"], "condition", "kl"
        )
        frames.append(
            stats.naive_and_clustered(wide, a, b, "article").assign(
                comparison=f"{LABELS[a]} minus {LABELS[b]}"
            )
        )
    return pd.concat(frames, ignore_index=True)[
        ["comparison", *frames[0].columns.drop("comparison")]
    ]


def position_rows(m: Measured) -> pd.DataFrame:
    """Mean KL in bins of position that double in width: columns protocol, condition, position (first of the bin), kl, n (tokens)."""
    frames = []
    for protocol, rows in (("as published", m.published), ("controlled", parts_of(m)[0])):
        rows = rows[rows.condition.isin([*MAIN, "joint_own_path"]) & (rows.draw < 0)]
        place = 2 ** np.floor(np.log2(rows.position.clip(lower=1)))
        by = rows.assign(position=place.where(rows.position > 0, 0).astype(int)).groupby(
            ["condition", "position"]
        )["kl"]
        frames.append(by.agg(kl="mean", n="size").reset_index().assign(protocol=protocol))
    return pd.concat(frames, ignore_index=True)
