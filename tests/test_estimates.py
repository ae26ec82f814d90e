"""Estimates against numbers worked out by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from companion import estimates


def test_jackknife_of_a_mean_by_hand():
    """1, 2, 6: leaving one out gives 4, 3.5, 1.5; 2/3 of their squared deviations from 3, 1 + 1/4 +
    9/4, is 7/3, the squared standard error of the mean; t(2) is 4.3027."""
    values = np.array([1.0, 2.0, 6.0])
    found = estimates.jackknife(lambda kept: {"low": values[kept].mean()}, 3, quantity="mean")
    row = found.iloc[0]
    half = 4.302653 * math.sqrt(7 / 3)
    assert (row.value, row.lo, row.hi) == pytest.approx((3, 3 - half, 3 + half), rel=1e-6)
    assert (row.part, row.n, row.of) == ("low", 3, "blocks")
    two = estimates.jackknife(
        lambda kept: {("a", "x"): kept.sum(), ("b", "y"): 1}, 3, ["model", "part"], n=7, of="units"
    )
    assert two[["model", "part", "value", "n"]].values.tolist() == [
        ["a", "x", 3, 7],
        ["b", "y", 1, 7],
    ]
    with pytest.raises(ValueError, match="blocks = 1: at least 2"):
        estimates.jackknife(lambda kept: {"low": 0.0}, 1)


RANKS = pd.DataFrame({"z": range(1, 7), "x": [2, 1, 4, 3, 6, 5], "y": [1, 3, 2, 5, 4, 6]})
"""By 1 - 6 sum d^2 / (6 * 35): r(x, z) = 29/35, r(y, z) = 31/35, r(x, y) = 17/35."""


def fisher(r, n):
    """The interval tanh(artanh r +- 1.96 / sqrt(n - 3))."""
    middle, half = math.log((1 + r) / (1 - r)) / 2, 1.959964 / math.sqrt(n - 3)
    return r, math.tanh(middle - half), math.tanh(middle + half)


def test_rank_correlation_by_hand():
    squares = RANKS.assign(x=RANKS.x**2.0)  # ranks stay
    squares.loc[6] = [7, math.nan, 7]  # a row that lacks one takes no part
    row = estimates.spearman(squares, "x", "y", model="joint", of="features").iloc[0]
    assert (row.value, row.lo, row.hi) == pytest.approx(fisher(17 / 35, 6), abs=1e-6)
    assert (row.model, row.quantity, row.n, row.of) == ("joint", "correlation", 6, "features")
    assert row.unit == "Spearman r"
    same = estimates.spearman(RANKS.assign(y=2 * RANKS.x), "x", "y").iloc[0]
    assert (same.value, same.lo, same.hi) == (1, 1, 1)


def test_partial_rank_correlation_by_hand():
    """(17/35 - 29/35 * 31/35) / sqrt((1 - 29^2/35^2) (1 - 31^2/35^2)) = -304 / sqrt(384 * 264); the
    interval is that of one row less."""
    row = estimates.spearman(RANKS, "x", "y", given="z").iloc[0]
    expected = fisher(-304 / math.sqrt(384 * 264), 5)
    assert (row.value, row.lo, row.hi) == pytest.approx(expected, abs=1e-6)
    assert row.n == 6


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (RANKS[:5], "5 rows are too few, at least 6 are needed"),
        (RANKS.assign(y=1), "y is constant"),
        (RANKS.assign(z=1), "z is constant"),
        (RANKS.assign(z=-RANKS.x), "z orders the rows as x does"),
        (RANKS.assign(z=RANKS.y), "z orders the rows as y does"),
    ],
)
def test_an_undefined_correlation_gives_a_reason(frame, reason):
    row = estimates.spearman(frame, "x", "y", given="z").iloc[0]
    assert (row.value, row.lo, row.hi, row.unit) == (None, None, None, reason)
