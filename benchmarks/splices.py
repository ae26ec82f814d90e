"""Sixty sentences through the language model, clean and with each of six reconstructions spliced in: `python -m benchmarks.splices`.

Of articles that no model was trained on, for the page *Reading a splice*. A minute on two cores, from the first seed's models of `make book PROFILE=full`.
"""

import json
import random
import re
from collections.abc import Iterator, Mapping

from tqdm import tqdm

from companion import places, profiles, variants
from companion.chapters import reading_a_splice
from featint import activations, corpora, downstream, lm, runs, store

FILE = places.PUBLISHED / "bench" / "splices.json"
MODELS = ("sae", "sae_tuned", "sae_matched", "sequential", "joint", "joint_no_interaction")
SENTENCES, FEWEST, MOST = 60, 8, 16
"""How many, and of how many tokens each."""
TOP = 3
"""Predictions per place and condition."""
END = re.compile(r"(?<=[a-z0-9)]{2}\.) (?=[A-Z])")
"""Between two sentences: not after initials or `St.`."""
LOST = re.compile("  | [,;.)]|\ufffd")
"""Where a formula was, or a token that is half a letter."""


def sentences(
    language_model: lm.LanguageModel, config: corpora.CorpusConfig
) -> Iterator[tuple[str, str]]:
    """Title and one sentence of each held-out article that has one of fitting length, both drawn at random."""
    found, draw = corpora.articles(config), random.Random(0)
    for row in corpora.split(found, config)["test"]:
        fitting = [
            text
            for text in END.split(found[row].text)
            if re.fullmatch(r"[A-Z].*\.", text)
            and FEWEST <= len(language_model.tokenizer(text)["input_ids"]) <= MOST
            and not any(map(LOST.search, (text, *pieces(language_model, text))))
        ]
        if fitting:
            yield found[row].title, draw.choice(fitting)


def pieces(language_model: lm.LanguageModel, text: str) -> list[str]:
    """The text of each of its tokens."""
    ids = language_model.tokenizer(text, add_special_tokens=False)["input_ids"]
    return [language_model.tokenizer.decode([token]) for token in ids]


def measured(
    language_model: lm.LanguageModel,
    text: str,
    hook_point: str,
    conditions: Mapping[str, downstream.Condition],
) -> dict:
    """A sentence's tokens; after each of them the KL by condition, and the likeliest next tokens with their probabilities, clean ones too."""
    spliced = reading_a_splice.splice(language_model, text, hook_point, conditions)
    top = {}
    for name, logits in spliced.logits.items():
        p, ids = logits[1:].float().softmax(-1).topk(TOP)
        words = [[language_model.tokenizer.decode([token]) for token in row] for row in ids]
        rows = zip(words, p.tolist(), strict=True)
        top[name] = [[(w, round(x, 4)) for w, x in zip(*row, strict=True)] for row in rows]
    kl = {name: [round(x, 4) for x in spliced.kl[name]] for name in conditions}
    return {"tokens": pieces(language_model, text), "kl": kl, "top": top}


def main() -> None:
    p = profiles.get(profiles.PUBLISHED)
    acts = activations.load(p.harvest, "test", p.train.first_position)
    models = {name: runs.get(variants.get(name, p)) for name in MODELS}
    conditions = {name: downstream.of_model(model, acts) for name, model in models.items()}
    language_model, found = lm.load(p.harvest.lm), []
    drawn = sentences(language_model, p.harvest.corpus)
    for (title, text), _ in zip(drawn, tqdm(range(SENTENCES)), strict=False):
        found.append(
            {"title": title} | measured(language_model, text, p.harvest.hook_point, conditions)
        )
    stamp = store.provenance(seed=p.seeds[0], profile=p.label)
    content = {"provenance": stamp, "hook_point": p.harvest.hook_point, "sentences": found}
    store.write_bytes(FILE, json.dumps(content, ensure_ascii=False).encode())
    print(f"{len(found)} sentences: {FILE}")


if __name__ == "__main__":
    main()
