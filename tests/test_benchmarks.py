"""The benchmark measures what it says: its naive model is our model, its ratios are ratios of medians, its feed times whole steps."""

import json
import os
import subprocess
import sys
from contextlib import ExitStack

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from scipy import stats as st

from benchmarks import coverage, machine, naive, speed, summary, whole_book
from companion.places import DATA, PROJECT
from featint.config import NFMConfig, SAEConfig
from featint.joint import JointSAE
from featint.nfm import NFM
from featint.sae import TopKSAE


def test_naive_model_is_the_joint_model():
    ours = (
        JointSAE(TopKSAE(6, SAEConfig(d_sae=40, k=5)), NFM(6, 40, NFMConfig(d_factor=3)))
        .double()
        .eval()
    )
    dense = naive.NaiveJoint(6, 40, 5, 3).double().eval()
    with torch.no_grad():
        for theirs, mine in [
            (dense.encoder.weight, ours.sae.W_enc.t()),
            (dense.encoder.bias, ours.sae.b_enc),
            (dense.decoder.weight, ours.sae.W_dec.t()),
            (dense.linear.weight, ours.nfm.W_lin.t()),
            (dense.linear.bias, ours.nfm.b_lin),
            (dense.embedding.weight, ours.nfm.V),
            (dense.mlp[1].weight, ours.nfm.W_hidden.t()),
            (dense.mlp[1].bias, ours.nfm.b_hidden),
            (dense.mlp[3].weight, ours.nfm.W_out.t()),
            (dense.mlp[3].bias, ours.nfm.b_out),
        ]:
            theirs.copy_(mine)
    x = torch.randn(30, 6, dtype=torch.float64)
    torch.testing.assert_close(dense(x), ours(x).x_hat)


@pytest.mark.parametrize(
    "name", ["sae-plain", "joint-plain", "sequential", "naive-joint", "product"]
)
def test_contestants_train_as_many_steps_as_ordered(name):
    with ExitStack() as stack:
        worker = speed.Worker(stack, name, 64, 4, 16)
        assert [len(worker.train(n)["seconds"]) for n in (3, 1)] == [3, 1]
    assert worker.process.returncode == 0


def test_the_feed_times_what_happens_between_two_batches():
    loop = "import time; from benchmarks.feed import Feed\nfor x in Feed(4, 2): print('noise'); time.sleep(0.02)"
    done = subprocess.run(
        [sys.executable, "-c", loop],
        input="2\n",
        capture_output=True,
        encoding="utf-8",
        cwd=PROJECT,
    )
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert [len(r["seconds"]) for r in reports] == [0, 2]
    assert all(s >= 0.02 for s in reports[1]["seconds"])


def test_a_sample_is_unclean_while_another_process_is_busy(monkeypatch):
    if machine.busy_seconds() is None:
        pytest.skip("only Linux says what other processes do; un-skip there")
    watch = machine.Watch(os.getpid())
    began, busy, own = watch.start
    watch.start = began - 1, busy, own - 0.5
    monkeypatch.setattr(machine, "process_seconds", lambda pid: own)
    monkeypatch.setattr(machine, "busy_seconds", lambda: busy + 0.55)
    assert watch.clean()
    monkeypatch.setattr(machine, "busy_seconds", lambda: busy + 0.8)
    assert not watch.clean()


def test_ratios():
    samples = {
        "sae": [0.1, 0.1, 0.4],
        "joint": [0.12] * 3,
        "sae-plain": [0.2] * 3,
        "joint-plain": [0.25] * 3,
        "naive-joint": [0.6] * 3,
        "saelens": [0.5] * 3,
        "sparsify": [0.3] * 3,
        "dictionary_learning": [0.2, 0.4, 0.4],
    }
    raw = {"limits": {"float32_gflops": 100.0, "threads": 2}, "race/8192-64-1024": samples}
    rows = pd.DataFrame(summary.rows(raw, {"torch": "2"}))
    at = rows[rows["size"] == "8192-64-1024"].set_index("quantity")["value"]
    assert at["fastest_peer"] == "sparsify"
    assert at["sae_vs_fastest_peer"] == pytest.approx(3)  # 0.3 s against 0.1 s
    assert at["sae_plain_vs_fastest_peer"] == pytest.approx(1.5)
    assert at["joint_vs_naive"] == pytest.approx(5) and at["joint_vs_sae"] == pytest.approx(1.2)
    assert at["encode_floor_fraction"] == pytest.approx(2 * 1024 * 576 * 8192 / 100e9 / 0.1)
    assert rows.query("model == 'joint'")["value"].tolist() == pytest.approx([1024 / 0.12])
    assert rows.query("quantity == 'version'")[["name", "value"]].to_numpy().tolist() == [
        ["torch", "2"]
    ]


def test_the_other_stages_rows():
    raw = {
        "limits": {"float32_gflops": 100.0, "threads": 2},
        "phases/4-2-8": {"sae": {"encode": 0.5}},
        "memory/4-2-8": {"peak": 3 * 2**30, "state": 2**30},
        "growth/k": [{"k": 16, "model": "sae", "seconds": 0.25}],
        "harvest/float32": {
            "ours": 300.0,
            "transformers forward": 100.0,
            "transformers trunk": 150.0,
            "bare blocks": 400.0,
        },
        "loss/sae": {"fast": 0.5, "dense": 0.25},
    }
    rows = pd.DataFrame(summary.rows(raw, {})).set_index("quantity")["value"]
    assert rows["ms_of_phase"] == 500 and rows["ms_of_step"] == 250
    assert rows["memory_beyond_state"] == 2 and rows["held_out_loss_vs_dense"] == 2
    against = rows[["harvest_vs_full_forward", "harvest_vs_trunk", "harvest_vs_bare_blocks"]]
    assert against.tolist() == [3, 2, 0.75]


def test_a_stage_with_too_few_clean_samples_is_refused():
    with ExitStack() as stack:
        worker = speed.Worker(stack, "product", 64, 4, 16)
        worker.samples = [0.1, 0.2]
        with pytest.raises(machine.Busy, match="only 2 samples of product were clean"):
            worker.enough()


def test_a_stage_ends_early_when_most_samples_are_in_vain(monkeypatch):
    monkeypatch.setattr(machine.Watch, "clean", lambda self: False)
    monkeypatch.setattr(speed.time, "sleep", lambda seconds: None)
    with ExitStack() as stack:
        worker = speed.Worker(stack, "product", 64, 4, 16)
        worker.samples = [0.1, 0.2]
        worker.sample()
        worker.sample()
        with pytest.raises(machine.Busy, match="3 of product's samples in vain"):
            worker.sample()


@pytest.fixture
def two_stages(monkeypatch, tmp_path):
    monkeypatch.setattr(speed, "STAGES", {"a": lambda: {"x": 1}, "b": lambda: {"x": 2}})
    monkeypatch.setattr(speed, "folder", lambda: tmp_path)
    return tmp_path


@pytest.mark.parametrize("idle_at_first", [0, 1])
def test_other_work_is_told_of_before_a_stage_and_finished_stages_stay(
    two_stages, monkeypatch, idle_at_first
):
    said, slept = [True] * idle_at_first, []
    monkeypatch.setattr(machine.Watch, "clean", lambda self: said.pop() if said else False)
    monkeypatch.setattr(machine.time, "sleep", slept.append)
    stage = "ab"[idle_at_first]
    with pytest.raises(SystemExit, match=rf"^{stage}: other processes use .* `make bench` again"):
        speed.main([])
    assert [f.stem for f in two_stages.glob("*.json")] == ["a"][:idle_at_first]
    assert sum(slept) < 60


def test_a_stage_that_others_disturb_is_told_of_too(two_stages, monkeypatch):
    def disturbed():
        raise machine.Busy("in vain")

    monkeypatch.setattr(machine, "wait_until_idle", lambda: None)
    monkeypatch.setitem(speed.STAGES, "b", disturbed)
    with pytest.raises(SystemExit, match="^b: in vain. Stop what else"):
        speed.main([])
    assert [f.stem for f in two_stages.glob("*.json")] == ["a"]


def test_every_stage_is_summarised():
    assert {name.partition("/")[0] for name in speed.STAGES} - {"limits"} == set(summary.MAKERS)


def test_news_of_a_download_does_not_hide_a_measurement(monkeypatch):
    done = subprocess.CompletedProcess([], 0, stdout='fetching a package (90 MB)\n{"bytes": 3}\n')
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    assert speed.measured("state", 64, 4) == {"bytes": 3}


def test_intervals_hold_the_truth_as_often_as_they_say():
    """A slice of `benchmarks.coverage`: 200 worlds each. The band is the binomial 99.9 % interval
    around 93 to 97 %; intervals over articles alone hold it far less often if seeds differ."""
    n, rows = 200, {}
    for about, batch in coverage.settings():
        name, by, spread = (about["interval"], about["of"]), about["by"], about.get("of_seed")
        some = about["n"] == 20 and (about["of"] == "articles" or spread == 1)
        if (by == "of_totals" and some) or by in ("over_seeds", "designs.contrasts"):
            rows[*name, about["n"]] = coverage.covers(batch, n)["coverage"]
    assert len(rows) == 18
    low, high = st.binom(n, 0.93).ppf(0.0005), st.binom(n, 0.97).ppf(0.9995)
    assert {row: share for row, share in rows.items() if not low <= n * share <= high} == {}


def test_articles_alone_are_silent_about_seeds():
    """The gain of five seeds with intervals over the articles of their sums, as if it were one."""
    drawn = coverage.articles(), "gain, squared error", 300, 5, 100, 3.0, np.random.default_rng(0)
    sums, true = coverage.draw(*drawn)
    alone, right = coverage.over_articles("gain", sums.groupby(level=1).sum(), true, 100)
    both, _ = coverage.over_articles("gain", sums, true, 100)
    held = [((f["lo"] < right) & (right < f["hi"])).sum() for f in (alone, both)]
    assert held[0] < 50 and held[1] > 85


def test_the_committed_coverage_is_of_all_that_is_simulated():
    file = DATA / "results" / "bench" / "coverage.json"
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    known = [{name: row[name] for name in row if name in coverage.ABOUT} for row in rows]
    assert known == [about for about, _ in coverage.settings()]
    assert all(row["worlds"] >= 2000 and row["error"] < 0.0065 for row in rows)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("python -m companion.cli train --profile laptop --model joint --seed 0", "train joint 0"),
        ("python -m companion.cli notebook norms --profile laptop", "notebook norms"),
        ("python -m companion.flow .venv/bin/jupyter-book build . -W", "pages"),
        ("/x/.venv/bin/python3 /x/.venv/bin/snakemake --cores all", whole_book.MINE),
        (".venv/bin/python3 .venv/bin/pip install --quiet", whole_book.INSTALL),
        ("python -m ipykernel_launcher -f kernel.json", None),
    ],
)
def test_a_process_of_the_flow_names_its_step(words, name):
    assert whole_book.step(words.split()) == name


def test_memory_that_is_shared_counts_once():
    """Proportional set size of this process, as psutil reads it from the longer table."""
    ours = whole_book.proportional(psutil.Process())
    assert ours == pytest.approx(psutil.Process().memory_full_info().pss, rel=0.05)


def test_the_readme_tells_what_was_timed():
    file = DATA / "results" / "bench" / "whole_book_laptop.json"
    timed = json.loads(file.read_text(encoding="utf-8"))
    stamp, spent = timed["provenance"], sum(row["processor_seconds"] for row in timed["rows"])
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    whole = f"took {stamp['seconds'] / 60:.0f} minutes and {stamp['gb']:.1f} GB of memory"
    assert whole in readme and f"{spent / 60:.0f} minutes of one core" in readme
    assert f"took {stamp['second_run_seconds']} seconds" in readme
