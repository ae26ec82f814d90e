"""The atlas of a tiny joint model: every entry recomputed from dense codes, and excerpts found again in the text."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from companion import atlas, places, profiles, variants
from featint import activations, harvest, lm, pair_effects, runs
from featint.config import NFMConfig, SAEConfig, TrainConfig


@pytest.fixture
def p(tiny_harvest, tmp_path, monkeypatch):
    monkeypatch.setattr(places, "BUILD", tmp_path / "build")
    harvest.harvest(tiny_harvest)
    return replace(
        profiles.smoke(),
        d_in=32,
        harvest=tiny_harvest,
        sae=SAEConfig(d_sae=64, k=8),
        nfm=NFMConfig(d_factor=3),
        train=TrainConfig(n_tokens=64 * 60, batch_tokens=64, lr=1e-2, dead_after_tokens=1000),
    )


@pytest.fixture
def written(p):
    return json.loads(atlas.build(p).read_text(encoding="utf-8"))


@pytest.fixture
def dense(p):
    """(tokens, d_sae) codes of the held-out text, the plain way."""
    model, test = runs.get(variants.get("joint", p)).model, activations.load(p.harvest, "test")
    pre = torch.relu(test.rows(torch.arange(len(test))) @ model.sae.W_enc + model.sae.b_enc)
    top = pre.topk(8)
    return torch.zeros_like(pre).scatter(1, top.indices, top.values)


def test_rates_norms_and_topics(p, written, dense):
    model, test = runs.get(variants.get("joint", p)).model, activations.load(p.harvest, "test")
    fired = (dense > 0).double()
    assert [f["id"] for f in written["features"]] == (
        fired.sum(0) >= atlas.MIN_FIRED
    ).nonzero().squeeze(1).tolist()
    assert len(written["features"]) > 5 and written["about"]["tokens"] == len(test)
    for f in written["features"]:
        i = f["id"]
        assert f["rate"] == pytest.approx(fired[:, i].mean().item(), rel=1e-3)
        assert f["mean"] == pytest.approx(dense[dense[:, i] > 0, i].mean().item(), rel=1e-3)
        assert f["norm"] == pytest.approx(model.sae.W_dec[i].norm().item(), rel=1e-3)
        by_topic = torch.stack(
            [fired[test.topic == t, i].mean() for t in range(len(test.topics))]
        ).nan_to_num()
        assert f["topic"] == by_topic.argmax() and f["lift"] == pytest.approx(
            (by_topic.max() / fired[:, i].mean()).item(), rel=1e-3
        )


def test_excerpts_stand_in_their_articles_and_are_short(p, written, dense):
    test, text = (
        activations.load(p.harvest, "test"),
        json.loads(Path(p.harvest.corpus.name).read_text(encoding="utf-8")),
    )
    for f in written["features"]:
        acts = dense[:, f["id"]]
        best = {}
        for row in acts.argsort(descending=True).tolist():
            best.setdefault(test.titles[int(test.article[row])], acts[row].item())
        shown = [(title, act) for *_, title, act in f["contexts"]]
        expected = [act for act in best.values() if act > 0][: atlas.CONTEXTS]
        assert [act for _, act in shown] == pytest.approx(expected, rel=1e-3)
        for before, token, after, title, act in f["contexts"]:
            words = (before + token + after).split()
            assert len(words) <= atlas.WORDS and token.strip()
            assert " ".join(words) in text[title]["extract"]
            assert act == pytest.approx(best[title], rel=1e-3)


def test_promoted_tokens_are_those_of_the_head_on_the_normed_direction(p, written):
    model, test = runs.get(variants.get("joint", p)).model, activations.load(p.harvest, "test")
    language_model = lm.load(p.harvest.lm)
    plain = torch.nn.functional.rms_norm
    from transformers import AutoModelForCausalLM

    head = AutoModelForCausalLM.from_pretrained(p.harvest.lm.name)
    for f in written["features"]:
        direction = (model.sae.W_dec[f["id"]] + model.nfm.W_lin[f["id"]]) * test.std
        logits = plain(direction, (32,), eps=1e-6) * head.model.norm.weight @ head.lm_head.weight.T
        expected = [
            language_model.tokenizer.decode([t])
            for t in logits.argsort(descending=True)[: atlas.PROMOTED].tolist()
        ]
        assert f["promoted"] == expected


def test_partners_are_those_of_the_model_on_this_text(p, written, dense, monkeypatch):
    """One feature's effect on one token, all of it by hand; how partners are chosen stands in
    `test_pair_effects`."""
    nfm = runs.get(variants.get("joint", p)).model.nfm

    def out(codes):
        pooled = ((codes @ nfm.V).square() - codes.square() @ nfm.V.square()) / 2
        return torch.relu(pooled @ nfm.W_hidden + nfm.b_hidden) @ nfm.W_out + nfm.b_out

    shown = [(f["id"], *partner) for f in written["features"] for partner in f["partners"]]
    assert len(shown) > 10
    for i, j, effect, n in shown[:10]:
        both = ((dense[:, i] > 0) & (dense[:, j] > 0)).nonzero().squeeze(1)
        assert n == len(both) >= atlas.MIN_FIRED and effect > atlas.ROUNDING
        spread = np.unique(np.linspace(0, n - 1, atlas.TOGETHER).astype(int))
        difference = 0
        for sign, gone in ((1, []), (-1, [i]), (-1, [j]), (1, [i, j])):
            rows = dense[both[spread]].clone()
            rows[:, gone] = 0
            difference = difference + sign * out(rows)
        assert effect == pytest.approx(difference.norm(dim=1).mean().item(), rel=0.01, abs=1e-5)


def test_partners_are_chosen_at_the_mean_activations(p, dense, monkeypatch):
    asked = []
    nobody = pd.DataFrame(columns=["feature", "partner", "effect", "n"])
    monkeypatch.setattr(
        pair_effects, "partners", lambda *args, **limits: asked.append(args[3]) or nobody
    )
    features = json.loads(atlas.build(p).read_text(encoding="utf-8"))["features"]
    assert not any(f["partners"] for f in features)
    mean = dense.sum(0) / (dense > 0).sum(0).clamp(min=1)
    assert asked[0].tolist() == pytest.approx(mean.tolist(), rel=1e-4)


def test_an_excerpt_ends_where_its_article_does():
    words = [f" w{i}" for i in range(40)]
    decode = lambda ids: "".join(words[i] for i in ids)  # noqa: E731
    here = [5 <= i < 9 or i >= 12 for i in range(40)]
    assert atlas.excerpt(decode, list(range(40)), here, 6) == ("w5", " w6", " w7 w8")
    before, token, after = atlas.excerpt(decode, list(range(40)), here, 25)
    assert (before.split(), token, after.split()) == (
        [f"w{i}" for i in range(18, 25)],
        " w25",
        [f"w{i}" for i in range(26, 33)],
    )
