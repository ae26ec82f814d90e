"""{explore} experiment (directive): an explorable, a form that `book/_static/explore-<name>.js` fills and keeps hidden where there is no JavaScript.

Its numbers come from results files (`VALUES`) and travel in the page, so that it works from a file without server.
"""

import html
import json

import featint_roles
import numpy as np
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from companion import estimates, places, variants

FRAME = """
<form class="offer explore" id="explore-{name}" data-values="{values}" hidden></form>
<script defer src="{static}/explore.js"></script>
<script defer src="{static}/explore-{name}.js"></script>
"""


def split(env, run: str) -> dict:
    """The gain as published at every share of the decoder in the linear path, and the error, by model."""
    gains, fvu = (
        featint_roles.estimates_of(env, run, "two_decoders", quantity)
        for quantity in ("gain_at_split", "fvu")
    )
    models = {
        model: {"gains": numbers(rows), "fvu": numbers(fvu[fvu.model == model])[0]}
        for model, rows in gains.groupby("model")
    }
    paper = featint_roles.paper_values(env)["abs_joint_recon_improvement"]["paper"]
    return {"shares": sorted(map(float, gains.part.unique())), "paper": paper, "models": models}


def splice(env, run: str) -> dict:
    """Sentences through the language model, by `benchmarks.splices`: lists of numbers in base 36, of a list of words, so that they are small.

    A sentence is its title; its words; by word and model the KL, in thousandths of a nat; by word, condition (clean first) and rank 101 times
    the predicted word plus its probability in per cent.
    """
    file = places.PUBLISHED / "bench" / "splices.json"
    found = featint_roles.load(env, file, "`python -m benchmarks.splices` writes it")["sentences"]
    index, sentences = {}, []

    def places_of(words) -> list[int]:
        return [index.setdefault(word.replace("\n", "↵"), len(index)) for word in words]

    for each in found:
        kl = np.array(list(each["kl"].values())).T
        top = [
            guess
            for place in zip(*each["top"].values(), strict=True)
            for row in place
            for guess in row
        ]
        words, shares = zip(*top, strict=True)
        shares = np.rint(100 * np.array(shares)).astype(int)
        packed = 101 * np.array(places_of(words)) + shares
        lists = places_of(each["tokens"]), np.rint(1000 * kl).astype(int).ravel(), packed
        sentences.append([each["title"], *map(base36, lists)])
    models = {name: variants.WORDS[name] for name in found[0]["kl"]}
    return {"models": models, "words": "\n".join(index), "sentences": sentences}


def base36(numbers) -> str:
    """Whole numbers as text, in base 36, blanks between them."""
    return " ".join(np.base_repr(n, 36).lower() for n in numbers)


def switches(env, run: str) -> dict:
    """The joint model's gain under each protocol that was measured, by reference, text and first positions."""
    table = featint_roles.estimates_of(env, run, "waterfall", "gain")
    keys = table.baseline + "/" + table.part
    rows = zip(numbers(table), table.n, table.of, table.each_seed, strict=True)
    return {
        key: {"gain": gain, "of": f"{n:,} {of}", "seeds": [seed[0] for seed in each or []]}
        for key, (gain, n, of, each) in zip(keys, rows, strict=True)
    }


def numbers(table) -> list[list[float]]:
    """Value and ends of the interval of each estimate."""
    return table[estimates.NUMBERS].to_numpy().tolist()


VALUES = {
    "experiment": lambda env, run: None,
    "splice": splice,
    "split": split,
    "switches": switches,
}
"""By name of an explorable: the numbers that it shows, from the results of a run."""


class Explore(SphinxDirective):
    """An explorable by its name; a second argument names the run whose results it shows, else this book's."""

    required_arguments, optional_arguments = 1, 1

    def run(self):
        name, run = [*self.arguments, ""][:2]
        shown = featint_roles.pick(self.env, VALUES, name, "{explore}")(self.env, run)
        values = html.escape(json.dumps(shown, separators=(",", ":")))
        return [
            nodes.raw(
                "", FRAME.format(name=name, values=values, static="../_static"), format="html"
            )
        ]


def setup(app: Sphinx) -> None:
    app.add_directive("explore", Explore)
