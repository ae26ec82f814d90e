"""Models by their names in words: a table's cell that holds nothing but a model's name says what data/models.toml calls it, and more on hovering."""

from docutils import nodes
from sphinx.application import Sphinx

from companion import variants


def in_words(app: Sphinx, doctree: nodes.document) -> None:
    """At doctree-read: the words in the place of each name, in all tables of a page."""
    for cell in doctree.findall(nodes.entry):
        if words := variants.WORDS.get(name := cell.astext().strip()):
            origin = f"{name}: {variants.describe(name)}"
            shown = nodes.abbreviation(words, words, explanation=origin, classes=["result"])
            cell.children[0].children = []
            cell.children[0] += shown


def setup(app: Sphinx) -> None:
    app.connect("doctree-read", in_words)
