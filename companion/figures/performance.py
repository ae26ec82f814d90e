"""Figures and tables of the page *Performance*, from the benchmark's values (`data/results/bench/speed.json`)."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from companion.plots import COLOURS, INK, WIDTH

NAMES = {
    "sae": "SAE",
    "sequential": "sequential",
    "joint": "joint",
    "sae-plain": "SAE, no compiler",
    "joint-plain": "joint, no compiler",
    "naive-joint": "joint, dense formula",
    "saelens": "SAELens",
    "saelens-sparse": "SAELens, sparse codes",
    "dictionary_learning": "dictionary_learning",
    "sparsify": "sparsify",
    "sparsify-adam": "sparsify, Adam",
    "product": "encoder product alone",
}
ROLES = {
    "sae": "sae",
    "sae-plain": "sae",
    "joint": "joint",
    "joint-plain": "joint",
    "sequential": "sequential",
    "naive-joint": "published",
}
PHASES = {
    "encode": "sae",
    "decode and loss": "joint",
    "gradients": "sequential",
    "clip": "linear",
    "Adam": "interaction",
    "counts": "random",
}


def frame(values: dict, prefix: str, columns: list[str]) -> pd.DataFrame:
    """The values whose names start with `prefix/`, the rest of the name split into `columns`; `value` and `n` beside it."""
    rows = [
        dict(zip(columns, name.removeprefix(f"{prefix}/").split("/"), strict=True))
        | {"value": v["value"], "n": v["n"]}
        for name, v in values.items()
        if name.startswith(f"{prefix}/")
    ]
    return pd.DataFrame(rows, columns=[*columns, "value", "n"])


def size_label(size: str) -> str:
    """`8192-64-1024` in words."""
    d_sae, k, batch = map(int, size.split("-"))
    return f"{d_sae:,} features, k = {k}, batch {batch:,}"


def race(speeds: pd.DataFrame) -> Figure:
    """Tokens per second of every contestant, one panel per size: columns `size`, `model`, `value`."""
    sizes = list(dict.fromkeys(speeds["size"]))
    figure, axes = plt.subplots(len(sizes), 1, figsize=(WIDTH, 3.1 * len(sizes)), squeeze=False)
    for ax, size in zip(axes[:, 0], sizes, strict=True):
        rows = speeds[speeds["size"] == size].sort_values("value")
        ax.barh(
            [NAMES[m] for m in rows["model"]],
            rows["value"] / 1000,
            color=[COLOURS[ROLES.get(m, "random")] for m in rows["model"]],
        )
        ax.set_title(size_label(size), loc="left")
        ax.grid(axis="y", visible=False)
    axes[-1, 0].set_xlabel("thousand tokens per second")
    return figure


def phases(spent: pd.DataFrame, floor: float) -> Axes:
    """Milliseconds of each phase of a step, stacked, one bar per model: columns `model`, `phase`, `value`; a line marks the floor, in ms."""
    figure, ax = plt.subplots(figsize=(WIDTH, 3.4))
    models = list(dict.fromkeys(spent["model"]))
    left = np.zeros(len(models))
    for phase, role in PHASES.items():
        width = (
            spent[spent["phase"] == phase].set_index("model")["value"].reindex(models).to_numpy()
        )
        ax.barh([NAMES[m] for m in models], width, left=left, color=COLOURS[role], label=phase)
        left += width
    ax.axvline(floor, color=INK, linewidth=1, linestyle="--")
    ax.invert_yaxis()
    ax.set_xlabel("ms per step")
    ax.grid(axis="y", visible=False)
    ax.legend(loc="upper center", bbox_to_anchor=(0.4, -0.25), ncols=3)
    return ax


def growth(cost: dict[str, pd.DataFrame]) -> Figure:
    """Milliseconds of a step against one size each, both axes logarithmic: name of the axis -> columns `x`, `model`, `value`."""
    figure, axes = plt.subplots(
        len(cost), 1, figsize=(WIDTH, 2.6 * len(cost)), squeeze=False, sharey=True
    )
    for ax, (name, rows) in zip(axes[:, 0], cost.items(), strict=True):
        for model, line in rows.groupby("model", sort=False):
            ax.plot(
                line["x"].astype(int),
                line["value"],
                "o-",
                markersize=4,
                color=COLOURS[ROLES[model]],
                label=NAMES[model],
            )
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.xaxis.set_major_formatter("{x:,.0f}")
        ax.set_xlabel(name)
        ax.set_ylabel("ms per step")
    axes[0, 0].legend()
    return figure


def targets(values: dict) -> pd.DataFrame:
    """The ratios that the project set itself, one row each, with the figure to reach and whether it was."""
    sizes = list(
        dict.fromkeys(
            name.rpartition("/")[2] for name in values if name.startswith("sae_vs_fastest_peer/")
        )
    )
    rules = [
        (what, size.replace("-", " / "), f"{key}/{size}", low, high)
        for key, what, low, high in [
            ("sae_vs_fastest_peer", "SAE step against the fastest peer's", 2.5, None),
            ("sae_plain_vs_fastest_peer", "the same without a compiler", 1.6, None),
            ("joint_vs_naive", "joint step against the dense formula", 4, None),
            ("joint_vs_sae", "time of a joint step against an SAE step", None, 1.4),
            ("encode_floor_fraction", "share of the floor set by the encoder product", 0.5, None),
            (
                "memory_beyond_state",
                "GiB of a joint step beyond parameters, gradients, moments",
                None,
                1,
            ),
        ]
        for size in sizes
    ]
    rules += [
        ("speed of the harvest against the whole trunk", None, "harvest_vs_trunk", 2, None),
        ("the same against the bare blocks", None, "harvest_vs_bare_blocks", 0.9, None),
    ]
    rules += [
        (
            f"held-out loss against the dense reference, {kind}",
            None,
            f"held_out_loss_vs_dense/{kind}",
            0.999,
            1.001,
        )
        for kind in ("sae", "joint")
    ]
    return pd.DataFrame(
        [
            row(what, size, values[key], low, high)
            for what, size, key, low, high in rules
            if key in values
        ]
    )


def row(what: str, size: str | None, value: dict, low: float | None, high: float | None) -> dict:
    """One line of `targets`; `low` and `high` bound the figure to reach."""
    inside = (low is None or value["value"] >= low) and (high is None or value["value"] <= high)
    bounds = f"{low} to {high}" if low and high else f"at least {low}" if low else f"at most {high}"
    reached = {
        "measured": value["value"],
        "to reach": bounds,
        "reached": "yes" if inside else "no",
        "n": value["n"],
    }
    return {"what": what, "features / k / batch": size} | reached


def pairs(entries: dict) -> pd.DataFrame:
    """A mapping as a table of two columns."""
    return pd.DataFrame({"what": entries.keys(), "value": entries.values()})
