"""A corpus that tries to bring markup, maths and scripts into the pages: in Chromium, on a small book of the atlas, an executed notebook and the status page."""

import json
from dataclasses import replace
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml
from bs4 import BeautifulSoup
from sphinx.testing.util import SphinxTestApp

from companion import atlas, places, plots, profiles
from featint import harvest
from featint.config import NFMConfig, SAEConfig, TrainConfig

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::PendingDeprecationWarning"
)  # Sphinx's own
ROOT = Path(__file__).resolve().parents[2]
EVIL = [
    "<script>window.pwned = 1</script>",
    '<img src="x" class="pwned" onerror="window.pwned = 2">',
    '"><svg class="pwned" onload="window.pwned = 3">',
    "[a](javascript:window.pwned=4)",
    r"$\href{javascript:window.pwned=5}{a}$",
    r"\(\href{javascript:window.pwned=6}{a}\)",
    "</script><script>window.pwned = 7</script>",
    '\n\n```{raw} html\n<b class="pwned">a</b>\n```\n',
    "{download}`/etc/passwd` {numref}`nowhere`",
    '|\n\n<b class="pwned">a</b>\n\n|',
    '\u2028<a class="pwned" href="javascript:window.pwned=8">',
    "`a` **b** <b class=pwned>`",
]
CAUGHT = """() => [window.pwned, document.querySelectorAll('.pwned').length,
    [...document.querySelectorAll('a')].filter((a) => /^javascript:/i.test(a.getAttribute('href') || a.getAttribute('xlink:href') || '')).length]"""
OPTIONS = {
    "extensions": ["myst_nb", "sphinx_design", "featint_book"],
    "nb_execution_mode": "off",
    "html_theme": "basic",
    "exclude_patterns": ["_build"],
    "html_static_path": [str(ROOT / "book" / part) for part in ("_static", "_vendor")],
}


@pytest.fixture
def hostile_atlas(tiny_harvest, tmp_path, monkeypatch):
    """The atlas of a tiny model of a text whose titles and topics try; its words are made to try, too."""
    pages = json.loads(Path(tiny_harvest.corpus.name).read_text(encoding="utf-8"))
    tried = {
        f"{EVIL[i % len(EVIL)]} {i}": page | {"topic": EVIL[i % 3]}
        for i, page in enumerate(pages.values())
    }
    file = tmp_path / "evil.json"
    file.write_text(json.dumps(tried), encoding="utf-8")
    config = replace(tiny_harvest, corpus=replace(tiny_harvest.corpus, name=str(file)))
    monkeypatch.setattr(places, "BUILD", tmp_path / "book" / "_build")
    harvest.harvest(config)
    made = atlas.build(
        replace(
            profiles.smoke(),
            d_in=32,
            harvest=config,
            sae=SAEConfig(d_sae=64, k=8),
            nfm=NFMConfig(d_factor=3),
            train=TrainConfig(n_tokens=64 * 20, batch_tokens=64, dead_after_tokens=1000),
        )
    )
    content = json.loads(made.read_text(encoding="utf-8"))
    for i, feature in enumerate(content["features"]):
        feature["promoted"] = EVIL
        for context in feature["contexts"]:
            context[:3] = [EVIL[(i + n) % len(EVIL)] for n in range(3)]
    made.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return made


def executed(monkeypatch) -> dict:
    """A notebook with tables of such text, as the page and as a reader's Jupyter show them, and what a cell prints."""
    shown = []
    monkeypatch.setattr(plots, "display", lambda forms, raw: shown.append(forms))
    plots.table(pd.DataFrame({"a": EVIL, EVIL[1]: 1.5}), "evil", caption="Cells and heads.")
    literal = pd.DataFrame({"a": map(plots.literal, EVIL)})
    plots.table(literal, "literal", caption=f"Literal: {plots.literal(''.join(EVIL))}.")
    new = nbformat.v4
    outputs = [
        new.new_output("display_data", {"text/markdown": forms["text/markdown"]})
        for forms in shown[1:]
    ]
    outputs += [
        new.new_output("display_data", {"text/html": forms["text/html"]}) for forms in shown
    ]
    outputs.append(new.new_output("stream", text="\n".join(EVIL)))
    outputs.append(new.new_output("execute_result", {"text/plain": repr(EVIL)}, execution_count=1))
    cells = [
        new.new_markdown_cell("# Chapter"),
        new.new_code_cell("sentence: str = ''  # text", metadata={"tags": ["parameters"]}),
    ]
    made = new.new_notebook(cells=[*cells, new.new_code_cell("1", outputs=outputs)])
    made.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    times = {
        "start_time": "2026-01-01T10:00:00",
        "end_time": "2026-01-01T10:00:05",
        "duration": 5.0,
    }
    made.metadata["papermill"] = times | {
        "exception": None,
        "parameters": {"sentence": "".join(EVIL)},
    }
    return made


def test_text_of_a_corpus_stays_text_in_the_browser(hostile_atlas, browser, tmp_path, monkeypatch):
    folder = tmp_path / "book"
    monkeypatch.syspath_prepend(ROOT / "book" / "_ext")
    monkeypatch.setenv("PROFILE", "smoke")
    monkeypatch.setattr(places, "RESULTS", folder / "results")
    of_book = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    ours = of_book["sphinx"]["config"]
    options = OPTIONS | {k: ours[k] for k in ours if k.startswith(("mathjax", "nb_"))}
    options["myst_enable_extensions"] = of_book["parse"]["myst_enable_extensions"]
    options["nb_mime_priority_overrides"] = [
        tuple(x) for x in options["nb_mime_priority_overrides"]
    ]
    lines = [f"{name} = {value!r}" for name, value in options.items()]
    made = executed(monkeypatch)
    for name, text in {
        "conf.py": "\n".join(lines),
        "index.md": "# Book\n\n```{toctree}\nbook/atlas\nnotebooks/chapter\nbook/status\n```\n",
        "book/atlas.md": "# Atlas\n\n```{atlas}\n```\n",
        "book/status.md": "# Status\n\n```{status}\n```\n",
        "notebooks/chapter.ipynb": nbformat.writes(made),
        "_build/executed/smoke/notebooks/chapter.ipynb": nbformat.writes(made),
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    app = SphinxTestApp("html", srcdir=folder)
    try:
        app.build()
    finally:
        app.cleanup()
    html = folder / "_build" / "html"
    assert not list(html.glob("_downloads/**/passwd*"))
    for name in ("book/atlas", "notebooks/chapter", "book/status"):
        page, asked = browser.new_page(), []
        page.on("dialog", lambda dialog, asked=asked: asked.append(dialog.message))
        page.goto((html / f"{name}.html").as_uri(), wait_until="load")
        page.wait_for_function(
            "() => !window.MathJax?.startup || MathJax.startup.promise.then(() => true)"
        )
        if name == "book/atlas":
            page.fill("div#atlas input[type=search]", "script")
            page.wait_for_timeout(300)
            assert page.locator("div#atlas .atlas-list > li").count() > 0
            assert EVIL[0] in page.locator("div#atlas").inner_text()
        assert page.evaluate(CAUGHT) == [None, 0, 0], name
        assert asked == []
        page.close()


def test_words_in_an_explorable_stay_text(browser, html, tmp_path):
    """Sentences, titles and predictions that try, in the page of the book that was built last."""
    source = html / "notebooks" / "reading_a_splice.html"
    soup = BeautifulSoup(source.read_text(encoding="utf-8"), "html.parser")
    form = soup.select_one("#explore-splice")
    values = json.loads(form["data-values"])
    words = values["words"].split("\n")
    evil = [EVIL[i % len(EVIL)].replace("\n", " ") for i in range(len(words))]
    values["words"] = "\n".join(evil)
    for i, sentence in enumerate(values["sentences"]):
        sentence[0] = EVIL[i % len(EVIL)]
    form["data-values"] = json.dumps(values)
    scripts = "".join(
        f"<script>{(html / '_static' / name).read_text(encoding='utf-8')}</script>"
        for name in ("explore.js", "explore-splice.js")
    )
    (tmp_path / "evil.html").write_text(f"<meta charset='utf-8'>{form}{scripts}", encoding="utf-8")
    page = browser.new_page()
    page.goto((tmp_path / "evil.html").as_uri())
    for _ in range(len(EVIL)):
        page.locator("#explore-splice [name=sentence]").press("ArrowDown")
        assert page.evaluate(CAUGHT) == [None, 0, 0]
    shown = page.locator("#explore-splice").inner_text()
    assert "<script>window.pwned" in shown and 'class="pwned"' in shown
    page.close()
