"""Boxes that ask for a number before they show one, and the page that lists them. `book/_static/answers.js` keeps what a reader says, in the
reader's browser alone; without JavaScript only the text is there.

```{predict} joint-gain               a box "Before you go on" that asks for the number that the page's notebook glues under this name
:ask: gain, per cent                  what the number is, as a label
:measured: published/seeds:joint/...  instead: a value of a results file, as {result} takes it
:format: .1f                          of the number that is shown; four significant digits without
The question.                         on a page without notebook and without `measured` the answer is only kept
```
```{check} fm-cost                    a box that says whether a number solves the exercise of this name (notebooks/solutions/exercises.py), or why not
{answers} (directive)                 all that the book asks, with the reader's answers
"""

import html
import json
import re
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from featint_roles import Markdown, pick, results_of
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from companion import exercises, results
from companion.estimates import number
from featint import store

FORM = """<form class="offer answer" id="answer-{key}" {data} hidden>
<label>{ask} <input name="answer" autocomplete="off" spellcheck="false"></label>
<p><button>{do}</button> <button name="hint" type="button" hidden>Hint</button> <button type="reset">Forget</button></p>
<p><output></output></p>
</form>"""
NUMBER = re.compile(r"(?:np\.\w+\()?([-+.\de]+)\)?")
"""A number as Python shows it, NumPy's too."""
LIST = """<div id="answers">
<ol>{rows}</ol>
<form class="offer" hidden>
<p><button name="print" type="button">Print</button> <button name="save" type="button">Save as a file</button>
<button type="reset">Forget all</button> <output></output></p>
</form>
<noscript><p>To answer takes JavaScript; nothing is sent anywhere.</p></noscript>
</div>"""


def attributes(item: dict) -> str:
    """What the script needs to know of a question, as attributes of an element."""
    known = {name: text for name, text in item.items() if name not in ("where", "ask")}
    return " ".join(f'data-{name}="{html.escape(str(text))}"' for name, text in known.items())


def collected(env) -> dict[str, list[dict]]:
    """What each page asks, in its order."""
    if not hasattr(env, "featint_asked"):
        env.featint_asked = {}
    return env.featint_asked


def glued(env, name: str) -> float:
    """A number that the executed notebook of the current page glued. Raises ExtensionError naming the page and the names there are."""
    profile = env.config.featint_profile
    file = Path(env.srcdir, "_build", "executed", profile, f"{env.docname}.ipynb")
    cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    found = {
        output["metadata"]["scrapbook"]["name"]: "".join(*output["data"].values())
        for output in outputs
        if "scrapbook" in output.get("metadata", {})
    }
    if not (shown := NUMBER.fullmatch(found.get(name, ""))):
        raise ExtensionError(
            f"{env.docname}: its notebook glues no number {name!r}; it glues {found}"
        )
    return float(shown[1])


class Predict(Markdown):
    """A question whose answer is a number, asked before the page shows it."""

    required_arguments = 1
    has_content = True
    option_spec = {
        "ask": directives.unchanged_required,
        "measured": directives.unchanged_required,
        "format": directives.unchanged_required,
    }

    def text(self) -> str:
        env, key, spec = self.env, self.arguments[0], self.options.get("format")
        value, shown, measured = "", "", self.options.get("measured")
        if measured:
            where, name = measured.split(":")
            run, _, chapter = where.rpartition("/")
            try:
                row = results.lookup(results_of(env, run) / f"{chapter}.json", name)
            except store.StoreError as e:
                raise ExtensionError(f"{env.docname}: {key}: {e}") from e
            value, unit = row.value, "" if row.unit in self.options["ask"] else f" {row.unit}"
            measured = f"{{result}}`{measured}{f':{spec}' if spec else ''}:ci`{unit}"
        elif Path(env.srcdir, f"{env.docname}.ipynb").exists():
            value = glued(env, key)
            measured = number(value, spec)
        if measured:
            shown = number(value, spec)
        item = {"key": key, "ask": self.options["ask"], "value": value, "shown": shown}
        collected(env).setdefault(env.docname, []).append(item)
        return "\n".join(
            [
                "`````{admonition} Before you go on\n:class: tip\n",
                *self.content,
                f"```{{raw}} html\n{FORM.format(**item, do='Compare', data=attributes(item))}\n```",
                f"````{{div}} measured\nMeasured: {measured}\n````" if measured else "",
                "`````",
            ]
        )


class Check(Markdown):
    """The box for the answer of an exercise whose answer is one number, with what wrong ones overlooked and with hints."""

    required_arguments = 1

    def text(self) -> str:
        key, env = self.arguments[0], self.env
        env.note_dependency(str(exercises.FILE))
        exercise = pick(env, exercises.EXERCISES, key, exercises.FILE.name)
        wrong = [[float(x), f"Not yet: {why}"] for x, why in exercise["wrong"]]
        item = {
            "key": key,
            "ask": exercise["ask"],
            "value": float(exercise["right"]),
            "shown": "",
            "tolerance": exercise["tolerance"],
            "wrong": json.dumps(wrong),
            "hints": json.dumps(exercise["hints"]),
        }
        collected(env).setdefault(env.docname, []).append(item)
        return f"```{{raw}} html\n{FORM.format(**item, do='Check', data=attributes(item))}\n```"


class answers(nodes.General, nodes.Element):
    """The place of the list, which is known when all pages have been read."""


class Answers(SphinxDirective):
    def run(self):
        return [answers()]


def list_answers(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """At doctree-resolved: a line per question, in the book's order."""
    for place in list(doctree.findall(answers)):
        asked, rows = collected(app.env), []
        for page in app.env.collect_relations():
            for item in asked.get(page, []):
                link = f"{app.builder.get_relative_uri(docname, page)}#answer-{item['key']}"
                title = app.env.titles[page].astext()
                rows.append(
                    f'<li {attributes(item)}><a href="{link}">{html.escape(title)}: {html.escape(item["ask"])}</a> <span></span></li>'
                )
        place.replace_self(nodes.raw("", LIST.format(rows="\n".join(rows)), format="html"))


def forget(app: Sphinx, env, docname: str) -> None:
    """At env-purge-doc: a page that is read again asks anew."""
    collected(env).pop(docname, None)


def list_again(app: Sphinx, env, added: set, changed: set, removed: set) -> list[str]:
    """At env-get-outdated: other pages may ask something else now."""
    page = "book/your_answers"
    return [page] if page in env.found_docs and (added or changed or removed) else []


def setup(app: Sphinx) -> None:
    app.add_node(answers)
    app.add_directive("predict", Predict)
    app.add_directive("check", Check)
    app.add_directive("answers", Answers)
    app.connect("doctree-resolved", list_answers)
    app.connect("env-purge-doc", forget)
    app.connect("env-get-outdated", list_again)
