"""What is planted has its share and its pairs, is refused where it cannot be, and the procedure runs blind on it; limits by hand."""

import numpy as np
import pages
import pandas as pd
import pytest
import torch
from scipy import stats

from companion import profiles, variants
from companion.chapters import detection_limit
from featint import activations, runs
from featint.config import NFMConfig, SAEConfig
from featint.joint import JointSAE
from featint.nfm import NFM
from featint.sae import TopKSAE

PAIRS = torch.tensor([[0, 1], [1, 2]])


def as_they_are(d: int, k: int) -> TopKSAE:
    """An SAE whose codes are the k largest entries of x."""
    sae = TopKSAE(d, SAEConfig(d_sae=d, k=k))
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(d))
        sae.W_dec.copy_(torch.eye(d))
    return sae.requires_grad_(False)


@pytest.fixture
def page():
    names = pages.functions("detection_limit")
    names["sample"] = torch.rand(4000, 5, generator=torch.Generator().manual_seed(0)) + 0.1
    return names


def test_products_are_of_codes_and_need_both(page):
    x = torch.tensor([[3.0, 2.0, 1.0, 0.0, 0.0], [3.0, 1.0, 2.0, 0.0, 0.0]])
    found = page["products"](as_they_are(5, 2), PAIRS, x)
    assert found.tolist() == [[6, 0], [0, 0]]


@pytest.mark.parametrize("share", [0.5, 20.0])
def test_what_is_planted_has_its_share_and_each_pair_as_much(page, share):
    sae, x = as_they_are(5, 5), page["sample"]
    added = page["planter"](sae, PAIRS, share, 3)(x) - x
    # two directions at an angle: project each product's own part out by least squares on both
    z = page["products"](sae, PAIRS, x)
    parts = torch.linalg.lstsq(z, added).solution
    assert torch.allclose(z @ parts, added, atol=1e-4)
    variances = [(z[:, [n]] @ parts[[n]]).var(0).sum().item() for n in (0, 1)]
    assert variances == pytest.approx([share / 200 * x.var(0).sum().item()] * 2, rel=1e-3)
    other = page["planter"](sae, PAIRS, share, 4)(x) - x
    assert not torch.allclose(other, added, atol=1e-3)


def test_a_pair_that_never_fires_together_is_named(page):
    page["sample"][:, 2] = 0
    with pytest.raises(ValueError, match=r"features \[1, 2\] never fire together"):
        page["planter"](as_they_are(5, 5), PAIRS, 1.0, 0)


def test_pairs_are_drawn_within_their_bounds_and_not_more_than_there_are(page):
    pairs, together = (
        torch.combinations(torch.arange(4)),
        torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]),
    )
    found = page["drawn"](pairs, together, 2, 0.3, 0.5, 0)
    assert sorted(found.tolist()) == [[0, 3], [1, 2]]
    assert (
        page["drawn"](pairs, together, 3, 0.0, 1.0, 0).tolist()
        != page["drawn"](pairs, together, 3, 0.0, 1.0, 1).tolist()
    )
    with pytest.raises(
        ValueError,
        match="n_pairs = 3 is more than the 2 pairs that fire together on 30.00% to 50.00%",
    ):
        page["drawn"](pairs, together, 3, 0.3, 0.5, 0)


def test_a_path_that_multiplies_the_planted_pairs_recovers_them(page):
    nfm = NFM(5, 5, NFMConfig(d_factor=2, linear=False, dropout=0.0))
    with torch.no_grad():
        for weights in nfm.parameters():
            weights.zero_()
        nfm.V[:3] = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])  # 0 with 1, 1 with 2
        nfm.W_hidden.copy_(torch.eye(2))
        nfm.W_out[:, :2] = torch.eye(2)
    path = JointSAE(as_they_are(5, 5), nfm).requires_grad_(False)
    recall = page["recall"]
    assert recall(path.sae, PAIRS, path, page["sample"]) == 1
    assert recall(path.sae, torch.tensor([[0, 2], [1, 3]]), path, page["sample"]) == 0


def test_the_limit_of_blanks_is_a_prediction_limit(page):
    blanks = pd.Series([1.0, 2.0, 4.0])
    assert page["beyond"](blanks) == pytest.approx(
        7 / 3 + 2.91998558 * blanks.std() * (4 / 3) ** 0.5
    )
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(2000, 9))
    above = [row[-1] > page["beyond"](pd.Series(row[:-1])) for row in draws]
    assert np.mean(above) == pytest.approx(0.05, abs=0.015)


def test_a_rate_has_its_exact_interval(page):
    row = page["rate"]([True, False, False, False])
    assert (row["value"], row["n"]) == (25, 4)
    assert [row["lo"], row["hi"]] == pytest.approx(
        100 * stats.beta.ppf([0.025, 0.975], [1, 2], [4, 3])
    )


def test_the_limit_is_where_the_curve_reaches_four_fifths(page):
    share = np.repeat([0.1, 0.3, 1.0, 3.0, 10.0], 2000)
    known = 1 / (1 + np.exp(-3 * np.log10(share)))  # 0.8 at log10(share) = log(4) / 3
    hit = np.random.default_rng(0).random(len(share)) < known
    assert page["limit"](share, hit) == pytest.approx(10 ** (np.log(4) / 3), rel=0.1)
    assert page["limit"](share, share < 0) == np.inf and page["limit"](share, share > 0) == 0.1
    assert page["limit"](share, share < 1) == np.inf  # found less often where more is planted
    again = page["resampled"](share, hit, np.random.default_rng(1))
    assert again != page["limit"](share, hit) and again == pytest.approx(2.9, rel=0.2)


def test_an_attempt_trains_blind_compares_on_test_articles_and_is_kept(p, monkeypatch):
    config = profiles.altered(variants.get("joint", p), {"train": {"n_tokens": 640}})
    direction = torch.nn.functional.normalize(torch.ones(32), dim=0)
    seen = []

    def plant(x):
        return x + 0.3 * (x[:, :1] * x[:, 1:2]) * direction

    def look(models):
        seen.append(models)
        return {"silent": 0.5}

    row = detection_limit.attempt(config, plant, {"kind": "test"}, look)
    (models,) = seen
    test = activations.load(p.harvest, "test")
    y = plant(test.rows(torch.arange(len(test)))).double()
    sse = {
        name: (y - model(y.float()).x_hat).square().sum().item() for name, model in models.items()
    }
    for name in ("joint", "path"):
        value, low, high = row[name]
        assert (
            value == pytest.approx(100 * (1 - sse[name] / sse["twin"]), abs=1e-4)
            and low < value < high
        )
    assert row["fvu"] == pytest.approx(sse["twin"] / (y - y.mean(0)).square().sum().item())
    assert row["silent"] == 0.5 and (models["path"].nfm.b_hidden == 0).all()
    assert torch.equal(models["path"].sae.W_enc, models["twin"].W_enc)  # it stays as it was
    monkeypatch.setattr(detection_limit, "trained", lambda *_: pytest.fail("it is there already"))
    assert detection_limit.attempt(config, plant, {"kind": "test"}, look) == row
    assert len(seen) == 1


def test_the_twin_sees_what_was_planted_and_is_one_decoder(p):
    config = profiles.altered(variants.get("joint", p), {"train": {"n_tokens": 640}})
    models = detection_limit.trained(config, torch.nn.Identity())
    alone = runs.get(profiles.altered(config, {"nfm": {"interaction": False}})).model
    x = activations.load(p.harvest, "test").pieces()[0]
    assert torch.allclose(models["twin"](x).x_hat, alone(x).x_hat, atol=1e-5)
    assert torch.equal(models["joint"](x).x_hat, runs.get(config).model(x).x_hat)
    shifted = detection_limit.trained(config, lambda x: x + 1)["twin"]
    assert not torch.allclose(shifted(x).x_hat, alone(x).x_hat, atol=1e-2)


def test_a_step_lies_between_two_shares(page):
    share = np.repeat([0.1, 1.0, 10.0], 3)
    assert page["between"](share, share > 5) == (1.0, 10.0)
    assert page["between"](share, share > 0.5) == (0.1, 1.0)
    for hit in (
        share > 0,
        share < 0,
        share < 5,
        np.arange(9) > 6,
    ):  # all, none, the other way round, in part
        assert page["between"](share, hit) is None


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ((2.0, 1.0, 4.0), {"value": 2.0, "lo": 1.0, "hi": 4.0, "unit": "% of the variance"}),
        (
            (2.0, 1.0, np.inf),
            {"value": 2.0, "unit": "% of the variance, its interval open above 10 %"},
        ),
        ((np.inf, 8.0, np.inf), {"value": None, "unit": "above 10 % of the variance"}),
        ((0.1, 0.1, 0.3), {"value": None, "unit": "at most 0.1 % of the variance"}),
    ],
)
def test_nothing_is_said_beyond_the_shares_that_were_tried(page, limit, expected):
    assert page["known"](*limit, np.array([0.1, 1.0, 10.0])) == expected
