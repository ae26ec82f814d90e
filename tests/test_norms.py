"""The chapter on norms: effects against brute force, tests on planted features, and what happens where something is missing."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import torch
from scipy import stats as st

from companion import profiles
from companion.chapters import norm_heldout, norm_results, norm_sweep, norms
from companion.chapters.norm_heldout import Observed
from companion.places import DATA
from companion.stats import Estimate
from companion.toys import norms as toy_norms
from featint import effects, runs, train
from featint.activations import Activations
from featint.config import HarvestConfig, ModelConfig, NFMConfig, SAEConfig, TrainConfig
from featint.joint import JointSAE
from featint.kernels.sparse import Codes
from featint.nfm import NFM
from featint.runs import Trained
from featint.sae import TopKSAE

D_IN, D_SAE, K, D_FACTOR = 6, 40, 4, 3


def model(kind="joint", seed=0, **nfm):
    g = torch.Generator().manual_seed(seed)
    sae = TopKSAE(D_IN, SAEConfig(d_sae=D_SAE, k=K), g)
    if kind == "sae":
        return sae.double().requires_grad_(False)
    factors = NFM(D_IN, D_SAE, NFMConfig(d_factor=D_FACTOR, dropout=0.0, **nfm), g)
    with torch.no_grad():  # a path that matters, and a ReLU that bends
        for p in factors.parameters():
            p.add_(0.4 * torch.randn(p.shape, generator=g))
    return JointSAE(sae, factors).double().requires_grad_(False)


def trained(kind="joint", seed=0, grow=0.5):
    """A model with its records, as if training had added the same to decoder and linear path."""
    config = ModelConfig(
        harvest=HarvestConfig(),
        sae=SAEConfig(d_sae=D_SAE, k=K),
        nfm=NFMConfig(d_factor=D_FACTOR) if kind == "joint" else None,
        train=TrainConfig(n_tokens=1000, batch_tokens=100, seed=seed),
    )
    built = runs.build(config, D_IN).requires_grad_(False)
    moved = (
        grow
        * torch.rand(D_SAE, 1, generator=torch.Generator().manual_seed(9))
        * torch.randn(D_SAE, D_IN, generator=torch.Generator().manual_seed(8))
    )
    (built if kind == "sae" else built.sae).W_dec.add_(moved)
    if kind == "joint":
        built.nfm.W_lin.add_(moved)
    fired = torch.arange(D_SAE) * 10
    return Trained(config, built, pd.DataFrame(), fired, fired, 0.0, {}, "")


def tokens(n=60, seed=1):
    return torch.randn(n, D_IN, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("kind", ["joint", "sae"])
def test_effects_of_a_feature_are_those_of_switching_it_off(monkeypatch, kind):
    """Each feature switched off in turn: the outputs that disappear by path, their covariances, and the squared error that is added."""
    monkeypatch.setattr(effects, "ROWS", 17)
    m, x = model(kind), tokens()
    codes = m.encode(x)
    found = effects.by_feature(
        m,
        x.split(25),
        [Codes(a, i) for a, i in zip(codes.acts.split(25), codes.indices.split(25), strict=True)],
    )
    spread = float(((x - x.mean(0)) ** 2).sum() / len(x))
    for feature in range(0, D_SAE, 3):
        without = Codes(codes.acts * (codes.indices != feature), codes.indices)
        lost = {
            name: (part - m.parts(without)[name]).numpy() for name, part in m.parts(codes).items()
        }
        on = ((codes.indices == feature) & (codes.acts > 0)).any(1)
        assert found.fired[feature] == int(on.sum())
        if not on.any():
            assert found.loc[feature, ["ablation", "decoder"]].isna().all()
            continue
        output = sum(lost.values())
        centred = output - output.mean(0)
        for part, path in (
            ("sae_out", "decoder"),
            ("linear_out", "linear"),
            ("interaction_out", "interaction"),
        ):
            if part in lost:
                assert found.loc[feature, path] == pytest.approx(
                    (lost[part] * centred).sum() / (centred**2).sum(), abs=1e-9
                )
        added = ((x - m.decode(without)) ** 2).sum() - ((x - m.decode(codes)) ** 2).sum()
        assert found.ablation[feature] == pytest.approx(
            float(added) / int(on.sum()) / spread, abs=1e-9
        )


def test_effects_of_groups_add_up_to_what_the_model_explains():
    m, x = model(), tokens(400)
    pieces, low = x.split(100), torch.arange(D_SAE) % 3 == 0
    table = effects.by_group(m, pieces, [m.encode(part) for part in pieces], low)
    x_hat = m(x).x_hat
    error = (x - x.mean(0)) - (x_hat - x_hat.mean(0))
    assert table.value.sum() == pytest.approx(
        float(1 - error.square().sum() / (x - x.mean(0)).square().sum()), abs=1e-10
    )
    # all features in one group: the other group has nothing, and the decoder's share is that of its whole output
    alone = effects.by_group(
        m, pieces, [m.encode(part) for part in pieces], torch.ones(D_SAE, dtype=torch.bool)
    )
    assert alone.xs("high", level="group").value.abs().max() < 1e-12
    assert alone.value["decoder"]["low"] == pytest.approx(table.value["decoder"].sum(), abs=1e-10)
    assert (table.lo <= table.value).all() and (table.value <= table.hi).all()


def test_jackknife_of_a_mean_is_the_t_interval():
    values = np.random.default_rng(0).normal(3, 2, 12)
    left_out = pd.DataFrame({"mean": [(values.sum() - v) / 11 for v in values]})
    row = effects.jackknife(pd.Series({"mean": values.mean()}), left_out, 12).loc["mean"]
    assert (row.lo, row.hi) == pytest.approx(st.ttest_1samp(values, 0).confidence_interval())


def test_effects_refuse():
    with pytest.raises(ValueError, match="top_n = 2"):
        effects.by_feature(model(top_n=2), [tokens()], [])
    with pytest.raises(ValueError, match="interaction = False"):
        effects.parted(model(interaction=False))
    with pytest.raises(ValueError, match="at least 2 batches, got JointSAE and 1"):
        effects.by_group(model(), [tokens()], [], torch.ones(D_SAE, dtype=torch.bool))


def test_history_starts_where_the_seed_did():
    m = trained("sae", grow=0.0)
    table = norms.history(m)
    assert table.s.tolist() == pytest.approx(
        table.start.tolist()
    ) and table.cosine.min() == pytest.approx(1)
    assert table.start.mean() == pytest.approx(
        D_IN / (3 * D_SAE), rel=0.1
    )  # rows of U(-1/sqrt(d_sae), 1/sqrt(d_sae))
    assert table.rare.tolist() == [f / 1000 < 0.05 * K / D_SAE for f in range(0, 10 * D_SAE, 10)]


@pytest.mark.parametrize(
    ("value", "message"), [(0.0, "zero in row 3"), (float("nan"), "not finite in row 3")]
)
def test_broken_decoders_are_named(value, message):
    m = trained()
    m.model.sae.W_dec[3] = value
    with pytest.raises(ValueError, match=message):
        norms.history(m)


def lognormal(seed=0, n=900, second=True):
    rng = np.random.default_rng(seed)
    s = np.exp(
        np.concatenate(
            [
                rng.normal(np.log(0.05), 0.3, n // 3),
                rng.normal(np.log(0.37 if second else 0.05), 0.3, n - n // 3),
            ]
        )
    )
    return pd.DataFrame(
        {"s": s, "start": 0.0213, "rare": np.arange(n) < n // 3, "updates": np.arange(n)}
    )


def test_split_is_the_valley_the_papers_multiple_or_the_median():
    tables = {
        "two": lognormal(),
        "one": lognormal(second=False),
        "high": lognormal(second=False).assign(s=lambda t: 8 * t.s),
    }
    modes = norms.modes(tables)
    at = norms.split(modes, "two", tables["two"])
    assert at.how.startswith("the valley") and 0.08 < at.value < 0.25
    assert norms.split(
        modes, "high", tables["high"].assign(start=2 * 3200 / 150_000)
    ) == norms.Split(pytest.approx(0.4), "the paper's multiple of the initial squared norm")
    at = norms.split(modes, "one", tables["one"])
    assert at.how.startswith("the median") and (tables["one"].s < at.value).mean() == 0.5
    # without its rare features the first has one mode: they were the second
    assert (
        modes.loc[("two", "all", "log s"), "p_holm"] < 0.01
        and modes.loc[("two", "not rare", "log s"), "p"] > 0.05
    )
    assert (modes.p_holm >= modes.p).all()


def test_a_handful_of_outliers_is_no_mode():
    table = lognormal(second=False)
    table.loc[:9, "s"] = 5.0
    modes = norms.modes({"one": table})
    assert modes.loc[("one", "all", "log s"), "bic_gain"] > 0 and not norms.two_modes(
        modes.loc[("one", "all", "log s")]
    )


def test_too_few_features_for_a_mixture_give_a_reason():
    few = lognormal(n=900).iloc[::90]
    modes = norms.modes({"few": few})
    assert (
        modes.reason.str.contains("features: the tests need 20").all()
        and modes[norms.NUMBERS].isna().all().all()
    )
    assert norms.split(modes, "few", few).how.startswith("the paper's multiple")
    assert (
        "nan" not in norms.mode_table(modes).map(lambda x: "" if pd.isna(x) else str(x)).to_string()
    )


def test_training_moves_both_decoders_alike():
    """What training really does to the two rows of a feature, on toy data."""
    m = trained(grow=0.0)
    batches = [tokens(100, seed=i).float() for i in range(10)]
    m.model.requires_grad_(True)
    train.fit(m.model, batches, m.config.train)
    found = norms.weights(m, norms.Split(0.05, ""), seed=0)
    assert found.apart < 1e-5
    assert (
        found.ratios.s.to_numpy() > 0
    ).all() and found.spearman.predicted.tolist() == pytest.approx([-1, -1, -1, 1])


def activations(article, topic, topics):
    n = len(article)
    zeros = torch.zeros(n, dtype=torch.int64)
    return Activations(
        HarvestConfig(),
        "drop",
        (torch.zeros(n, D_IN, dtype=torch.float16),),
        torch.tensor([0]),
        torch.arange(n),
        torch.zeros(D_IN),
        torch.ones(D_IN),
        token=zeros,
        article=article,
        topic=topic,
        position=zeros,
        titles=[],
        topics=topics,
    )


def test_selectivity_of_planted_features():
    """Feature 0 fires in one topic only, 1 everywhere, 2 in half of the articles, 3 in the unlabelled rest; 4 never."""
    n = 4000
    article = torch.arange(n) // 10
    topic = (article // 2) % 4
    acts = activations(article, topic, ["A", "B", "C", norm_heldout.NO_TOPIC])
    fires = torch.stack(
        [topic == 1, torch.ones(n, dtype=torch.bool), article % 2 == 0, topic == 3], 1
    )
    codes = Codes(fires.double(), torch.arange(4).expand(n, 4))
    pieces = [
        Codes(a, i) for a, i in zip(codes.acts.split(333), codes.indices.split(333), strict=True)
    ]
    found = norm_heldout.selectivity(pieces, acts, 5)
    assert found[:2] == pytest.approx([1, 1 / 3]) and np.isnan(found[2:]).all()


def test_selectivity_of_noise_is_chance_even_if_rare():
    rng = np.random.default_rng(0)
    n, topics = 20_000, 8
    article = torch.arange(n) // 20
    acts = activations(
        article,
        torch.from_numpy(rng.integers(topics, size=n // 20)).repeat_interleave(20),
        list("ABCDEFGH"),
    )
    fires = torch.from_numpy(
        rng.random((n, 60)) < 0.002
    )  # forty tokens each: the best topic on the same data has far more than 1/8
    found = norm_heldout.selectivity(
        [Codes(fires.double(), torch.arange(60).expand(n, 60))], acts, 60
    )
    assert np.nanmean(found) == pytest.approx(1 / topics, abs=0.03)


def confounded(effect, n=2000, seed=0):
    """Norm and outcome both follow the firing rate; beyond that, low norm adds `effect`."""
    rng = np.random.default_rng(seed)
    rate = rng.uniform(0.01, 1, n)
    s = rate + rng.normal(0, 0.3, n)
    low = s < 0.5
    return pd.DataFrame(
        {
            "s": s,
            "rate": rate,
            "low": low,
            "outcome": 2 * rate + effect * low + rng.normal(0, 0.2, n),
        }
    )


def test_matching_removes_what_the_firing_rate_explains():
    plain = confounded(0.0)
    assert plain.outcome[plain.low].mean() - plain.outcome[~plain.low].mean() < -0.5
    null, real = (
        norm_heldout.matched(plain, "outcome"),
        norm_heldout.matched(confounded(0.3), "outcome", factor=100),
    )
    assert null.lo < 0 < null.hi and abs(null.value) < 0.05
    assert real.lo < 30 < real.hi and real.lo > 20
    assert (
        norm_heldout.spearman(plain, "s", "outcome").lo > 0.4
        and abs(norm_heldout.partial(plain, "outcome").value) < 0.06
    )


def test_matched_is_least_squares_with_an_intercept_per_bin():
    data = confounded(0.3, n=400)
    bins = pd.get_dummies(pd.qcut(data.rate, norm_heldout.BINS, labels=False)).astype(float)
    both = data.groupby(bins.to_numpy().argmax(1)).low.transform("nunique") == 2
    design = np.column_stack([data.low[both].astype(float), bins[both]])
    reference = sm.OLS(data.outcome[both], design[:, design.any(0)]).fit(cov_type="HC3")
    found = norm_heldout.matched(data, "outcome")
    assert (found.value, found.lo, found.hi) == pytest.approx(
        (reference.params.iloc[0], *reference.conf_int().iloc[0])
    )
    assert found.n == both.sum()


@pytest.mark.parametrize("n", [0, 3, 100])
def test_nothing_to_compare_gives_a_reason_and_a_dash(n):
    data = confounded(0.0, n=n).assign(low=True, outcome=1.0)
    for found in (
        norm_heldout.matched(data, "outcome"),
        norm_heldout.partial(data, "outcome"),
        norm_heldout.spearman(data, "s", "outcome"),
    ):
        assert found.value is None and found.reason
        assert norm_heldout.cell(found) == "–"
        assert norm_results.estimated(found, "points").unit.startswith(found.reason)


def test_every_key_of_the_ledger_has_a_value():
    """The chapter on an untrained pair of models, so small that some numbers cannot be given: keys and units are still those the ledger reads."""
    models = {
        name: trained(name.split("_")[0])
        for name in ("sae", "joint", "sae_published", "joint_published")
    }
    tables = {name: norms.history(m) for name, m in models.items()}
    modes = norms.modes(tables)
    splits = {name: norms.split(modes, name, table) for name, table in tables.items()}
    low = tables["joint"].s.to_numpy() < splits["joint"].value
    x = tokens(600).float()
    codes = models["joint"].model.encode(x)
    features = (
        tables["joint"]
        .join(norm_heldout.known(effects.by_feature(models["joint"].model, [x], [codes])))
        .assign(rate=np.linspace(0.01, 0.2, D_SAE), low=low)
    )
    measured = norm_results.Measured(
        models,
        tables,
        modes,
        splits,
        norms.weights(models["joint_published"], splits["joint_published"], 0),
        norms.spectra(models),
        {"joint": Observed(features, None, len(x))},
    )
    values = norm_results.values(measured)
    entries = [
        e for e in json.loads((DATA / "paper_values.json").read_text()) if e["chapter"] == "norms"
    ]
    wanted = {
        e[f].removeprefix("norms:")
        for e in entries
        for f in ("as_published", "controlled", "p_value")
        if e.get(f)
    }
    assert wanted == set(values)
    assert values["joint/pca_first_difference/controlled"].ci is not None
    assert all(v.value is not None or " " in v.unit for v in values.values())


class TestSweep:
    def test_one_setting_at_a_time(self):
        settings = norm_sweep.settings(profiles.smoke())
        base = settings["as the chapter's"][0]
        assert base.sae.d_sae == profiles.smoke().sae.d_sae // 4
        assert (
            norm_sweep.settings(replace(profiles.smoke(), name="full"))["as the chapter's"][0].sae
            == profiles.smoke().sae
        )
        assert settings["batches of 64"][0] == replace(
            base, train=replace(base.train, batch_tokens=64)
        )
        assert [half for _, half in settings.values()].count(True) == 2

    def test_half_precision_rounds_everything_that_is_kept(self):
        p = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
        optimizer = torch.optim.Adam([p], lr=0.1)
        with norm_sweep.half_precision():
            p.grad = torch.tensor([1e-9, 1e-3])  # the first is 0 in float16, the second's square is
            optimizer.step()
            state = optimizer.state[p]
            assert p.grad.tolist() == [0, pytest.approx(1e-3, rel=1e-3)]
            for kept in (p, state["exp_avg"], state["exp_avg_sq"]):
                assert torch.equal(kept, kept.half().float())
            assert state["exp_avg_sq"].tolist() == [0, 0]
        p.grad = torch.tensor([1e-9, 1e-3])
        optimizer.step()
        assert p.grad[0] == pytest.approx(1e-9)  # the hooks are gone

    def test_the_store_keeps_what_was_trained(self, monkeypatch):
        config = trained("sae").config
        rows = tokens(300).to(torch.float16)
        acts = replace(
            activations(torch.arange(300), torch.zeros(300, dtype=torch.int64), ["A"]),
            shards=(rows,),
        )
        monkeypatch.setattr(norm_sweep.runs, "training_tokens", lambda _: (acts, None))
        first = norm_sweep.run(config, half=False)
        monkeypatch.setattr(norm_sweep.train, "fit", None)  # a second training would fail
        again = norm_sweep.run(config, half=False)
        assert again.equals(first) and again.attrs == first.attrs and first.updates.sum() > 0
        table = norm_sweep.summary({"a": first, "b": again})
        assert table["features"].tolist() == [D_SAE, D_SAE] and table["dead"].between(0, 1).all()

    def test_values_say_where_modes_were_found(self):
        rows = [
            ("as the chapter's", "no", 0.3),
            ("half precision", "yes", 0.01),
            ("batches of 64", "yes", None),
        ]
        columns = ["setting", "two by mixture", "dip's p"]
        found = norm_sweep.values(
            pd.DataFrame(rows, columns=columns).assign(
                features=64, **{"Spearman with updates": 0.5}
            )
        )
        assert (
            found["sweep/two_by_dip/as_published"].value,
            found["sweep/two_by_mixture/as_published"].value,
        ) == (1, 2)
        assert (
            found["sweep/half_precision/dip_p/as_published"].value == 0.01
            and found["sweep/as_the_chapters/corr_updates/as_published"].n == 64
        )
        missing = found["sweep/batches_of_64/dip_p/as_published"]
        assert missing.value is None and missing.unit.startswith("could not be computed")


class TestToy:
    def test_frequencies_are_those_asked_for(self):
        config = TrainConfig(n_tokens=64_000, batch_tokens=64_000)
        sae = toy_norms.short_sae(torch.eye(3), 0.3)
        batch = toy_norms.Batches(sae, torch.eye(3), torch.tensor([7.0, 2.0, 1.0]), config)[0]
        assert (batch > 0).double().mean(0).tolist() == pytest.approx([0.7, 0.2, 0.1], abs=0.01)
        assert (
            ((batch > 0).sum(1) == 1).all() and batch[batch > 0].min() >= 0.5 and batch.max() <= 1.5
        )

    def test_the_rare_feature_stays_behind(self):
        config = TrainConfig(n_tokens=32_000, batch_tokens=64, lr=0.003)
        norms_, updates = toy_norms.watch(
            toy_norms.short_sae(torch.eye(2), 0.3),
            torch.eye(2),
            torch.tensor([1.0, 0.0005]),
            config,
        )
        assert norms_.iloc[0].tolist() == pytest.approx([0.09, 0.09]) and norms_.index[-1] == 500
        assert norms_.iloc[-1, 0] > 0.5 > 2 * norms_.iloc[-1, 1] and updates[0] > 100 * updates[1]

    def test_impossible_weights_are_refused(self):
        sae = toy_norms.short_sae(torch.eye(2), 0.3)
        for weights, n_active in ((torch.tensor([1.0, 0.0]), 1), (torch.ones(2), 3)):
            with pytest.raises(ValueError, match="must be positive and at least n_active"):
                toy_norms.Batches(
                    sae, torch.eye(2), weights, TrainConfig(n_tokens=64, batch_tokens=64), n_active
                )
        with pytest.raises(IndexError, match="step 5"):
            toy_norms.Batches(
                sae, torch.eye(2), torch.ones(2), TrainConfig(n_tokens=64, batch_tokens=64)
            )[5]


def test_cells_read_as_words():
    assert norm_heldout.cell(Estimate(-0.5, -0.6, -0.4, 10)) == "−0.500 (−0.600 to −0.400)"
