"""The sentences of the explorable: one of a held-out article each, whole, and measured as the page measures its own."""

import json

import pytest
import torch

from benchmarks import splices
from companion import places
from featint import lm
from featint.config import CorpusConfig

LONG = "one two three four five six seven eight nine ten eleven twelve."


@pytest.fixture
def model(lm_folder):
    from featint.config import LMConfig

    return lm.load(LMConfig(name=str(lm_folder)))


def test_a_sentence_ends_at_its_full_stop():
    first, second = "He met J. S. Bach in St. Louis (Missouri).", "It was 1900."
    assert splices.END.split(f"{first} {second} So it was.") == [first, second, "So it was."]


def test_each_held_out_article_gives_one_whole_sentence_of_fitting_length(
    model, tmp_path, monkeypatch
):
    texts = [
        "The " + LONG,
        "a " + LONG,
        "The " + LONG.replace(" ten", " , ten"),
        "The city.",
        "The " + 3 * LONG,
    ]
    pages = {f"{i:02d}": {"text": texts[i % 5], "topic": "a"} for i in range(50)}
    file = tmp_path / "text.json"
    file.write_text(json.dumps(pages), encoding="utf-8")
    config = CorpusConfig(name=str(file), test_fraction=0.5)
    found = list(splices.sentences(model, config))
    held_out = splices.corpora.split(splices.corpora.articles(config), config)["test"]
    fitting = [f"{row:02d}" for row in held_out if row % 5 == 0]
    assert found == [(title, texts[0]) for title in fitting] and len(fitting) > 2


def test_what_is_measured_is_what_the_page_shows(model):
    text, hook = "city river star cell king", "blocks.1.hook_resid_post"
    half = {"half": lambda x: 0.5 * x}
    found = splices.measured(model, text, hook, half)
    assert found["tokens"] == text.split()
    spliced = splices.reading_a_splice.splice(model, text, hook, half)
    assert found["kl"] == {"half": [round(x, 4) for x in spliced.kl["half"]]}
    for name in ("clean", "half"):
        p, order = spliced.logits[name][1:].softmax(-1).sort(descending=True)
        for place, guesses in enumerate(found["top"][name]):
            assert [word for word, _ in guesses] == [
                model.tokenizer.decode([i]) for i in order[place, :3].tolist()
            ]
            assert [x for _, x in guesses] == pytest.approx(p[place, :3].tolist(), abs=6e-5)


def test_the_published_sentences_are_whole():
    content = json.loads(splices.FILE.read_text(encoding="utf-8"))
    assert len(content["sentences"]) == splices.SENTENCES and splices.FILE.is_relative_to(
        places.PUBLISHED
    )
    assert "+" not in content["provenance"]["commit"]
    for each in content["sentences"]:
        n = len(each["tokens"])
        assert splices.FEWEST <= n <= splices.MOST and not splices.LOST.search(
            "".join(each["tokens"])
        )
        assert tuple(each["kl"]) == splices.MODELS and all(
            len(row) == n for row in each["kl"].values()
        )
        top = torch.tensor(
            [[[p for _, p in place] for place in rows] for rows in each["top"].values()]
        )
        assert (
            top.shape == (1 + len(splices.MODELS), n, splices.TOP)
            and (top.diff(dim=-1) <= 0).all()
            and (top.sum(-1) <= 1.001).all()
        )
