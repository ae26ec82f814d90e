"""The course's slides, made from the pages of the book that was built last: all that stands on a page is on its slides, from a file and by keyboard."""

import importlib.util

import pytest
from bs4 import BeautifulSoup

from companion.places import PROJECT

SESSIONS = [f"session_{n}" for n in range(1, 5)]
SHOWN = "() => document.querySelector('section.present').innerText"


@pytest.fixture(scope="module")
def made(html):
    spec = importlib.util.spec_from_file_location("slides", PROJECT / "book/_tools/slides.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    tool.main(html)
    return html / "slides"


@pytest.fixture
def opened(browser, made):
    contexts = []

    def of(name: str, width: int, height: int, scheme: str):
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme
        )
        contexts.append(context)
        page, troubles = context.new_page(), []
        page.on("pageerror", lambda e: troubles.append(str(e)))
        page.on("requestfailed", lambda r: troubles.append(r.url))
        page.on("request", lambda r: r.url.startswith("http") and troubles.append(r.url))
        page.goto((made / f"{name}.html").as_uri())
        page.wait_for_function("() => window.Reveal?.isReady()")
        page.evaluate("() => window.MathJax.startup.promise")
        return page, troubles

    yield of
    for context in contexts:
        context.close()


@pytest.mark.parametrize("name", SESSIONS)
@pytest.mark.parametrize(("size", "scheme"), [((1360, 900), "light"), ((390, 844), "dark")])
def test_every_slide_shows_its_section_whole(opened, violations, html, name, size, scheme):
    page, troubles = opened(name, *size, scheme)
    source = BeautifulSoup((html / f"book/{name}.html").read_text(encoding="utf-8"), "html.parser")
    titles = [h.find(string=True) for h in source.select("article section h1, article section h2")]
    assert page.evaluate("() => Reveal.getTotalSlides()") == len(titles) >= 7
    for title in titles:
        assert title in page.evaluate(SHOWN)
        box = page.locator("section.present").bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= size[1] + 1, title
        assert page.evaluate(
            "() => [...document.querySelectorAll('section.present img')].every((i) => i.naturalWidth && i.alt)"
        )
        page.keyboard.press("ArrowRight")
    results = [abbr.text for abbr in source.select("article abbr.result")]
    shown = page.evaluate(
        "() => [...document.querySelectorAll('.slides abbr.result')].map(a => a.textContent)"
    )
    assert shown == results and troubles == []
    page.wait_for_url(f"**/slides/{name}.html#/{len(titles) - 1}")
    page.keyboard.press("Home")
    for title in titles:
        assert violations(page) == [], title
        page.keyboard.press("ArrowRight")


def test_links_lead_to_the_pages(made):
    for name in SESSIONS:
        links = BeautifulSoup((made / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
        places = [tag.get("href") or tag["src"] for tag in links.select("[href], [src]")]
        dead = [p for p in places if not (made / p.partition("#")[0]).resolve().is_file()]
        assert len(places) > 8 and dead == []


def test_notes_are_hidden_until_asked_for(opened):
    page, _ = opened("session_1", 1360, 900, "light")
    note = "Do not uncover"
    assert page.locator("aside.notes").count() == 1 and note not in page.inner_text("body")
    while "verdicts covered" not in page.evaluate(SHOWN):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("s")
    assert note in page.inner_text(".speaker-notes")


def test_printed_it_is_one_slide_a_page(opened, tmp_path):
    from pypdf import PdfReader

    page, _ = opened("session_2", 1360, 900, "light")
    page.goto(page.url.split("#")[0] + "?view=print")
    page.wait_for_selector(".pdf-page")
    page.pdf(path=tmp_path / "slides.pdf", prefer_css_page_size=True)
    titles = page.locator(".pdf-page h2").all_inner_texts()
    printed = [sheet.extract_text() for sheet in PdfReader(tmp_path / "slides.pdf").pages]
    assert len(printed) == len(titles) + 1
    for title, text in zip(titles, printed[1:], strict=True):
        assert title.split()[0] in text
