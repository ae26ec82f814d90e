"""What the cells of a sweep found: one frame, the trend per parameter, and how both are drawn."""

import json
from numbers import Real

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from companion import plots, results
from sweeps.grid import Sweep


def frame(sweep: Sweep) -> pd.DataFrame:
    """The numbers that a sweep shows, of every cell that is done: a column for each parameter, `id`,
    and those of `estimates.tidy`. Raises ValueError if no cell has any of them."""
    tables = []
    for cell in filter(sweep.done, sweep.cells):
        table = results.table(sweep.results(cell)).reset_index()
        table = table[table["id"].map(sweep.shows) & table["value"].map(number)]
        given = {name: str(v) if isinstance(v, list) else v for name, v in cell.parameters.items()}
        tables.append(table.assign(**given))
    found = pd.concat(tables) if tables else pd.DataFrame()
    if found.empty:
        raise ValueError(f"no cell of {sweep.name} has a number like {', '.join(sweep.show)}")
    return found.reset_index(drop=True)


def series(found: pd.DataFrame, sweep: Sweep, parameter: str):
    """For each value shown: cells that differ in this parameter alone, from its least value on."""
    others = [name for name in sweep.grid if name != parameter]
    for _, same in found.groupby(["id", *others], sort=False):
        yield same.sort_values(parameter)


def counted(parameter: str, sweep: Sweep) -> bool:
    """Whether a parameter has a trend: several numbers, and more than a start of the training."""
    values = sweep.grid[parameter]
    return all(map(number, values)) and len(values) > 1 and parameter != "seed"


def number(value) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def table(found: pd.DataFrame, sweep: Sweep) -> pd.DataFrame:
    """Per value shown and parameter: the means at its least and its greatest value, and how many
    series rise at every step, fall at every step, or do neither."""
    rows = []
    for parameter in (name for name in sweep.grid if counted(name, sweep)):
        for name, cells in found.groupby("id", sort=False):
            steps = [s["value"].astype(float).diff()[1:] for s in series(cells, sweep, parameter)]
            steps = [s for s in steps if len(s)]
            rises, falls = (sum((sign * s > 0).all() for s in steps) for sign in (1, -1))
            mean = cells.groupby(parameter)["value"].mean()
            ends = {
                f"at the {word}": mean.loc[at]
                for word, at in (("least", mean.index.min()), ("greatest", mean.index.max()))
            }
            counts = {"rise": rises, "fall": falls, "neither": len(steps) - rises - falls}
            rows.append({"value": name, "with": parameter, **ends, **counts})
    return pd.DataFrame(rows)


def draw(found: pd.DataFrame, sweep: Sweep, parameter: str) -> Figure:
    """Every value shown over a parameter: a point per cell with its interval, a line per series."""
    names = found["id"].unique()
    width, height = plt.rcParams["figure.figsize"]
    size = {"figsize": (width, 0.75 * height * len(names)), "squeeze": False}
    figure, axes = plt.subplots(len(names), 1, sharex=True, **size)
    places = {str(v): i for i, v in enumerate(sweep.grid[parameter])}
    for ax, name in zip(axes[:, 0], names, strict=True):
        cells = found[found["id"] == name]
        lines = list(series(cells, sweep, parameter))
        for i, line in enumerate(lines):
            x = line[parameter].astype(str).map(places) + 0.16 * (i - (len(lines) - 1) / 2) / len(
                lines
            )
            ends = [
                line["value"] - line["lo"].fillna(line["value"]),
                line["hi"].fillna(line["value"]) - line["value"],
            ]
            style = {"color": plots.colour(line["model"].iloc[0]), "alpha": 0.75}
            ax.errorbar(
                x,
                line["value"].astype(float),
                yerr=[e.astype(float) for e in ends],
                marker="o",
                ms=4,
                lw=1,
                **style,
            )
        ax.set_title(name, loc="left")
        ax.set_ylabel(cells["unit"].iloc[0])
    axes[-1, 0].set_xticks(range(len(places)), places)
    axes[-1, 0].set_xlabel(parameter)
    return figure


def missing(sweep: Sweep) -> pd.DataFrame:
    """The cells that are not done, and what each one's copy says of it."""
    rows = [{"cell": str(c), "what happened": why(c)} for c in sweep.cells if not sweep.done(c)]
    return pd.DataFrame(rows, columns=["cell", "what happened"])


def why(cell) -> str:
    """The error in a cell's failed copy, if there is one."""
    if not cell.failed.exists():
        return "did not run to its end"
    copy = json.loads(cell.failed.read_text(encoding="utf-8"))
    outputs = [out for part in copy["cells"] for out in part.get("outputs", [])]
    errors = [
        f"{out['ename']}: {out['evalue']}" for out in outputs if out["output_type"] == "error"
    ]
    return errors[-1] if errors else "did not run to its end"
