"""What the page Performance says about the rows of `data/results/bench/speed.json`."""

import numpy as np
import pandas as pd


def size_label(size: str) -> str:
    """`8192-64-1024` in words."""
    d_sae, k, batch = map(int, size.split("-"))
    return f"{d_sae:,} features, k = {k}, batch {batch:,}"


def targets(measured: pd.DataFrame, rules: pd.DataFrame) -> pd.DataFrame:
    """What was set out to be reached, and whether it was: a row per measured row of each rule.

    `rules` has the columns quantity, what, low and high, the bounds, NaN where there is none;
    `measured` has quantity, model, size (None where there is none), value and n.
    """
    found = rules.merge(measured, on="quantity")
    value = found["value"].astype(float)
    missed = (value < found["low"]) | (value > found["high"])
    return pd.DataFrame(
        {
            "what": (found["what"] + ", " + found["model"]).fillna(found["what"]),
            "features / k / batch": found["size"].str.replace("-", " / "),
            "measured": value,
            "to reach": list(map(bounds, found["low"], found["high"])),
            "reached": np.where(missed, "no", "yes"),
            "n": found["n"],
        }
    )


def bounds(low: float, high: float) -> str:
    """A range in words."""
    if np.isnan(low):
        return f"at most {high:g}"
    return f"at least {low:g}" if np.isnan(high) else f"{low:g} to {high:g}"
