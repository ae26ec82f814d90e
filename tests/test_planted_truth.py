"""The chapter's tables and results follow from its rows."""

import pandas as pd
import pytest

from companion import profiles
from companion.chapters import planted_truth, recovery


def rows(**columns):
    return pd.DataFrame(columns)


def test_a_plan_is_checked_before_anything_trains(monkeypatch):
    monkeypatch.setattr(recovery, "run", lambda trial: pytest.fail("a trial ran"))
    p = profiles.get("laptop")
    plan = planted_truth.plan(p, planted_truth.base(p), first_seed=3, n_seeds=2)
    assert {t.world.seed for todo in plan.values() for t in todo} == {3, 4}
    assert {t.setting for t in plan["settings"]} == set(recovery.SETTINGS)
    assert all(todo for todo in plan.values())
    with pytest.raises(
        ValueError,
        match="the sweep cannot run setting = 'true codes', order = 'triples'.*needs n_active of at least 3",
    ):
        planted_truth.plan(p, planted_truth.base(p, n_active=2))
    with pytest.raises(ValueError, match="n_seeds = 0"):
        planted_truth.plan(p, planted_truth.base(p), n_seeds=0)
    with pytest.raises(ValueError, match="knob = 'strenght' is not known"):
        planted_truth.base(p, strenght=2.0)


def test_a_shared_trial_is_trained_once_and_lands_in_every_sweep(monkeypatch):
    p = profiles.get("smoke")
    trial = planted_truth.base(p)
    sweeps = {
        "a": recovery.trials(trial, seed=[0, 1]),
        "b": recovery.trials(trial, order=["pairs", "none"], seed=[1]),
    }
    ran = []

    def sweep(todo):
        ran.extend(todo)
        found = {
            "fvu_linear_floor": 0.3,
            "fvu_floor": 0.1,
            "fvu_refit": 0.3,
            "fvu_refit_pairs": 0.15,
        }
        return pd.DataFrame([{"seed": t.world.seed, "order": t.world.order, **found} for t in todo])

    monkeypatch.setattr(recovery, "sweep", sweep)
    found = planted_truth.run(sweeps)
    assert len(ran) == len(set(ran)) == 3
    assert found["a"]["seed"].tolist() == [0, 1]
    assert found["b"]["order"].tolist() == ["pairs", "none"]
    assert found["a"]["gain"].tolist() == pytest.approx(
        [0.75, 0.75]
    )  # 0.15 of the 0.2 that the products carry
    assert found["b"]["gain"].isna().tolist() == [False, True]
    assert found["b"]["removed"].tolist() == pytest.approx([0.5, 0.5])


def test_means_over_seeds_have_students_interval_and_skip_what_is_missing():
    frame = rows(setting=["a"] * 3 + ["b"], seed=[0, 1, 2, 0], gain=[0.5, 0.75, 1.0, None])
    (row,) = planted_truth.over_seeds(frame, ["setting"], "gain").itertuples(index=False)
    half = 4.302653 * 0.25 / 3**0.5  # t of 2 degrees of freedom
    assert (row.value, row.lo, row.hi, row.n) == pytest.approx((0.75, 0.75 - half, 0.75 + half, 3))
    table = planted_truth.table(frame, "setting", {"gain": ("found", ".2f")})
    assert table.loc["a", "found"] == "0.75 [0.13, 1.37]" and pd.isna(table.loc["b", "found"])
    share = planted_truth.over_seeds(
        frame.rename(columns={"gain": "bought"}), ["setting"], "bought"
    )
    assert share["hi"].tolist() == [1]  # a share has no more than all


@pytest.mark.parametrize(
    ("estimate", "says"),
    [
        ((0.95, 0.92, 0.98), "yes"),
        ((0.5, 0.4, 0.6), "no"),
        ((0.95, 0.8, 1.0), "yes on average; the interval includes 0.9"),
        ((0.85, 0.8, 0.95), "no on average; the interval includes 0.9"),
        ((0.95, None, None), "yes, with the one seed that was run"),
    ],
)
def test_readings(estimate, says):
    assert planted_truth.reading(*estimate, 0.9) == says


def test_a_turned_knob_moves_the_results():
    p = profiles.get("laptop")
    assert planted_truth.turned(p, strength=None, n_seeds=None).label == "laptop"
    labels = {planted_truth.turned(p, strength=s).label for s in (0.5, 2.0)}
    assert len(labels) == 2 and all(label.startswith("custom/laptop-") for label in labels)
