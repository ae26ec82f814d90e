"""One sentence, spliced: against torch.distributions and plain splices."""

import pages
import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from companion.chapters import reading_a_splice
from featint import downstream, lm


@pytest.fixture
def site(tiny_harvest):
    return lm.load(tiny_harvest.lm), "city river star cell king ship gold", tiny_harvest.hook_point


def halved(x):
    return 0.5 * x


def kl(model, tokens, hook, edit):
    """By torch.distributions, of a splice of its own; without the separator."""
    clean, other = (
        model.bridge(tokens[None])[0],
        lm.resume(model, lm.read(model, tokens[None], hook), edit)[0],
    )
    return kl_divergence(*(Categorical(logits=x.double()) for x in (clean, other)))[1:]


def test_kl_of_conditions_and_of_their_random_twins(site):
    model, text, hook = site
    found = reading_a_splice.splice(model, text, hook, {"same": lambda x: x, "half": halved}, 2)
    words = [f"{i} {word}" for i, word in enumerate(text.split(), 1)]
    assert found.kl.index.tolist() == found.kl_random.index.tolist() == words
    assert (found.kl["same"] == 0).all() and (found.kl_random["same"].abs() < 1e-6).all()
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    tokens = torch.tensor([model.separator, *ids])
    want = kl(model, tokens, hook, halved)
    half = torch.tensor(found.kl["half"].to_numpy())
    torch.testing.assert_close(half, want, atol=2e-5, rtol=1e-4)
    reading = lm.read(model, tokens[None], hook)
    x, after = reading.x, lm.resume(model, reading, halved)[0]
    torch.testing.assert_close(found.logits["half"], after, atol=1e-4, rtol=1e-4)
    length = 0.5 * x.norm(dim=-1, keepdim=True)  # of the error of halving
    twins = [x + length * downstream.directions(x, 0, draw, 0) for draw in range(2)]
    want = sum(kl(model, tokens, hook, lambda _, x=twin: x) for twin in twins) / 2
    random = torch.tensor(found.kl_random["half"].to_numpy())
    torch.testing.assert_close(random, want, atol=2e-5, rtol=1e-3)
    assert found.tokens["length"].tolist() == pytest.approx(x[0].norm(dim=-1).tolist())
    assert found.tokens["token"].tolist() == [
        f"0 {model.tokenizer.decode([model.separator])}",
        *words,
    ]
    assert list(found.kl) == list(found.kl_random) == ["same", "half"]
    assert found.tokens["sink"].tolist()[0] and list(found.logits) == ["clean", "same", "half"]


def test_the_first_position_counts_only_if_asked(site):
    model, text, hook = site
    tokens = torch.tensor(
        [model.separator, *model.tokenizer(text, add_special_tokens=False)["input_ids"]]
    )
    for first in ("drop", "keep"):
        asked = []
        half = {"half": lambda x, asked=asked: asked.append(len(x)) or halved(x)}
        found = reading_a_splice.splice(model, text, hook, half, 0, first)
        assert asked == [7 if first == "drop" else 8]  # a sink is not even asked for
        want = lm.resume(model, lm.read(model, tokens[None], hook), halved, first)[0]
        torch.testing.assert_close(found.logits["half"], want, atol=1e-4, rtol=1e-4)


def test_top_tokens_are_the_likeliest(site):
    model, text, hook = site
    found = reading_a_splice.splice(model, text, hook, {"half": halved})
    names = {"language_model": model, "spliced": found, "kl": found.kl}
    top = pages.run("reading_a_splice", "splice-top-tokens", place=3, **names)["top"]
    assert list(top) == ["condition", "token", "probability"]
    assert top["condition"].tolist() == ["clean"] * 4 + ["half"] * 4
    for name in ("clean", "half"):
        p, token = found.logits[name][3].softmax(-1).sort(descending=True)
        rows = top[top["condition"] == name]
        assert rows["probability"].tolist() == pytest.approx(p[:4].tolist())
        assert rows["token"].tolist() == [model.tokenizer.decode([i]) for i in token[:4].tolist()]
    kl = found.kl.rename(columns={"half": "SAE"})
    page = pages.run("reading_a_splice", "splice-top-tokens", place=None, **names | {"kl": kl})
    assert kl.index[page["after"] - 1] == kl["SAE"].idxmax()
    with pytest.raises(ValueError, match="place = 8 must be a token's number, from 1 to 7"):
        pages.run("reading_a_splice", "splice-top-tokens", place=8, **names)


def test_a_sentence_of_one_token_is_refused(site):
    model, _, hook = site
    with pytest.raises(ValueError, match="sentence = 'city' has 1 tokens; at least 2"):
        reading_a_splice.splice(model, "city", hook, {})
    found = reading_a_splice.splice(model, "city river", hook, {"half": halved})
    assert found.kl.index.tolist() == ["1 city", "2 river"]


def test_a_tokenizer_adds_nothing_of_its_own(site, monkeypatch):
    model, text, hook = site
    plain = type(model.tokenizer).__call__

    def adds(self, text, add_special_tokens=True, **more):
        found = plain(self, text, add_special_tokens=False, **more)
        if add_special_tokens:
            found["input_ids"] = [model.separator, *found["input_ids"]]
        return found

    monkeypatch.setattr(type(model.tokenizer), "__call__", adds)
    assert len(reading_a_splice.splice(model, text, hook, {"half": halved}).tokens) == 8
