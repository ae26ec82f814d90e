"""Least squares by hand and against scikit-learn, the released code's second SAE, the models of the
chapter that have something frozen, cut or added, and its comparisons over seeds and articles."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pages
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn.linear_model import Ridge

from companion import variants
from companion.chapters import baselines, norms
from featint import activations, runs, store, train
from featint.config import SAEConfig, TrainConfig, to_json
from featint.sae import TopKSAE

PAGE = pages.functions("baselines")


@pytest.fixture
def p(p):
    return replace(p, sae=replace(p.sae, k=8))


def sae_by_hand(encoder, decoder, k):
    """An SAE of two features whose encoder and decoder are diagonal."""
    sae = TopKSAE(2, SAEConfig(d_sae=2, k=k))
    sae.load_state_dict(
        {"W_enc": torch.diag(encoder), "b_enc": torch.zeros(2), "W_dec": torch.diag(decoder)}
    )
    return sae


def column(*numbers):
    return torch.tensor(numbers)[:, None]


@pytest.mark.parametrize(
    ("wanted", "weight", "constant"),
    [
        # the points (0, 1) and (2, 5): slope 4 / 2 through (1, 3), so 9 at 4
        (9.0, 2.0, 1.0),
        # inputs have mean square (0 + 4) / 2 = 2, which penalty 1 adds: slope 4 / (2 + 2), so 6 at 4
        (6.0, 1.0, 2.0),
    ],
)
@pytest.mark.parametrize("penalties", [(0.0, 1.0), (1.0, 0.0)])
def test_ridge_by_hand_takes_the_penalty_that_suits_the_validation_rows(
    wanted, weight, constant, penalties
):
    pieces = [(column(0.0), column(1.0)), (column(2.0), column(5.0))]
    validation = column(4.0), column(wanted)
    weights, constants = baselines.ridge(iter(pieces), validation, penalties)
    assert weights == pytest.approx(np.array([[weight]])) and constants == pytest.approx(constant)


@pytest.mark.parametrize("share_of_zeros", [0.0, 0.8])
def test_ridge_in_pieces_is_scikit_learns(share_of_zeros):
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((90, 6)) + 1) * (rng.random((90, 6)) >= share_of_zeros)
    targets = rng.standard_normal((90, 4))
    pairs = [
        (torch.from_numpy(rows[s]), torch.from_numpy(targets[s]))
        for s in np.split(np.r_[:90], [37])
    ]
    weights, constant = baselines.ridge(pairs, pairs[0], penalties=(3.0,))
    assert sparse.issparse(baselines._with_constant(pairs[0][0])) == (share_of_zeros > 0.5)
    theirs = Ridge(alpha=3.0 * np.square(rows).mean()).fit(rows, targets)
    assert np.allclose(weights, theirs.coef_.T) and np.allclose(constant, theirs.intercept_)


@pytest.mark.parametrize(("name", "first"), [("sae", "drop"), ("sae_published", "keep")])
def test_least_squares_reads_training_text_and_chooses_on_validation_text(
    p, monkeypatch, name, first
):
    sae, splits = runs.get(variants.get(name, p)), ("train", "validation")
    whole, held_out = (activations.load(p.harvest, s, first).pieces(9999)[0] for s in splits)
    x = runs.training_tokens(sae.config)[0].pieces(9999)[0]
    assert len(x) == (len(whole) if first == "drop" else round(0.9 * len(whole)))

    def inputs(x):
        return sae.model.encode(x).top(2).dense(64)

    rows, targets = inputs(x).double(), 2 * x.double()
    fits = [
        Ridge(alpha=penalty * rows.square().mean().item()).fit(rows, targets)
        for penalty in (1.0, 10.0, 100.0, 1000.0)
    ]
    wrong = [np.square(f.predict(inputs(held_out)) - 2 * held_out.numpy()).sum() for f in fits]
    weights, constant = baselines.least_squares(sae.config, inputs, lambda x: 2 * x)
    assert baselines.RIDGES == (1.0, 10.0, 100.0, 1000.0)
    best = fits[np.argmin(wrong)]
    assert np.allclose(weights, best.coef_.T, atol=1e-5)
    assert np.allclose(constant, best.intercept_, atol=1e-5)

    seen, chosen_on = [], []

    def ridge(pairs, validation):
        seen.extend(pairs)
        chosen_on.append(validation[1])
        return np.zeros((64, 32)), np.zeros(32)

    monkeypatch.setattr(baselines, "ridge", ridge)
    short = replace(sae.config, train=replace(sae.config.train, n_tokens=64))
    baselines.least_squares(short, inputs, lambda x: x)
    chosen = torch.cat([targets for _, targets in seen])
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    assert torch.equal(chosen, x[order[:64].sort().values])
    assert torch.equal(chosen_on[0], held_out[: len(chosen_on[0])])
    assert len(chosen_on[0]) == min(len(held_out), runs.VALIDATION_TOKENS)


def test_an_l1_sae_by_hand():
    """Codes relu(x + (1, 0)) are (1, 0) and (2, 1), directions (3, 4) and (0, 2) have lengths 5 and 2: the
    penalty is the mean of 5, 0, 10 and 2."""
    sae = baselines.L1SAE(2, 2)
    sae.load_state_dict(
        {
            "W_enc": torch.eye(2),
            "b_enc": torch.tensor([1.0, 0.0]),
            "W_dec": torch.tensor([[3.0, 4.0], [0.0, 2.0]]),
        }
    )
    x_hat, codes = sae(torch.tensor([[0.0, -1.0], [1.0, 1.0]]))
    assert x_hat.tolist() == [[3, 4], [6, 10]] and sae.penalty.item() == pytest.approx(17 / 4)
    assert codes.acts.tolist() == [[1, 0], [2, 1]] and codes.indices.tolist() == [[0, 1]] * 2


def test_the_released_codes_second_sae_is_fitted_to_the_error_at_its_settings(p, monkeypatch):
    p, calls = replace(p, train=replace(p.train, lr=0.02)), []
    config = variants.get("sae_published", p)

    def fit(model, batches, settings, loss_fn, label):
        calls.append((model, batches, settings, loss_fn))
        model.W_dec.data.fill_(7)

    first, other = runs.get(config), runs.get(variants.get("sae", p))
    monkeypatch.setattr(train, "fit", fit)
    second = baselines.l1_on_error(config)
    model, batches, settings, loss = calls[0]
    # 64 x 60 training tokens at 0.02: a fifth of them, at a tenth of the rate, which falls to 0
    assert settings == TrainConfig(
        n_tokens=768,
        batch_tokens=64,
        lr=2e-3,
        lr_end_factor=0.0,
        decay_fraction=1.0,
        adam_eps=1e-5,
        clip_norm=1e9,
        dead_after_tokens=p.train.dead_after_tokens,
        first_position="keep",
        holdout_share=0.1,
    )
    acts = runs.training_tokens(config)[0]
    x = acts.batches(TrainConfig(n_tokens=768, batch_tokens=64))[3]
    assert torch.equal(batches[3], x - first.model(x).x_hat)
    model.penalty = torch.tensor(0.5)
    assert loss(torch.ones(2, 3), torch.zeros(2, 3)).item() == 1.5  # squared error 1, penalty 0.5
    start = baselines.L1SAE(32, 64, torch.Generator().manual_seed(0))
    assert torch.equal(second.W_enc, start.W_enc) and (second.W_dec == 7).all()
    assert start.W_dec.std().item() == pytest.approx(1e-4, rel=0.1)
    assert start.W_dec.mean().abs() < 1e-5
    assert not any(weights.requires_grad for weights in second.parameters())
    identity = {"l1_on_error": to_json(config), "train": to_json(settings)}
    assert store.load("l1_sae", identity).manifest["provenance"]["seed"] == p.train.seed
    again = baselines.l1_on_error(config)
    assert len(calls) == 1 and torch.equal(again.W_dec, second.W_dec)
    baselines.l1_on_error(other.config)
    assert len(calls) == 2  # kept by base model


def test_an_sae_on_an_error_is_trained_on_that_error(p):
    config = variants.get("residual_sae", p)
    base, second = runs.get(config.base).model, runs.get(config).model
    x = activations.load(p.harvest, "train").pieces()[0]
    error = x - base(x).x_hat
    assert (error - second(error).x_hat).square().mean() < 0.8 * error.square().mean()
    nfm = sum(q.numel() for q in runs.build(variants.get("joint", p), 32).nfm.parameters())
    assert sum(q.numel() for q in second.parameters()) == pytest.approx(nfm, rel=0.02)


def test_frozen_parts_stay_and_the_soft_decoder_turns_less(p):

    def to_start(m):
        return norms.history(m.config, m.model, m.fired_tokens)["cosine"]

    names = ("sae_short", "sae_soft_decoder", "sae_frozen_decoder", "sae_frozen_encoder")
    models = {name: runs.get(variants.get(name, p)) for name in names}
    cosines = {name: to_start(model) for name, model in models.items()}
    assert cosines["sae_frozen_decoder"].tolist() == pytest.approx([1] * 64)
    assert cosines["sae_short"].median() < cosines["sae_soft_decoder"].median() < 0.99999
    assert {m.config.train.n_tokens for m in models.values()} == {p.train.n_tokens // 4}
    start = runs.build(models["sae_frozen_encoder"].config, 32)
    assert torch.equal(models["sae_frozen_encoder"].model.W_enc, start.W_enc)
    models["sae_frozen_decoder"].model.W_dec[3] *= -1
    assert to_start(models["sae_frozen_decoder"])[3] == pytest.approx(-1)


@pytest.fixture
def by_hand(monkeypatch):
    """`runs.get` of a first SAE and of a second one on its error. The first halves both dimensions
    at k = 2, and of (4, 2) keeps only the first at k = 1."""
    first = sae_by_hand(torch.ones(2), torch.tensor([0.5, 0.5]), 2)
    second = sae_by_hand(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 0.25]), 1)
    models = {"first": first, "second": second}
    configs = {name: SimpleNamespace(name=name, base=None) for name in models}
    configs["second"].base = configs["first"]
    monkeypatch.setattr(runs, "get", lambda config: SimpleNamespace(model=models[config.name]))
    return configs


X = torch.tensor([[4.0, 2.0]])


def test_two_saes_and_a_cut_by_hand(by_hand):
    """The first leaves (2, 1) of (4, 2); the second's codes there are 2 and 3, it keeps the 3 and
    writes 3 / 4."""
    assert PAGE["two_saes"](by_hand["second"])(X).tolist() == [[2.0, 1.75]]
    assert PAGE["at_k"](by_hand["first"], 1)(X).tolist() == [[2.0, 0.0]]
    assert PAGE["at_k"](by_hand["first"], 2)(X).tolist() == [[2.0, 1.0]]


def test_a_refit_and_a_ridge_by_hand(by_hand, monkeypatch):
    """Least squares is asked for x from the codes at the smaller k, and for the error from x; what
    it answers takes the decoder's place, or is added."""
    asked, answer = [], (torch.tensor([[1.0, 2.0], [7.0, 7.0]]), torch.tensor([0.0, 0.5]))

    def least_squares(config, inputs, targets):
        asked.append((config.name, inputs(X).tolist(), targets(X).tolist()))
        return answer

    monkeypatch.setattr(baselines, "least_squares", least_squares)
    assert PAGE["refit"](by_hand["first"], 1)(X).tolist() == [[4.0, 8.5]]  # 4 (1, 2) + (0, 0.5)
    assert PAGE["refit"](by_hand["first"], 2)(X).tolist() == [[18.0, 22.5]]  # and 2 (7, 7)
    # (2, 1) and 4 (1, 2) + 2 (7, 7) + (0, 0.5)
    assert PAGE["ridge_on_x"](by_hand["first"])(X).tolist() == [[20.0, 23.5]]
    assert asked == [
        ("first", [[4.0, 0.0]], X.tolist()),
        ("first", [[4.0, 2.0]], X.tolist()),
        ("first", X.tolist(), [[2.0, 1.0]]),
    ]


def test_errors_come_by_seed_and_article_from_the_models_of_each_seed(p):
    p = replace(p, seeds=(0, 1))
    made = {0: {"nothing": torch.zeros_like}, 1: {"nothing": lambda x: 2 * x}}  # both leave x^2
    names = {"p": p, "made": made, "from_scratch": ["sae"], "on_an_sae": ["sae_twice"]}
    found = pages.run("baselines", "baselines-n03", **names)
    test = activations.load(p.harvest, "test")
    x, errors = test.pieces(9999)[0], found["errors"]
    square = pd.Series(x.square().sum(1).numpy()).groupby(test.article.numpy()).sum()
    for seed in p.seeds:
        x_hat = runs.get(variants.get("sae", p, seed)).model(x).x_hat
        own = pd.Series((x - x_hat).square().sum(1).numpy()).groupby(test.article.numpy()).sum()
        assert np.allclose(errors.loc[seed, "sae"], own, rtol=1e-4)
        assert np.allclose(errors.loc[seed, "nothing"], square, rtol=1e-4)
    assert (errors.loc[0, "sae"] != errors.loc[1, "sae"]).any()
    fvu = found["fvu"].set_index("model")
    assert fvu.loc["nothing", "value"] == pytest.approx(
        (x**2).sum().item() / (x - x.mean(0)).square().sum().item(), rel=1e-4
    )
    assert set(fvu["of"]) == {"articles x 2 seeds"} and set(fvu["n"]) == {len(square)}
    held = pages.run("baselines", "baselines-held", fvu=found["fvu"])["over"]
    assert held == f"95 % intervals over {len(square)} test articles x 2 seeds"


def test_what_each_control_shows_by_hand():
    """Totals over two seeds and two articles: the NFM leaves 90 of the tuned SAE's 100, the new
    decoder 80, twice the tokens 60, two SAEs 95, the second SAE at the old rate 50 of 110."""
    totals = {"sae": 110, "sae_tuned": 100, "sequential_tuned": 90, "refit_tuned": 80}
    totals |= {"sae_twice": 60, "residual_half": 95, "residual_sae": 50, "ridge_on_x": 55}
    weights = pd.Series([0.1, 0.2, 0.3, 0.4], pd.MultiIndex.from_product([[3, 5], ["x", "y"]]))
    errors = pd.DataFrame({name: total * weights for name, total in totals.items()})
    names = {"errors": errors, "l1_errors": errors, "differences": {("sae_tuned", "sae"): "rate"}}
    names["error_gains"] = pages.run(  # what the page has from the comparisons above
        "baselines", "baselines-07", **names | {"differences": {("residual_sae", "sae"): "SAE"}}
    )["gains"]
    found = pages.run("baselines", "baselines-07", "baselines-own-gains", "baselines-n08", **names)
    gains = found["own_gains"].set_index(["model", "baseline"])["value"]
    assert gains.to_dict() == pytest.approx(
        {
            ("sequential_tuned", "sae_tuned"): 10,
            ("refit_tuned", "sae_tuned"): 20,
            ("sequential_tuned", "refit_tuned"): -12.5,
            ("sae_twice", "sae_tuned"): 40,
            ("sequential_tuned", "sae_twice"): -50,
            ("residual_half", "sae_tuned"): 5,
        }
    )
    over_bound = found["over_bound"].set_index(["model", "baseline"])
    assert over_bound["value"].to_dict() == pytest.approx(
        {("residual_sae", "sae"): 100 * 60 / 110, ("residual_half", "sae_tuned"): 5}
    )
    assert set(over_bound["unit"]) == {"x"} and found["bound"] == 1
    assert set(found["own_gains"]["of"]) == {"articles x 2 seeds"}


def test_the_controls_are_fair(p):
    """As many tokens, active features and parameters as the page says, each part at its own rate."""
    nfm, tuned, twice, half, both = (
        variants.get(name, p, 4)
        for name in ("sequential_tuned", "sae_tuned", "sae_twice", "sae_half", "residual_half")
    )
    assert nfm.base == tuned and both.base == half
    assert nfm.sae.k == tuned.sae.k == half.sae.k + both.sae.k == 8
    assert twice.train.n_tokens == nfm.train.n_tokens + tuned.train.n_tokens
    for family, configs in {"sae": (tuned, twice, half), "sequential": (nfm,)}.items():
        assert {config.train.lr / p.train.lr for config in configs} == {variants.RATES[family]}
    assert both.train.lr == variants.RATES["residual_sae"] * p.train.lr
    assert {config.train.seed for config in (nfm, tuned, twice, half, both)} == {4}
