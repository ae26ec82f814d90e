"""Paired differences over seeds against a paired t test by hand, and recurring features on known directions."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from companion import places, results
from companion.chapters import seeds
from featint import store


@pytest.fixture
def p(p):
    return replace(p, seeds=(0, 1, 2))


def test_gains_are_paired_by_seed():
    rng = np.random.default_rng(0)
    fvu = pd.DataFrame(rng.uniform(0.3, 0.4, (5, len(seeds.ROLES))), columns=list(seeds.ROLES))
    row = seeds.estimates(fvu).loc["joint/gain_vs_sae"]
    gains = 100 * (1 - fvu["joint"] / fvu["sae"])
    half = stats.t.ppf(0.975, 4) * gains.std(ddof=1) / 5**0.5
    assert (
        row.value == pytest.approx(gains.mean())
        and row.hi - row.value == pytest.approx(half)
        and row.n == 5
    )
    one = seeds.estimates(fvu.iloc[:1])
    assert one.loc["joint/gain_vs_sae", "lo"] is None
    assert seeds.values(one, seeds.recurrence({}))["joint/fvu/controlled"].ci is None


def test_committed_results_come_back_as_they_were(p, monkeypatch, tmp_path):
    monkeypatch.setattr(places, "DATA", tmp_path)
    with pytest.raises(store.StoreError, match="no results at .*seeds.json"):
        seeds.committed("smoke")
    fvu = pd.DataFrame(
        np.random.default_rng(0).uniform(0.3, 0.4, (5, len(seeds.ROLES))), columns=list(seeds.ROLES)
    )
    table, again = seeds.estimates(fvu), seeds.recurrence({})
    again.loc[0] = {
        "model": "`sae`",
        "recurring": 0.25,
        "lowest": 0.2,
        "highest": 0.3,
        "random": 0.0,
        "pairs": 6,
    }
    results.write(p, "seeds", seeds.values(table, again), seed=0)
    read, recurring = seeds.committed("smoke")
    assert (
        read[["value", "lo", "hi"]].astype(float) - table[["value", "lo", "hi"]].astype(float)
    ).abs().max(axis=None) < 1e-6
    assert (read["n"] == table["n"]).all()
    assert recurring.to_dict("records") == [{"model": "`sae`", "recurring": 0.25, "pairs": 6}]


def test_recurring_counts_directions_that_are_there():
    basis = torch.eye(6)
    tilted = torch.nn.functional.normalize(
        basis[:1] + basis[1:2], dim=1
    )  # 45 degrees: cosine 0.707 with both
    assert seeds.recurring(basis[:4], basis[2:]) == pytest.approx(0.5)
    assert seeds.recurring(basis[:4], tilted) == pytest.approx(0.5)
    assert seeds.recurring(basis[:4], -basis[:4]) == 0


def test_the_chapter_end_to_end(p):
    models = seeds.trained(p)
    fvu = seeds.measured(models)
    assert fvu.shape == (3, len(models)) and (fvu < 1).all(axis=None) and fvu["sae"].nunique() == 3
    again = seeds.recurrence(models)
    assert (again["pairs"] == 6).all() and (again["random"] < again["recurring"] + 0.5).all()
    assert len(seeds.gain_rows(seeds.estimates(fvu))) == len(seeds.GAINS)
    assert seeds.recurrence({name: {0: by_seed[0]} for name, by_seed in models.items()}).empty
    joint = models["joint"][0].model
    wanted = joint.sae.W_dec + joint.nfm.W_lin
    assert torch.allclose(
        seeds.directions(joint) * wanted.norm(dim=1, keepdim=True), wanted, atol=1e-5
    )
