"""The chapter on norms: histories, modes, what norms predict, half precision; and its toy data."""

import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pages
import pandas as pd
import pytest
import torch
from scipy import stats as st

from companion import estimates, profiles, variants
from companion.chapters import norms, two_decoders
from featint import geometry, runs, train
from featint.activations import Activations
from featint.config import HarvestConfig, ModelConfig, NFMConfig, SAEConfig, TrainConfig, to_json
from featint.nfm import NFM
from featint.runs import Trained

D_IN, D_SAE, K = 6, 40, 4
page = pages.functions("norms")


def trained(nfm=True, grow=0.5):
    """A model with its records, as if training had added the same to decoder and linear path."""
    config = ModelConfig(
        harvest=HarvestConfig(),
        sae=SAEConfig(d_sae=D_SAE, k=K),
        nfm=NFMConfig(d_factor=3) if nfm else None,
        train=TrainConfig(n_tokens=1000, batch_tokens=100),
    )
    built = runs.build(config, D_IN).requires_grad_(False)
    moved = grow * torch.randn(D_SAE, D_IN, generator=torch.Generator().manual_seed(8))
    (built.sae if nfm else built).W_dec.add_(moved)
    if nfm:
        built.nfm.W_lin.add_(moved)
    fired = torch.arange(D_SAE) * 10
    return Trained(config, built, pd.DataFrame(), fired, fired, 0.0, {}, "")


def tokens(n, seed=1):
    return torch.randn(n, D_IN, generator=torch.Generator().manual_seed(seed))


class TestHistory:
    def test_starts_where_the_seed_did(self):
        m = trained(nfm=False, grow=0.0)
        features = norms.history(m.config, m.model, m.fired_tokens)
        assert features.s.tolist() == pytest.approx(features.start.tolist())
        assert features.cosine.min() == pytest.approx(1)
        # rows of U(-1/sqrt(d_sae), 1/sqrt(d_sae)) have variance 1/(3 d_sae) in each dimension
        assert features.start.mean() == pytest.approx(6 / 120, rel=0.1)
        # of 1,000 training tokens the average feature has 100; rare is less than a twentieth, 5
        assert features.updates.tolist() == list(range(0, 400, 10))
        assert features.rare.tolist() == [True] + 39 * [False]
        some = torch.tensor([4, 6] * 20)
        rare = norms.history(m.config, m.model, some).rare
        assert rare.tolist() == [True, False] * 20 and rare.index.name == "feature"

    def test_by_hand(self):
        m = trained()
        m.model.sae.W_dec.copy_(norms.decoder(runs.build(m.config, D_IN)))
        m.model.sae.W_dec[0] *= -3  # thrice as long, the other way
        features = norms.history(m.config, m.model, m.fired_tokens)
        assert features.s[0] == pytest.approx(9 * features.start[0])
        assert features.cosine[:2].tolist() == pytest.approx([-1, 1])

    def test_training_moves_both_decoders_alike(self):
        m = trained(grow=0.0)
        m.model.requires_grad_(True)
        train.fit(m.model, [tokens(100, seed) for seed in range(10)], m.config.train)
        moved = two_decoders.moved(runs.build(m.config, D_IN), m.model)
        assert moved["difference"] < 1e-5 * moved["decoder"]


def lognormal(second=0.37, n=900):
    """A third of the features around 0.05, rare, and the others around `second`."""
    rng = np.random.default_rng(0)
    middles = np.repeat([0.05, second], [n // 3, n - n // 3])
    s = np.exp(rng.normal(np.log(middles), 0.3))
    return pd.DataFrame({"s": s, "start": 0.0213, "rare": np.arange(n) < n // 3})


class TestModes:
    def test_two_that_are_rare_and_frequent_features(self):
        tests = norms.modes({"two": lognormal(), "one": lognormal(second=0.05)})
        everything, frequent = (
            tests.loc["two", "all", "log s"],
            tests.loc["two", "not rare", "log s"],
        )
        assert everything.two and not frequent.two
        assert everything.p_holm < 0.01 and frequent.dip_p > 0.05
        assert (everything.n, frequent.n) == (900, 600)
        # places are squared norms on either scale
        assert (everything.low, everything.high) == pytest.approx((0.05, 0.37), rel=0.1)
        assert 0.08 < everything.valley < 0.25
        assert tests.loc["two", "all", "s"].high == pytest.approx(0.37, rel=0.15)
        # Holm: the smallest p times the number of tests, eight
        smallest = tests.dip_p.idxmin()
        assert tests.p_holm[smallest] == pytest.approx(8 * tests.dip_p[smallest])

    @pytest.mark.parametrize(
        ("change", "two"),
        [
            ({}, True),
            ({"bic_gain": -0.5}, False),
            ({"valley": None}, False),
            ({"low_weight": 0.04}, False),
            ({"low_weight": 0.96}, False),
            ({"low_weight": 0.06}, True),
        ],
    )
    def test_two_modes_need_a_gain_a_valley_and_weight(self, change, two, monkeypatch):
        found = norms.geometry.bimodality(lognormal().s.to_numpy())
        found = found._replace(**{"bic_gain": 0.5, "valley": 1.0, "low_weight": 0.5} | change)
        monkeypatch.setattr(norms.geometry, "bimodality", lambda _: found)
        tests = norms.modes({"any": lognormal()})
        assert (tests.two == two).all() and tests.n.dtype == int
        assert tests.index.names == ["model", "features", "scale"]

    def test_a_handful_of_outliers_is_no_mode(self):
        features = lognormal(second=0.05)
        features.loc[:9, "s"] = 5.0
        test = norms.modes({"one": features}).loc["one", "all", "log s"]
        assert test.bic_gain > 0 and not np.isnan(test.valley) and not test.two

    def test_split_is_the_valley_the_papers_multiple_or_the_median(self):
        two = lognormal()
        valley = norms.modes({"two": two}).loc["two", "all", "log s"]
        assert page["split"](valley, two) == (valley.valley, "the valley between two modes")
        one_mode = valley.copy()
        one_mode.two = False
        # 0.2 * 150,000 / 3200 = 9.375 times the start
        doubled = two.assign(start=2 * 3200 / 150_000)
        found = page["split"](one_mode, doubled)
        assert found == (pytest.approx(0.4), "the paper's multiple of the initial squared norm")
        low = two.assign(start=0.0001)
        at, how = page["split"](one_mode, low)
        assert how.startswith("the median, since") and (low.s < at).mean() == 0.5

    def test_the_seed_with_the_largest_dip_is_told(self, monkeypatch):
        one, two = (lognormal(at).assign(updates=np.arange(900)) for at in (0.05, 0.4))
        fit = [
            SimpleNamespace(config=replace(trained().config.train, seed=s), model=s) for s in (0, 1)
        ]
        for m in fit:
            m.config, m.fired_tokens = SimpleNamespace(train=m.config), None
        monkeypatch.setitem(page, "called", lambda role, seed: f"{role}@{seed}")
        monkeypatch.setitem(page, "p", None)
        monkeypatch.setattr(variants, "seeds", lambda *_: (0, 1))
        monkeypatch.setattr(variants, "get", lambda role, p, seed: seed)
        monkeypatch.setattr(runs, "get", lambda seed: fit[seed])
        monkeypatch.setattr(norms, "history", lambda config, model, fired: (one, two)[model])
        features, test, tests = page["trained_as_released"]("r")
        assert features is two and set(tests.index.unique("model")) == {"r@0", "r@1"}
        found = {
            row["quantity"]: row["value"] for row in page["numbers_of"]("r", features, test, 0)
        }
        assert found["dip"] == tests.loc["r@1", "all", "s"].dip > tests.loc["r@0", "all", "s"].dip
        assert found["squared_norm_low"] < found["squared_norm_valley"] < found["squared_norm_high"]
        assert found["squared_norm_valley"] == tests.loc["r@1", "all", "log s"].valley
        rank = two.s.rank().corr(two.updates.rank())
        assert found["correlation_with_updates"] == pytest.approx(rank)
        rows = page["numbers_of"]("r", one, tests.loc["r@0"], 0)
        lacking = {row["quantity"]: row["value"] for row in rows}
        assert lacking["squared_norm_valley"] is None and lacking["dip"] is not None

    def test_places(self):
        two = lognormal()
        test = norms.modes({"two": two}).loc["two", "all", "log s"]
        found = page["modes"](test, two.s)
        assert found == {"low": test.low, "high": test.high}
        test.two = False
        found = page["modes"](test, pd.Series([0.1, 0.5, 0.5, 0.5, 0.9]))
        assert found["high"] == pytest.approx(0.5, abs=1e-3) and math.isnan(found["low"])

    def test_too_few_features_give_a_reason(self):
        few = norms.modes({"few": lognormal(n=9)})
        assert few.reason.str.endswith("features: the tests need 20 to 72000").all()
        assert few[["dip", "dip_p", "p_holm", "valley"]].isna().all().all()
        reason = few.reason.iloc[0]
        assert norms.known(few.dip.iloc[0], "dip", reason) == {"value": None, "unit": reason}
        assert norms.known(0.1, "dip", reason) == {"value": 0.1, "unit": "dip"}


def test_flatter_by_hand():
    """Centred spectra: (+-2, 0, 0) and (0, +-1, 0), each twenty times, 80 and 20 %; and three axes
    +-1, a third each. The first holds 46.7 points less, the first two 33.3."""

    def decoder(*lengths):
        rows = [s * length * torch.eye(3)[i] for i, length in enumerate(lengths) for s in (1, -1)]
        return torch.stack(rows).repeat_interleave(20, dim=0)

    sae, joint = decoder(2, 1), decoder(1, 1, 1)
    page.update(leading=2, block=np.arange(120) % 20)
    drops = partial(page["drops"], {"sae": torch.cat([sae, sae[:40]]), "joint": joint})
    found = estimates.jackknife(drops, 20, names="quantity").set_index("quantity")
    # (+-2) forty times more: squares 320 and 40, 88.9 and 11.1 %
    assert found.value["pca_first_drop"] == pytest.approx(100 * (320 / 360 - 1 / 3))
    assert found.value["pca_leading_drop"] == pytest.approx(100 * (1 - 2 / 3))


def test_over_seeds_by_hand():
    """Two rows of three seeds: 1, 2, 6 has mean 3 and standard error sqrt(7/3); where one seed
    lacks a number there is none, and its reason."""

    def of_seed(a, b):
        same = {"model": "joint", "quantity": "difference", "n": 50, "of": "features"}
        rows = [
            {"part": "a", "value": a, "lo": a - 1, "hi": a + 1, "unit": "%"},
            {"part": "b", **b},
        ]
        return estimates.tidy(rows, **same)

    known, missing = {"value": 4.0, "unit": "%"}, {"value": None, "unit": "too few"}
    by_seed = dict(enumerate(map(of_seed, (1.0, 2.0, 6.0), (known, missing, known))))
    found = page["over_seeds"](by_seed).set_index("part")
    assert found.n.tolist() == [3, 3] and set(found.of) == {"seeds"}
    half = st.t.isf(0.025, 2) * (7 / 3) ** 0.5
    assert found.loc["a", ["value", "lo", "hi"]].tolist() == pytest.approx([3, 3 - half, 3 + half])
    assert found.value["b"] is None and found.unit.tolist() == ["%", "too few"]
    assert set(found.model) == {"joint"} and set(found.quantity) == {"difference"}
    assert found.each_seed["a"] == [[1, 0, 2], [2, 1, 3], [6, 5, 7]]  # each with its own interval
    alone = page["over_seeds"]({7: by_seed[0]})  # keeps what it has over features
    assert alone.equals(by_seed[0])


def test_the_band_of_a_dip_holds_for_all_seeds_at_once():
    """ln(2 * 5 / 0.05) = ln 200; with 1,000 features 0.0515 to either side, over 0.04."""
    test = pd.Series({"n": 1000, "dip": 0.06, "reason": ""})
    found, half = page["over_bound"](test, 5), (math.log(200) / 2000) ** 0.5
    ends = [(0.06 - half) / 0.04, (0.06 + half) / 0.04]
    assert [found["value"], found["lo"], found["hi"]] == pytest.approx([1.5, *ends])
    alone = page["over_bound"](test, 1)
    assert alone["hi"] - 1.5 == pytest.approx((math.log(40) / 2000) ** 0.5 / 0.04)


class TestObserved:
    def acts(self, article, topic, topics):
        zeros = torch.zeros(len(article), dtype=torch.int64)
        rows = tokens(len(article)).to(torch.float16)
        return Activations(
            HarvestConfig(),
            "drop",
            (rows,),
            torch.tensor([0]),
            torch.arange(len(article)),
            torch.zeros(D_IN),
            torch.ones(D_IN),
            token=zeros,
            article=article,
            topic=topic,
            position=zeros,
            titles=[],
            topics=topics,
        )

    def test_features_on_text(self):
        m = trained()
        features = norms.history(m.config, m.model, m.fired_tokens)
        article = torch.arange(600) // 30
        acts = self.acts(article, (article // 2) % 3, ["A", "Uncategorized", "C"])
        found = norms.observe(m.model, features, acts)
        codes = m.model.encode(acts.pieces()[0])
        fired = torch.bincount(codes.indices[codes.acts > 0], minlength=D_SAE).numpy()
        assert found.fired.tolist() == fired.tolist()
        assert found.rate.tolist() == pytest.approx((fired / 600).tolist())
        seldom = found.fired < 20
        assert 0 < seldom.sum() < 40
        assert (found.ablation.isna() == seldom).all()
        assert (found.decoder.isna() == seldom).all()
        # two topics are left, a third of the text each; the unlabelled third counts for nothing
        labelled = found.selectivity.dropna()
        assert labelled.between(0, 1).all() and labelled.mean() == pytest.approx(0.5, abs=0.1)
        blocks, of_blocks = norms.blocks(m.model, acts)
        assert torch.equal(torch.cat(blocks), acts.pieces()[0])
        assert torch.equal(torch.cat([each.indices for each in of_blocks]), codes.indices)

    @pytest.mark.parametrize(("n", "some"), [(5, range(5)), (6, [0, 3]), (8, [0, 3, 6])])
    def test_effects_are_measured_on_every_third_block_if_there_are_six(self, n, some, monkeypatch):
        pieces = [tokens(3, seed) for seed in range(n)]
        monkeypatch.setattr(Activations, "pieces", lambda self, n=None: pieces)
        model, acts = trained().model, self.acts(torch.arange(3), torch.zeros(3).long(), ["A"])
        blocks, codes = norms.blocks(model, acts)
        assert torch.equal(torch.stack(blocks), torch.stack([pieces[i] for i in some]))
        assert torch.equal(codes[-1].acts, model.encode(pieces[some[-1]]).acts)

    def test_by_chance_a_longer_move_is_shared_evenly(self):
        """Both paths move by `moved`; with start and draw both small beside it, either has half of
        the output, and of features that did not move the decoder has what its start is beside a
        fresh draw."""
        m = trained(grow=100.0)
        features = pd.DataFrame({"fired": [20] * 39 + [19]})
        found = page["by_chance"](m, features, seed=3)
        assert found.decoder[:39].to_numpy() == pytest.approx(0.5, abs=0.01)
        assert found.decoder[39:].isna().all()
        still = trained(grow=0.0)
        found = page["by_chance"](still, features, seed=3)
        W = still.model.sae.W_dec.double()
        drawn = 0.01 * torch.randn(D_SAE, D_IN, generator=torch.Generator().manual_seed(3)).double()
        whole = W + drawn
        share = (W * whole).sum(1) / (whole * whole).sum(1)
        assert found.decoder[:39].tolist() == pytest.approx(share[:39].tolist(), rel=1e-5)
        assert found.linear[:39].tolist() == pytest.approx((1 - share[:39]).tolist(), abs=1e-6)
        assert found.nfm.equals(found.linear)


def like_rates(pairs):
    """Features in 20 bins of the firing rate, in each a low and a high one with these outcomes."""
    rows = [
        {"rate": b + i / 10, "low": low, "y": y}
        for b, outcome in enumerate(pairs)
        for i, (low, y) in enumerate(zip((True, False), outcome, strict=True))
    ]
    return pd.DataFrame(rows)


class TestMatched:
    def test_by_hand(self):
        """Twenty pairs of like rate; low minus high is 1 in ten of them and 3 in ten, mean 2; the
        outcome's rise with the rate takes no part. In each pair the residuals are +-1/4 and -+1/4
        twice; with leverage 21/40 HC3 makes of each (1/2) / (1 - 21/40)."""
        pairs = [(10 * b + (1 if b % 2 else 3), 10 * b) for b in range(20)]
        row = norms.matched(like_rates(pairs), "y", model="joint", unit="points").iloc[0]
        assert row.value == pytest.approx(2) and row.n == 40 and row.unit == "points"
        # a pair's difference has the error (2 - 1 or 3) / 2 on either side, over 1 - leverage; the
        # estimate is the mean of twenty differences
        se = math.sqrt(40 * (0.5 / (1 - 21 / 40)) ** 2) / 20
        assert (row.lo, row.hi) == pytest.approx((2 - 1.959964 * se, 2 + 1.959964 * se))

    def test_only_bins_that_hold_both_groups_and_features_that_were_measured(self):
        pairs = [(b + 2, b) for b in range(20)]
        features = like_rates(pairs)
        features.loc[0:9, "low"] = True  # five bins without a high-norm feature
        features.loc[0:9, "y"] = 1000.0
        unmeasured = features.iloc[[-1]].assign(y=math.nan)
        every = pd.concat([features.assign(other=math.nan), unmeasured.assign(other=1.0)])
        row = norms.matched(every, "y").iloc[0]
        assert (row.value, row.n) == (pytest.approx(2), 30)

    def test_a_norm_that_only_follows_the_rate_predicts_nothing(self):
        rng = np.random.default_rng(0)
        rate = rng.uniform(0.01, 1, 2000)
        low = rate + rng.normal(0, 0.3, 2000) < 0.5
        features = pd.DataFrame(
            {"rate": rate, "low": low, "y": 2 * rate + rng.normal(0, 0.2, 2000)}
        )
        assert features.y[low].mean() - features.y[~low].mean() < -0.5
        row = norms.matched(features, "y").iloc[0]
        assert row.lo < 0 < row.hi and abs(row.value) < 0.05

    @pytest.mark.parametrize(("n", "high"), [(0, 0), (3, 3), (40, 18)])
    def test_too_few_give_a_reason(self, n, high):
        features = like_rates([(1, 0)] * 20)[:n]
        features.loc[features.index[18:], "low"] = True  # nine bins hold both
        row = norms.matched(features, "y", unit="points").iloc[0]
        assert row.value is None and row.unit.endswith("10 of each are needed")
        if n == 40:
            assert row.unit.startswith("9 low- and 9 high-norm features") and row.n == 18


@pytest.mark.parametrize("few", [True, False])
def test_ten_of_either_group_are_enough_and_nine_are_not(few):
    """Bins of ten features; in some of them one is of the group of which there are `few`."""

    def found(bins):
        low = np.array([few == (i == 0 and b < bins) for b in range(20) for i in range(10)])
        rate = np.repeat(np.arange(20), 10) + np.tile(np.arange(10), 20) / 100
        features = pd.DataFrame({"rate": rate, "low": low, "y": 2.0 * low})
        return norms.matched(features, "y").iloc[0]

    enough, short = found(10), found(9)
    assert enough.value == pytest.approx(2) and enough.n == 100
    assert short.value is None and short.n == 90


def test_estimates_in_words():
    rows = [
        {
            "model": "sae",
            "part": "rate",
            "quantity": "plain",
            "value": -0.5,
            "lo": -0.6,
            "hi": -0.4,
        },
        {"model": "joint", "part": "rate", "quantity": "plain", "value": None, "unit": "too few"},
        {"model": "joint", "part": "rate", "quantity": "partial", "value": 0.25, "n": 8},
    ]
    frame = estimates.tidy([{"n": 10} | row for row in rows])
    table = norms.in_words(frame, {"plain": "with the norm", "partial": "at equal rate"})
    assert table.to_dict("records") == [
        {"model": "sae", "part": "rate", "with the norm": "−0.500 [−0.600, −0.400]",
         "at equal rate": "–", "n": 10, "remark": ""},
        {"model": "joint", "part": "rate", "with the norm": "–", "at equal rate": "0.250",
         "n": 8, "remark": "too few"},
    ]  # fmt: skip


def test_weight_shares_by_hand():
    """r = 5, l = 1, e = 4: half is the decoder's; r = 1, l = 3, e = 4: an eighth."""
    found = norms.weight_shares(np.array([5.0, 1.0]), np.array([1.0, 3.0]), 4.0)
    assert found.to_dict("list") == {
        "s": [25, 1],
        "nfm": [0.5, 0.875],
        "linear": [0.1, 0.375],
        "interaction": [0.4, 0.5],
        "decoder": [0.5, 0.125],
    }


def test_expected_initial_norms_reproduce_the_published_shares():
    """Before training l = 0.01 sqrt(3200) = 0.566 and e = 0.05 sqrt(300) = 0.866; beside a decoder
    at the paper's modes, s = 0.05 and 0.4, the NFM has 86.5 and 69.4 %."""
    linear, interaction = norms.initial_norms(2, 3200, 300)
    assert (linear, interaction) == pytest.approx((0.5657, 0.8660), rel=2e-3)
    shares = norms.weight_shares(np.sqrt([0.05, 0.4]), linear, interaction)
    assert shares.nfm.tolist() == pytest.approx([0.865, 0.694], abs=1e-3)
    # one dimension: the mean of |N(0, 1)| is sqrt(2 / pi)
    assert norms.initial_norms(2, 1, 1) == pytest.approx((0.0079788, 0.0398942), rel=1e-5)


def test_drawn_initial_norms_are_those_of_a_fresh_nfm():
    nfm = NFM(64, 3000, NFMConfig(d_factor=6), generator=torch.Generator().manual_seed(0))
    drawn = norms.initial_norms(3000, 64, 6, seed=1)
    for lengths, W in zip(drawn, (nfm.W_lin, nfm.V), strict=True):
        assert lengths.shape == (3000,)
        assert st.ks_2samp(lengths, geometry.norms(W)).pvalue > 0.01
    again, other = (norms.initial_norms(3000, 64, 6, seed=s) for s in (1, 2))
    assert np.array_equal(drawn, again) and not np.array_equal(drawn, other)


class TestSweep:
    def test_the_store_keeps_what_was_trained(self, monkeypatch):
        config = trained(nfm=False).config
        article = torch.arange(300)
        acts = TestObserved().acts(article, article * 0, ["A"])
        monkeypatch.setattr(
            norms.runs, "training_tokens", lambda c: (acts, None) if c == config else None
        )
        config, fit, asked = replace(config, train=replace(config.train, seed=5)), train.fit, []

        def watched(*args, **more):
            asked.append((fit(*args, **more), more["checkpoint"]))
            history = asked[-1][0].history
            history["dead_share"] = [0.1 * row for row in range(len(history))]  # else it stays 0
            return asked[-1][0]

        monkeypatch.setattr(norms.train, "fit", watched)
        first = norms.retrained(config)
        coarse = norms.retrained(config, half=True)
        assert first.updates.sum() > 0 and not first.s.equals(coarse.s)
        monkeypatch.setattr(norms.train, "fit", None)  # a second training would fail
        again = norms.retrained(config)
        assert again.equals(first) and again.attrs == first.attrs
        assert set(first) == {"s", "start", "cosine", "updates", "rare"}
        fitted, checkpoint = asked[0]
        assert first.attrs == {"dead": pytest.approx(0.9)}  # of ten steps, the last
        assert first.updates.tolist() == fitted.fired_tokens.tolist()
        # a killed training of the one must not go on as the other
        assert checkpoint != asked[1][1] and checkpoint.is_relative_to(norms.store.cache())
        key = {"model": to_json(config), "half": False}
        assert norms.store.load("norm-sweep", key).manifest["provenance"]["seed"] == 5


def test_without_the_sweep_the_chapters_own_model_is_its_table():
    model = trained()
    history = norms.history(model.config, model.model, model.fired_tokens)
    cells = ("norms-n37", "norms-n38", "norms-n39", "norms-n40", "norms-n41")
    names = {"p": profiles.smoke(), "sweep": False, "histories": {"joint_published": history}}
    page = pages.run("norms", *cells, **names)
    (row,) = page["summary"].to_dict("records")
    assert row["setting"] == "as the chapter's" and row["features"] == D_SAE and row["dead"] is None
    assert len(estimates.tidy(page["of_sweep"], model="sweep")) == 4
