"""Harvested activations: statistics, rows, order, resuming, bad input."""

import errno
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from companion import profiles
from companion.places import PROJECT
from featint import activations, harvest, lm, store
from featint.config import SPLITS, HarvestConfig, TrainConfig
from featint.store import StoreError


@pytest.fixture
def harvested(tiny_harvest, monkeypatch):
    """The tiny harvest, in shards so small that every split has several."""
    monkeypatch.setattr(harvest, "SHARD_WINDOWS", 8)
    harvest.harvest(tiny_harvest)
    return tiny_harvest


def direct(config, split, first_position):
    """The rows that should be there, read straight from the model."""
    model, windows = lm.load(config.lm), harvest.windows(config).windows[split]
    x = torch.cat(
        [
            lm.read(model, part, config.hook_point).x
            for part in windows.tokens.split(lm.BATCH_WINDOWS)
        ]
    ).half()
    return x[windows.tokens != 0] if first_position == "drop" else x.flatten(0, 1)


@pytest.mark.parametrize("first_position", ["drop", "keep"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_rows_are_the_models_activations(harvested, split, first_position):
    acts = activations.load(harvested, split, first_position)
    x = direct(harvested, split, first_position)
    assert len(acts) == len(x) and acts.d_in == 32 and len(acts.shards) > 1
    index = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    assert torch.equal(acts.raw(index), x[index])
    assert torch.equal(acts.raw(torch.tensor([3, 3, 0])), x[[3, 3, 0]])


@pytest.mark.parametrize("first_position", ["drop", "keep"])
def test_statistics_are_the_training_splits(harvested, first_position):
    x = direct(harvested, "train", first_position).double().numpy()
    for split in SPLITS:
        acts = activations.load(harvested, split, first_position)
        np.testing.assert_allclose(acts.mean, x.mean(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(acts.std, x.std(0), rtol=1e-5)
    rows = activations.load(harvested, "train", first_position).rows(torch.arange(len(x)))
    assert rows.dtype == torch.float32
    np.testing.assert_allclose(rows.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(rows.std(0, correction=0), 1, rtol=1e-4)


def test_denormalise_inverts_normalise(harvested):
    acts = activations.load(harvested, "test")
    x = acts.raw(torch.arange(len(acts))).float()
    torch.testing.assert_close(acts.denormalise(acts.normalise(x)), x, rtol=1e-5, atol=1e-5)


@pytest.fixture
def by_hand():
    """Seven rows of two dimensions in two shards: (0, 1), (2, 3), ... with mean (1, 2) and spread (2, 0.5)."""
    x, n = torch.arange(14.0).reshape(7, 2).half(), torch.arange(7)
    return activations.Activations(
        config=HarvestConfig(),
        first_position="keep",
        shards=(x[:4], x[4:]),
        starts=torch.tensor([0, 4]),
        where=n,
        mean=torch.tensor([1.0, 2.0]),
        std=torch.tensor([2.0, 0.5]),
        token=n + 10,
        article=n // 3,
        topic=n % 2,
        position=n % 4,
        titles=["a", "b", "c"],
        topics=["T", "U"],
    )


def test_pieces_are_all_rows_in_order_normalised(by_hand):
    pieces = by_hand.pieces(3)
    assert [len(piece) for piece in pieces] == [3, 3, 1] and len(by_hand.pieces()) == 1
    z = torch.cat(list(pieces))
    assert z[:2].tolist() == [[-0.5, -2.0], [0.5, 2.0]]  # ((0, 1) - (1, 2)) / (2, 0.5), then (2, 3)
    assert z[6].tolist() == [5.5, 22.0]  # (12, 13)
    doubled = pieces.map(lambda piece: 2 * piece)
    assert len(doubled) == 3 and torch.equal(doubled[2], 2 * pieces[2])


def test_a_subset_keeps_every_label_of_its_rows(by_hand):
    some = by_hand.subset(torch.tensor([5, 0]))
    assert some.raw(torch.arange(2)).tolist() == [[10.0, 11.0], [0.0, 1.0]]
    labels = [getattr(some, name).tolist() for name in ("token", "article", "topic", "position")]
    assert labels == [[15, 10], [1, 0], [1, 0], [1, 0]]
    assert some.titles == by_hand.titles and some.d_in == 2


def test_tokens_are_split_by_lot_and_stay_in_order(by_hand):
    kept, held_out = by_hand.split_tokens(0.3, seed=1)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    assert held_out.where.tolist() == sorted(order[:2].tolist())  # round(7 * 0.3) of them
    assert kept.where.tolist() == sorted(order[2:].tolist())


def test_batches_need_a_row_and_one_is_enough(by_hand):
    how = TrainConfig(n_tokens=2, batch_tokens=2)
    one = by_hand.subset(torch.tensor([0])).batches(how)
    assert one[0].tolist() == [[-0.5, -2.0]] * 2
    with pytest.raises(ValueError, match="no activations to draw batches from"):
        by_hand.subset(torch.tensor([], dtype=torch.int64)).batches(how)


def test_only_a_constant_dimension_is_left_undivided(harvested, monkeypatch):
    def with_spreads(path):
        found = load_file(path)
        if "std_drop" in found:
            found["std_drop"][:3] = torch.tensor([0.0, 0.25, 4.0])
        return found

    monkeypatch.setattr(activations, "load_file", with_spreads)
    assert activations.load(harvested, "test").std[:3].tolist() == [1, 0.25, 4]


def test_every_row_knows_its_origin(harvested):
    windows = harvest.windows(harvested).windows["test"]
    acts = activations.load(harvested, "test")
    rows = (windows.tokens != 0).nonzero()
    assert torch.equal(acts.position, rows[:, 1])
    for name, want in (
        ("token", windows.tokens),
        ("article", windows.article),
        ("topic", windows.topic),
    ):
        assert torch.equal(getattr(acts, name), want[rows[:, 0], rows[:, 1]])
    assert acts.position.min() == 1 and (acts.token != 0).all()
    assert len(acts.titles) == 60 and acts.topics == ["Geography", "History", "Mathematics"]


def test_window_counts_are_obeyed_and_too_many_refused(tiny_harvest):
    config = replace(tiny_harvest, train_windows=5, validation_windows=2, test_windows=3)
    harvest.harvest(config)
    assert [len(activations.load(config, split, "keep")) for split in SPLITS] == [
        5 * 16,
        2 * 16,
        3 * 16,
    ]
    with pytest.raises(ValueError, match="9999 windows were asked for, but the corpus has"):
        harvest.harvest(replace(config, test_windows=9999))
    assert list((store.cache() / "activations").iterdir()) == [store.path("activations", config)]


def of_corpus(args):
    """Whether a forward pass reads the corpus, and not the few tokens on which a model is tried."""
    return args[1].shape[1] == 16


def test_a_killed_harvest_goes_on_where_it_was(tiny_harvest, monkeypatch):
    monkeypatch.setattr(harvest, "SHARD_WINDOWS", 8)
    real, calls = lm.activations, []

    def interrupted(*args):
        calls.extend([args] * of_corpus(args))
        if of_corpus(args) and len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(lm, "activations", interrupted)
    with pytest.raises(KeyboardInterrupt):
        harvest.harvest(tiny_harvest)
    assert not store.exists("activations", tiny_harvest)
    harvest.harvest(tiny_harvest)
    n_batches = sum(-(-len(w.tokens) // 8) for w in harvest.windows(tiny_harvest).windows.values())
    assert len(calls) == n_batches + 1  # only the interrupted batch was read twice
    assert torch.equal(
        activations.load(tiny_harvest, "train", "keep").raw(torch.arange(50)),
        direct(tiny_harvest, "train", "keep")[:50],
    )
    assert [f.name for f in (store.cache() / "activations").iterdir()] == [store.key(tiny_harvest)]


def test_one_pass_reads_several_hook_points(tiny_harvest, monkeypatch):
    monkeypatch.setattr(harvest, "SHARD_WINDOWS", 8)
    n, real, calls = len(harvest.windows(tiny_harvest).windows["train"].tokens), lm.activations, []

    def seen(*args):
        calls.extend([args] * of_corpus(args))
        return real(*args)

    monkeypatch.setattr(lm, "activations", seen)
    second = replace(
        tiny_harvest,
        hook_point="blocks.0.hook_mlp_out",
        train_windows=11,
        validation_windows=2,
        test_windows=3,
    )
    artefact = harvest.harvest(tiny_harvest, second)
    assert artefact.path == store.path("activations", tiny_harvest) and n > 16
    n_batches = sum(-(-len(w.tokens) // 8) for w in harvest.windows(tiny_harvest).windows.values())
    assert len(calls) == n_batches
    for config in (tiny_harvest, second):
        for split in SPLITS:
            acts, x = activations.load(config, split, "keep"), direct(config, split, "keep")
            got = acts.raw(torch.arange(len(acts))).float()
            assert len(acts) == 16 * (getattr(config, f"{split}_windows") or len(x) // 16)
            torch.testing.assert_close(got, x[: len(acts)].float(), rtol=2e-3, atol=2e-3)
    calls.clear()
    harvest.harvest(
        tiny_harvest, replace(second, hook_point="blocks.1.hook_mlp_out", train_windows=3)
    )
    assert (
        len(calls) == 3
    )  # the first is there: only the windows of the new one are read, a batch per split


def test_one_pass_is_of_one_precision(tiny_harvest):
    with pytest.raises(
        ValueError,
        match="one pass reads one language model, corpus and precision, not .*float32.*bfloat16",
    ):
        harvest.harvest(
            replace(tiny_harvest, dtype="float32"), replace(tiny_harvest, dtype="bfloat16")
        )
    assert not (store.cache() / "activations").exists()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_float16_does_not_hold_is_stored_as_it_is(tiny_harvest, monkeypatch, dtype):
    monkeypatch.setattr(harvest, "SHARD_WINDOWS", 8)
    real = lm.activations

    def large(model, tokens, hook_points):  # in one shard of three
        factor = 1e6 if torch.equal(tokens[0], first_of_second) else 1
        return {name: factor * x for name, x in real(model, tokens, hook_points).items()}

    config = replace(tiny_harvest, dtype=dtype)
    first_of_second = harvest.windows(config).windows["train"].tokens[8]
    monkeypatch.setattr(lm, "activations", large)
    artefact = harvest.harvest(config)
    kinds = [load_file(artefact.file(name))["x"].dtype for name in artefact.meta["shards"]["train"]]
    assert kinds[:3] == [torch.float16, getattr(torch, dtype), torch.float16]
    acts = activations.load(config, "train", "keep")
    tokens = harvest.windows(config).windows["train"].tokens[:16]
    model = lm.load(config.lm, dtype)
    for rows, x in zip(
        acts.raw(torch.arange(16 * 16)).split(8 * 16),
        (large(model, t, [config.hook_point])[config.hook_point] for t in tokens.split(8)),
        strict=True,
    ):
        torch.testing.assert_close(rows.float(), x.flatten(0, 1).float(), rtol=1e-3, atol=1e-3)
    assert acts.mean.isfinite().all() and acts.rows(torch.arange(16 * 16)).isfinite().all()


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_an_activation_that_is_no_number_is_refused_with_its_place(
    tiny_harvest, monkeypatch, value
):
    real, n = lm.activations, [0]

    def broken(model, tokens, hook_points):
        found = real(model, tokens, hook_points)
        n[0] += of_corpus((model, tokens))
        if n[0] == 2:  # the second batch of the training split
            found[tiny_harvest.hook_point][3, 5, 7] = float(value)
        return found

    monkeypatch.setattr(lm, "activations", broken)
    place = f"gives {value} at blocks.1.hook_resid_post in window 11, token 5"
    with pytest.raises(StoreError, match=f"harvest train: .* {place}: .*float32"):
        harvest.harvest(tiny_harvest)
    assert not store.exists("activations", tiny_harvest)


def test_windows_longer_than_the_model_are_refused_before_any_work(tiny_harvest):
    long = replace(tiny_harvest, corpus=replace(tiny_harvest.corpus, seq_len=128))
    with pytest.raises(ValueError, match="128 tokens in a row.* too many for .* 64 positions"):
        harvest.harvest(long)
    assert not (store.cache() / "windows").exists()


def test_unknown_hook_point_leaves_nothing(tiny_harvest):
    with pytest.raises(ValueError, match="hook_point = 'blocks.9.hook_resid_post' is not known"):
        harvest.harvest(replace(tiny_harvest, hook_point="blocks.9.hook_resid_post"))
    assert not (store.cache() / "activations").exists()


def test_batches_are_reproducible_permutations(harvested):
    acts = activations.load(harvested, "train")
    n = len(acts)
    how = TrainConfig(n_tokens=2 * n, batch_tokens=50, seed=3)
    batches = acts.batches(how)
    assert len(batches) == 2 * n // 50 and batches[0].shape == (50, 32)
    seen = torch.cat([batches[step] for step in range(len(batches))])
    everything = acts.rows(torch.arange(n))
    for epoch in (
        seen[:n],
        seen[n:],
    ):  # a whole epoch holds every row once; the second is cut off at the last whole batch
        distances = torch.cdist(epoch, everything, compute_mode="donot_use_mm_for_euclid_dist")
        assert (distances.min(1).values == 0).all()
    assert torch.equal(seen[:n].sort(0).values, everything.sort(0).values)
    assert not torch.equal(seen[:50], seen[n : n + 50])
    fresh = acts.batches(how)
    assert torch.equal(
        fresh[len(fresh) - 1], batches[len(batches) - 1]
    )  # any step, without those before
    assert not torch.equal(acts.batches(replace(how, seed=4))[0], batches[0])
    with pytest.raises(IndexError, match="is not among"):
        batches[len(batches)]


def test_chunks_come_one_after_the_other_each_in_its_own_units(harvested):
    """Two passes over rows 0 to 199, then over rows 200 to 399, and so on, against loops over numpy rows."""
    acts = activations.load(harvested, "train", "keep")
    raw = acts.raw(torch.arange(len(acts))).double().numpy()
    whole = len(raw) // 200
    assert whole > 2 and len(raw) % 200 > 0  # what the last whole chunk leaves is not trained on
    how = TrainConfig(
        n_tokens=200 * (2 * whole + 1), batch_tokens=30, chunk_tokens=200, chunk_passes=2
    )
    batches = acts.batches(how)
    seen = torch.cat(list(batches)).double().numpy()
    passes = [seen[at : at + 200] for at in range(0, len(seen) - 199, 200)]
    assert len(passes) == 2 * whole
    orders = []
    for number, rows in enumerate(passes):
        chunk = raw[200 * (number // 2) :][:200]
        mean, std = chunk.mean(0), chunk.std(0)
        z = np.array([[(row[d] - mean[d]) / std[d] for d in range(len(row))] for row in chunk])
        distances = np.abs(rows[:, None] - z[None]).max(2)
        orders.append(tuple(distances.argmin(1)))
        assert distances.min(1).max() < 1e-4  # rows of this chunk, and all of them as often
        assert np.abs(np.sort(rows, 0) - np.sort(z, 0)).max() < 1e-4
    assert len(set(orders)) == len(passes)  # every pass is in another order
    again = seen[200 * len(passes) :]  # after the last whole chunk the first comes again
    first = (raw[:200] - raw[:200].mean(0)) / raw[:200].std(0)
    assert len(again) > 0 and np.abs(again[:, None] - first[None]).max(2).min(1).max() < 1e-4
    assert torch.equal(acts.batches(how)[7], batches[7])  # any step, without those before


def test_a_chunk_larger_than_the_text_is_all_of_it(by_hand):
    how = TrainConfig(n_tokens=14, batch_tokens=7, chunk_tokens=100, chunk_passes=2)
    for z in by_hand.batches(how):
        # 0, 2, ..., 12 have mean 6 and variance 16
        assert sorted(z[:, 0].tolist()) == pytest.approx([-1.5, -1, -0.5, 0, 0.5, 1, 1.5])


def test_what_is_missing_is_made_on_the_spot(tiny_harvest):
    """Windows and activations, in an empty cache."""
    acts = activations.load(tiny_harvest, "test", "keep")
    assert torch.equal(acts.raw(torch.arange(len(acts))), direct(tiny_harvest, "test", "keep"))


@pytest.mark.parametrize("place", ["blocks.4.hook_resid_post", "blocks.1.hook_z", "3", ""])
def test_an_impossible_place_is_refused_before_any_work(tiny_harvest, place):
    with pytest.raises(ValueError, match=f"hook_point = '{place}' .* from 0 to 3 .* hook_mlp_out"):
        activations.load(replace(tiny_harvest, hook_point=place), "train")
    assert not (store.cache() / "windows").exists()
    assert not (store.cache() / "activations").exists()


@pytest.mark.parametrize("problem", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
@pytest.mark.parametrize(
    "place, step", [(harvest, "statistics"), (store, "write_json"), (store, "provenance")]
)
def test_finished_shards_outlive_a_failure_in_the_last_step(
    tiny_harvest, monkeypatch, problem, place, step
):
    monkeypatch.setattr(harvest, "SHARD_WINDOWS", 8)
    harvest.windows(tiny_harvest)

    def failing(*_, **__):
        raise problem

    with monkeypatch.context() as m, pytest.raises((KeyboardInterrupt, StoreError)):
        m.setattr(place, step, failing)
        harvest.harvest(tiny_harvest)
    assert not store.exists("activations", tiny_harvest)
    (harvest.partial(tiny_harvest) / ".train-00000.safetensors-x").write_text(
        "of a killed process", encoding="utf-8"
    )
    with monkeypatch.context() as m:
        m.setattr(harvest, "read_rows", None)  # nothing is read again
        harvest.harvest(tiny_harvest)
    assert [f.name for f in (store.cache() / "activations").iterdir()] == [store.key(tiny_harvest)]
    artefact = store.load("activations", tiny_harvest)
    files = {f.name for f in artefact.path.iterdir()}
    assert files == {*artefact.manifest["files"], store.MANIFEST}
    assert torch.equal(
        activations.load(tiny_harvest, "test", "keep").raw(torch.arange(50)),
        direct(tiny_harvest, "test", "keep")[:50],
    )


def test_an_artefact_whose_manifest_a_flow_took_is_finished_from_its_shards(
    tiny_harvest, monkeypatch
):
    """Snakemake takes it from a job that failed later, and before it runs a job again."""
    monkeypatch.setattr(harvest, "SHARD_WINDOWS", 8)
    made = harvest.harvest(tiny_harvest)
    (made.path / store.MANIFEST).unlink()
    with monkeypatch.context() as m:
        m.setattr(harvest, "read_rows", None)  # nothing is read again
        again = harvest.harvest(tiny_harvest)
    assert again.manifest["files"] == made.manifest["files"]
    assert [f.name for f in (store.cache() / "activations").iterdir()] == [store.key(tiny_harvest)]


HARVEST = """
import sys, time
from featint import harvest
from featint.config import CorpusConfig, HarvestConfig, LMConfig

corpus = CorpusConfig(name=sys.argv[2], seq_len=16, validation_fraction=0.1, test_fraction=0.2)
config = HarvestConfig(lm=LMConfig(name=sys.argv[1]), corpus=corpus, hook_point="blocks.1.hook_resid_post", dtype="float32")
finish = harvest.finish
harvest.finish = lambda *args: (print("last step", flush=True), time.sleep(float(sys.argv[3])), finish(*args))
harvest.harvest(config)
"""


@pytest.mark.parametrize("killed", [False, True])
def test_of_two_harvests_one_waits_for_the_other(tiny_harvest, killed, capsys):
    """A second one says that it waits, and goes on when the first has ended, by a kill even."""
    seconds = "60" if killed else "2"
    words = [tiny_harvest.lm.name, tiny_harvest.corpus.name, seconds]
    with subprocess.Popen(
        [sys.executable, "-c", HARVEST, *words],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as first:
        while "last step" not in first.stdout.readline():
            assert first.poll() is None
        if killed:
            threading.Timer(1, first.kill).start()
        harvest.harvest(tiny_harvest)
    assert first.returncode == (-signal.SIGKILL if killed else 0)
    said = capsys.readouterr().out
    assert f"waiting for another harvest on {store.cache()}" in said
    assert ("reading " in said) == killed  # what the first has made is not made again
    assert [f.name for f in (store.cache() / "activations").iterdir()] == [store.key(tiny_harvest)]


def test_unknown_split(tiny_harvest):
    with pytest.raises(
        ValueError, match="split = 'dev' is not known; allowed: 'train', 'validation', 'test'"
    ):
        activations.load(tiny_harvest, "dev")


@pytest.mark.parametrize(
    "damage", [lambda f: f.write_bytes(f.read_bytes()[:-8]), lambda f: f.unlink()]
)
def test_a_damaged_shard_is_noticed(harvested, damage):
    damage(store.load("activations", harvested).path / "train-00001.safetensors")
    with pytest.raises(StoreError, match="train-00001.safetensors"):
        activations.load(harvested, "train")


def test_a_constant_dimension_stays_finite(harvested):
    acts = activations.load(harvested, "train")
    files = [
        store.load("activations", harvested).path / f"train-{i:05d}.safetensors"
        for i in range(len(acts.shards))
    ]
    x = torch.cat([load_file(f)["x"] for f in files])
    assert torch.isfinite(acts.rows(torch.arange(len(acts)))).all() and len(x) == len(
        harvest.windows(harvested).windows["train"].tokens
    )


@pytest.mark.smoke
def test_drawing_a_batch_is_fast():
    """1024 random rows of the real activations; the limit leaves room for a busy machine (2 ms when idle)."""
    acts = activations.load(profiles.smoke().harvest, "train")
    batches = acts.batches(TrainConfig(n_tokens=40 * 1024, batch_tokens=1024))
    batches[0]
    times = []
    for step in range(1, 40):
        began = time.perf_counter()
        batches[step]
        times.append(time.perf_counter() - began)
    assert sorted(times)[len(times) // 2] < 0.02
