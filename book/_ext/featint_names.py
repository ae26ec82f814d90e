"""Models by their names in words: a literal, or a table's cell, that holds nothing but a model's name says what data/models.toml calls it, and more on hovering."""

from docutils import nodes
from sphinx.application import Sphinx

from companion import variants


def in_words(app: Sphinx, doctree: nodes.document) -> None:
    """At doctree-read: the words in the place of each name, but where the program is described."""
    if app.env.docname.startswith("book/api"):
        return
    for place in [*doctree.findall(nodes.literal), *doctree.findall(nodes.entry)]:
        if words := variants.WORDS.get(name := place.astext().strip()):
            origin = f"{name}: {variants.VARIANTS.get(name, words)}"
            shown = nodes.abbreviation(words, words, explanation=origin, classes=["result"])
            if isinstance(place, nodes.literal):
                place.replace_self(shown)
            else:
                place.children[0].children = []
                place.children[0] += shown


def setup(app: Sphinx) -> None:
    app.connect("doctree-read", in_words)
