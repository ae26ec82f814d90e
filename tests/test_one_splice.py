"""One sentence, spliced: against torch.distributions and by its limits."""

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from companion.chapters import one_splice
from featint import lm


@pytest.fixture
def site(tiny_harvest):
    return lm.load(tiny_harvest.lm), "city river star cell king ship gold", tiny_harvest.hook_point


def halved(x):
    return 0.5 * x


def test_kl_by_token(site):
    model, text, hook = site
    found = one_splice.splice(model, text, hook, {"same": lambda x: x, "half": halved})
    kl = one_splice.kl_by_token(found)
    assert (
        list(kl.index) == [f"{i} {word}" for i, word in enumerate(text.split(), 1)]
        and (kl["same"] == 0).all()
    )
    clean, half = (
        Categorical(logits=logits.double())
        for logits in (
            model.bridge(found.tokens[None])[0],
            lm.resume(model, lm.read(model, found.tokens[None], hook), halved)[0],
        )
    )
    torch.testing.assert_close(
        torch.tensor(kl["half"].to_numpy()).double(),
        kl_divergence(clean, half)[1:],
        atol=2e-5,
        rtol=1e-4,
    )


def test_the_first_position_counts_only_if_asked(site):
    model, text, hook = site
    dropped, kept = (
        one_splice.splice(model, text, hook, {"half": halved}, first) for first in ("drop", "keep")
    )
    assert not torch.allclose(dropped.logits["half"], kept.logits["half"])
    assert one_splice.norms(dropped)["sink"].iloc[0] == "yes"


def test_top_tokens_are_the_likeliest(site):
    model, text, hook = site
    found = one_splice.splice(model, text, hook, {"half": halved})
    top = one_splice.top_tokens(model, found, 3, {"clean": "random", "half": "sae"}, n=2)
    assert (
        top.panel.tolist() == ["clean"] * 2 + ["half"] * 2
        and top.role.tolist() == ["random"] * 2 + ["sae"] * 2
    )
    p = found.logits["clean"][3].softmax(-1)
    assert top.probability.iloc[0] == pytest.approx(p.max().item()) and top.token.iloc[
        0
    ] == model.tokenizer.decode([int(p.argmax())])
    with pytest.raises(ValueError, match="place = 9 must be a token's number, from 1 to 7"):
        one_splice.top_tokens(model, found, 9, {"clean": "random", "half": "sae"})


def test_random_twins_of_a_perfect_reconstruction_do_nothing(site):
    model, text, hook = site
    found = one_splice.splice(model, text, hook, {})
    assert one_splice.random_twins(model, found, lambda x: x, 2).max() < 1e-6
    assert one_splice.random_twins(model, found, halved, 2).max() > 1e-4


def test_a_sentence_of_one_token_is_refused(site):
    model, _, hook = site
    with pytest.raises(ValueError, match="sentence = 'city' has 1 tokens; at least 2"):
        one_splice.splice(model, "city", hook, {})
