"""Sums of squared errors: by hand, against scikit-learn, and of trained models on a whole split."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import pages
import pandas as pd
import pytest
import torch
from sklearn.metrics import r2_score

from companion import variants
from featint import activations, reconstruction, runs, store
from featint.config import NFMConfig, SAEConfig
from featint.joint import JointSAE
from featint.nfm import NFM
from featint.sae import TopKSAE

X = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0], [0.0, -2.0]])  # mean (1, 0)
X_HAT = X + torch.tensor([[1.0, 1.0], [0.0, 2.0], [-1.0, 0.0], [0.0, 0.0]])
ARTICLE = torch.tensor([7, 7, 2, 5])


@pytest.mark.parametrize("cut", [1, 3, 4])
def test_sums_by_hand(cut):
    """Article 7: errors 1 + 1 and 4, distances from the mean 0 and 4; 2: 1, and 1 + 4; 5: 0, and 1 + 4."""
    hats, counts = iter(X_HAT.split(cut)), iter(torch.arange(1, 5).split(cut))
    sums = reconstruction.by_article(
        lambda _: {("sae", "all"): next(hats), ("l0", "sae", ""): next(counts)},
        X.split(cut),
        ARTICLE,
    )
    assert sums.index.tolist() == [2, 5, 7] and list(sums.columns.names) == [
        "measure",
        "model",
        "part",
    ]
    assert sums["tokens"].tolist() == [1, 1, 2] and sums["sst"].tolist() == [5, 5, 4]
    assert sums["sse", "sae", "all"].tolist() == [1, 0, 6]
    assert sums["l0", "sae", ""].tolist() == [3, 4, 3]


def test_one_minus_fvu_is_sklearns_variance_weighted_r2():
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(500, 7, generator=generator) + 5
    x_hat = x + torch.randn(500, 7, generator=generator)
    total = reconstruction.by_article(lambda _: {("", ""): x_hat}, [x], torch.arange(500)).sum()
    wanted = r2_score(x.numpy(), x_hat.numpy(), multioutput="variance_weighted")
    assert 1 - total["sse", "", ""] / total["sst", "", ""] == pytest.approx(wanted, rel=1e-6)


def test_a_broken_model_and_a_wrong_length_are_named():
    with pytest.raises(ValueError, match=r"\('sse', 'sae', 'all'\) holds NaN or infinity"):
        reconstruction.by_article(lambda x: {("sae", "all"): x / 0}, [X], ARTICLE)
    with pytest.raises(ValueError, match="the batches have 4 rows, but article has 3"):
        reconstruction.by_article(lambda x: {("sae", "all"): x}, [X], ARTICLE[:3])


def test_paths_add_up_the_parts_that_their_names_say():
    generator = torch.Generator().manual_seed(0)
    sae = TopKSAE(2, SAEConfig(d_sae=30, k=4), generator)
    model = JointSAE(sae, NFM(2, 30, NFMConfig(d_factor=3), generator)).eval()
    with torch.no_grad():  # untrained paths say almost nothing
        for weights in model.nfm.parameters():
            weights.normal_(generator=generator)
        sae.W_enc.normal_(generator=generator)
        sae.b_enc -= 1.0  # so that fewer than k features are active on some tokens
    made = reconstruction.paths({"joint": model, "sae": sae})(X)
    codes = model.encode(X)
    own, linear, interaction = model.parts(codes).values()
    assert interaction.abs().max() > 0.01 < linear.abs().max()  # else no path could be told apart
    wanted = {
        "own_path": own,
        "plus_linear": own + linear,
        "plus_interaction": own + interaction,
        "all": model(X).x_hat,
    }
    for path, x_hat in wanted.items():
        assert torch.allclose(made["joint", path], x_hat, atol=1e-6)
        assert torch.equal(made["sae", path], sae(X).x_hat)
    assert torch.allclose(made["abs", "joint", "linear_out"], linear.abs().mean(1))
    assert torch.allclose(made["abs", "joint", "interaction_out"], interaction.abs().mean(1))
    active = (codes.dense(30) > 0).sum(1)
    assert made["l0", "joint", ""].tolist() == active.tolist()
    assert 0 < active.min() < 4 and ((codes.acts > 0) & (codes.acts < 1)).any()
    assert len(made) == 4 + 4 + 2 + 2


def test_stored_sums_are_those_of_the_whole_split(p):
    """In a plain loop over articles, for models whose names end up in the columns."""
    configs = {"one": variants.get("sae", p), "two": variants.get("joint", p)}
    sums = reconstruction.sums(configs)
    acts = activations.load(p.harvest, "test")
    x = acts.rows(torch.arange(len(acts)))
    sae, joint = (runs.get(config).model for config in configs.values())
    reconstructions = {
        ("one", "all"): sae(x).x_hat,
        ("one", "own_path"): sae(x).x_hat,
        ("two", "all"): joint(x).x_hat,
        ("two", "own_path"): joint.sae.decode(joint.encode(x)),
    }
    assert sums.index.tolist() == acts.article.unique().tolist() and sums.index.name == "article"
    for article in sums.index[:4]:
        rows = acts.article == article
        assert sums["tokens"][article] == rows.sum()
        distances = (x.double() - x.double().mean(0)).square()
        assert sums["sst"][article] == pytest.approx(distances[rows].sum().item(), rel=1e-5)
        for name, x_hat in reconstructions.items():
            error = (x - x_hat)[rows].double().square().sum().item()
            assert sums["sse", *name][article] == pytest.approx(error, rel=1e-5)


def test_a_model_is_measured_once_and_anew_when_its_weights_change(p, monkeypatch):
    config = variants.get("sae", p)
    first = reconstruction.sums({"sae": config})
    with monkeypatch.context() as m:
        m.setattr(reconstruction, "by_article", lambda *_: pytest.fail("measured twice"))
        again = reconstruction.sums({"again": config})
    assert again["sse", "again", "all"].equals(first["sse", "sae", "all"])
    other = runs.get(variants.get("sae", p, seed=1)).model.state_dict()

    def started_elsewhere(*args, build=runs.build):
        model = build(*args)
        model.load_state_dict(other)
        return model

    monkeypatch.setattr(runs, "build", started_elsewhere)
    (store.path(runs.KIND, config) / store.MANIFEST).unlink()
    anew = reconstruction.sums({"sae": config})
    assert not anew["sse", "sae", "all"].equals(first["sse", "sae", "all"])


def test_each_split_has_its_own_sums(p):
    config = {"sae": variants.get("sae", p)}
    test, validation = (
        reconstruction.sums(config, split).index for split in ("test", "validation")
    )
    assert not set(test) & set(validation)


def test_a_model_meets_the_first_positions_that_it_was_trained_on(p):
    for name, first in {"sae": "drop", "sae_published": "keep"}.items():
        config = variants.get(name, p)
        acts = activations.load(p.harvest, "test", first)
        assert reconstruction.sums({name: config})["tokens"].sum() == len(acts)
        key = {"weights": runs.get(config).sha256, "split": "test"}
        stamp = store.load(reconstruction.KIND, key).manifest["provenance"]
        assert stamp["seed"] == config.train.seed


def test_models_of_different_activations_are_refused(p):
    with pytest.raises(ValueError, match="asked for 2: .*positions: drop.*positions: keep"):
        reconstruction.sums({"a": variants.get("sae", p), "b": variants.get("sae_published", p)})
    with pytest.raises(ValueError, match="asked for 0: none"):
        reconstruction.sums({})


def test_loss_curves_of_one_colour_differ_in_their_lines():
    history = pd.DataFrame({"tokens": [1e6, 2e6], "validation_loss": [0.5, 0.4]})
    models = {"sae": history, "sae_tuned": history / 2, "joint": history / 4}
    models = {name: SimpleNamespace(history=rows) for name, rows in models.items()}
    given = {"models": models, "alone": ["sae", "sae_tuned"], "together": ["joint"]}
    ax = pages.run("reconstruction", "reconstruction-n01", **given)["axes"]
    legend = ax.get_legend()
    labels = [text.get_text() for text in legend.get_texts()]
    lines = dict(zip(labels, legend.get_lines(), strict=True))
    assert labels == ["SAE", "tuned SAE", "joint model"]
    colours = [lines[name].get_color() for name in labels]
    assert colours[0] == colours[1] != colours[2]
    drawn = [line for line in ax.lines if len(line.get_xdata())]
    assert [list(line.get_xdata()) for line in drawn] == [[1, 2], [0.5, 1], [0.25, 0.5]]
    assert len({line.get_linestyle() for line in drawn}) == 2
    plt.close("all")


def test_what_is_removed_is_of_the_sae_trained_alike_and_of_the_own_path():
    """Errors add up to 10 of the SAE, 5 of the joint model and 20 of its own path: a half and three quarters."""
    errors = {"sae": [4.0, 6.0], "joint": [2.0, 3.0], "other": [9.0, 9.0]}
    columns = {("sse", f"{name}_x", "all"): values for name, values in errors.items()}
    sums = pd.DataFrame(columns | {("sse", "joint_x", "own_path"): [8.0, 12.0]})
    sums.columns.names = reconstruction.LEVELS
    removed = pages.functions("reconstruction")["removed"]
    found = removed(sums, "_x", protocol="as published").set_index("baseline")["value"]
    assert found.to_dict() == {"sae_x": 50, "own_path": 75}
