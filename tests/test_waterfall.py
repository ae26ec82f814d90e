"""The switches: which models each protocol compares, and on which tokens it sums their errors."""

from dataclasses import replace

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch

from companion import variants
from companion.chapters import waterfall
from companion.chapters.waterfall import Protocol
from companion.figures import comparisons
from companion.plots import COLOURS
from featint import activations, runs, store


@pytest.fixture
def p(p):
    """Models of five steps: enough to tell them apart."""
    return replace(p, train=replace(p.train, n_tokens=5 * p.train.batch_tokens))


@pytest.mark.parametrize(
    ("name", "protocol", "variant"),
    [
        ("joint", Protocol(), "joint_published"),
        ("sae", Protocol(reference="sae"), "sae_published"),
        ("sae_tuned", Protocol(reference="sae_tuned"), "sae_tuned_published"),
        ("joint_no_interaction", Protocol(), "joint_no_interaction_published"),
        ("joint", Protocol(first_position="drop"), "joint"),
        ("joint", Protocol(first_position="drop", nfm_sees="half"), "joint_masked"),
        ("sae", Protocol(first_position="drop", nfm_sees="half"), "sae"),
    ],
)
def test_a_protocol_trains_the_named_variant(p, name, protocol, variant):
    found = waterfall.trained_as(name, protocol, p)
    assert store.key(found) == store.key(variants.get(variant, p))


@pytest.mark.parametrize(("k", "half"), [(1, 1), (2, 1), (3, 1), (8, 4)])
def test_the_mask_shows_half_of_the_codes_and_at_least_one(p, monkeypatch, k, half):
    config = variants.get("joint", p)
    config = replace(config, sae=replace(config.sae, k=k))
    monkeypatch.setattr(variants, "get", lambda *_: config)
    protocol = Protocol(first_position="drop", nfm_sees="half")
    assert waterfall.trained_as("joint", protocol, p).nfm.top_n == half


def sse(x, x_hat):
    return (x.double() - x_hat.double()).square().sum().item()


def test_the_published_protocol_compares_with_the_own_path_on_training_windows(p, monkeypatch):
    """Of two windows of 16 positions, first ones kept, ten tokens."""
    monkeypatch.setattr("companion.published.CHUNK_WINDOWS", 2)
    monkeypatch.setattr("companion.published.JOINT_TOKENS", 10)
    acts = waterfall.training_text(Protocol(), p)
    assert (
        len(acts.where.unique()) == 10 and acts.where.max() < 32 and acts.first_position == "keep"
    )
    total = waterfall.errors(Protocol(), p).sum()
    model = runs.get(variants.get("joint_published", p)).model
    x = acts.rows(torch.arange(10))
    own = model.sae.decode(model.encode(x))
    wanted = {"joint": sse(x, model(x).x_hat), "own path": sse(x, own), "tokens": 10}
    assert total.to_dict() == pytest.approx(wanted, rel=1e-5)


def test_the_training_split_is_a_sample_of_all_its_windows(p, monkeypatch):
    monkeypatch.setattr(waterfall, "SPLIT_TOKENS", 200)
    protocol = Protocol(text="training split", first_position="drop")
    acts = waterfall.training_text(protocol, p)
    whole = activations.load(p.harvest, "train")
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(p.seeds[0]))
    assert acts.where.tolist() == whole.where[order[:200].sort().values].tolist()


def test_the_controlled_end_compares_with_another_model_on_test_articles(p):
    protocol = Protocol(reference="sae", text="test articles", first_position="drop")
    errors = waterfall.errors(protocol, p)
    acts = activations.load(p.harvest, "test")
    x = acts.rows(torch.arange(len(acts)))
    wanted = {n: sse(x, runs.get(variants.get(n, p)).model(x).x_hat) for n in ("joint", "sae")}
    assert errors.sum().to_dict() == pytest.approx(wanted | {"tokens": len(acts)}, rel=1e-5)
    assert errors.index.tolist() == [(0, article) for article in acts.article.unique().tolist()]


@pytest.mark.parametrize("text", ["training split", "test articles"])
def test_several_references_at_once_are_each_alone(p, text):
    protocol = Protocol(reference="sae", text=text, first_position="drop")
    several = waterfall.errors(protocol, p, "own path", "sae_bias")
    assert list(several) == ["joint", "sae", "own path", "sae_bias", "tokens"]
    for name in ("sae", "own path", "sae_bias"):
        alone = waterfall.errors(replace(protocol, reference=name), p)
        assert alone.equals(several[["joint", name, "tokens"]])


@pytest.mark.parametrize("text", ["first training windows", "test articles"])
def test_every_seed_of_the_profile_meets_the_same_tokens(p, text):
    p = replace(p, seeds=(3, 5))
    protocol = Protocol(reference="sae", text=text, first_position="drop")
    errors = waterfall.errors(protocol, p)
    assert errors.index.unique("seed").tolist() == [3, 5]
    assert errors["tokens"].xs(3).equals(errors["tokens"].xs(5))
    acts = activations.load(p.harvest, "test")
    if text != "test articles":
        acts = waterfall.training_text(protocol, p)
    for seed in p.seeds:
        for name in ("joint", "sae"):
            model = runs.get(variants.get(name, p, seed)).model
            error = sum(sse(x, model(x).x_hat) for x in acts.pieces())
            assert errors[name].xs(seed).sum() == pytest.approx(error, rel=1e-5)


def test_every_reference_is_a_named_model_and_others_are_refused():
    own, *models = waterfall.SWITCHES["reference"]
    assert own == Protocol().reference and set(models) <= set(variants.VARIANTS)
    with pytest.raises(ValueError, match="reference = 'none' is not known; allowed: 'own path'"):
        Protocol(reference="none")


def test_bars_are_the_values_from_top_to_bottom():
    steps = {
        "label": list("abc"),
        "value": [50.0, 10.0, -1.0],
        "lo": [45, 9, -2],
        "hi": [55, 11, 0],
    }
    one = pd.DataFrame(steps).assign(order="one")
    figure = comparisons.waterfall(pd.concat([one, one[::-1].assign(order="two")]), "gain")
    first, second = figure.axes
    assert [bar.get_width() for bar in first.patches] == [50, 10, -1]
    assert [bar.get_width() for bar in second.patches] == [-1, 10, 50]
    assert [text.get_text() for text in first.get_yticklabels()] == list("abc")
    assert first.yaxis_inverted() and first.get_title(loc="left") == "one"
    assert [text.get_text() for text in first.texts] == ["50.0", "10.0", "−1.0"]
    ends = [path.vertices[:, 0].tolist() for path in first.collections[0].get_paths()]
    assert ends == [[45, 55], [9, 11], [-2, 0]]
    colours = [plt.matplotlib.colors.to_hex(bar.get_facecolor()) for bar in first.patches]
    assert colours == [COLOURS[role] for role in ("published", "random", "controlled")]
    plt.close(figure)
