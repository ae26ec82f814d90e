"""Held-out sums against plain ones over the whole split; measured again when the weights change."""

import pytest
import torch

from companion import variants
from featint import activations, heldout, metrics, runs, store


def test_sums_are_those_of_the_whole_split(p):
    configs = {"one": variants.get("sae", p), "two": variants.get("joint", p)}
    sums = heldout.sums(configs)
    acts = activations.load(p.harvest, "test")
    x = acts.rows(torch.arange(len(acts)))
    assert (
        sums["tokens"].sum() == len(acts) and sums.index.tolist() == acts.article.unique().tolist()
    )
    joint = runs.get(configs["two"]).model
    wanted = {
        "one/all": runs.get(configs["one"]).model(x).x_hat,
        "two/all": joint(x).x_hat,
        "two/own_path": joint.sae.decode(joint.encode(x)),
    }
    for name, x_hat in wanted.items():
        errors = (x_hat.double() - x.double()).square().sum(1)
        for article in acts.article.unique()[:5].tolist():
            assert sums.loc[article, f"sse/{name}"] == pytest.approx(
                errors[acts.article == article].sum().item(), rel=1e-5
            )
    assert sums["sse/one/own_path"].equals(sums["sse/one/all"])


def test_a_model_is_measured_once_and_anew_when_its_weights_change(p, monkeypatch):
    config = variants.get("sae", p)
    first = heldout.sums({"sae": config})
    with monkeypatch.context() as m:
        m.setattr(metrics, "by_article", lambda *_: pytest.fail("measured twice"))
        assert heldout.sums({"again": config})["sse/again/all"].equals(first["sse/sae/all"])
    other = runs.get(variants.get("sae", p, seed=1)).model.state_dict()
    monkeypatch.setattr(runs, "build", lambda c, d, build=runs.build: started(build(c, d), other))
    (store.path(runs.KIND, config) / store.MANIFEST).unlink()
    assert not heldout.sums({"sae": config})["sse/sae/all"].equals(first["sse/sae/all"])


def started(model, state):
    model.load_state_dict(state)
    return model


def test_each_split_has_its_own_sums(p):
    config = variants.get("sae", p)
    test, validation = (
        heldout.sums({"sae": config}, split).index for split in ("test", "validation")
    )
    assert not set(test) & set(validation)


def test_models_of_different_activations_are_refused(p):
    with pytest.raises(
        ValueError, match="asked for 2: .*first positions: drop.*first positions: keep"
    ):
        heldout.sums({"a": variants.get("sae", p), "b": variants.get("sae_published", p)})
    with pytest.raises(ValueError, match="asked for 0: none"):
        heldout.sums({})
