"""Every page, at desk and at phone size, light and dark: nothing fails, nothing comes from elsewhere, nothing sticks out, all can be read."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from companion import variants

KEYS = "|".join(name for name in variants.WORDS if "_" in name)
UNNAMED = f"""() => {{
    const found = [], texts = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {{
        const text = texts.currentNode;
        if (!text.parentElement.closest("code, pre, script, form, noscript, details, .sig") && /\\b({KEYS})\\b/.test(text.data)) found.push(text.data);
    }}
    return found;
}}"""
CHECKS = {
    "models by their keys": UNNAMED,
    "sticks out, px": "() => Math.max(0, document.documentElement.scrollWidth - window.innerWidth)",
    "broken images": "() => [...document.images].filter(i => !i.naturalWidth).map(i => i.src)",
    "images without alt text": "() => [...document.querySelectorAll('main img')].filter(i => !i.alt.trim()).map(i => i.src)",
    "figures without caption": "() => [...document.querySelectorAll('main figure')].filter(f => !f.innerText.trim()).length",
    "markup left as text": "() => document.querySelector('main').innerText.match(/(```|:::)\\{[a-z-]+\\}.*/g) || []",
    "formulas left as text": "() => [...document.querySelectorAll('main .math')].filter(m => !m.querySelector('mjx-container')).map(m => m.textContent)",
    "broken formulas": "() => [...document.querySelectorAll('mjx-merror')].map(m => m.textContent)",
}


@pytest.mark.parametrize(("size", "scheme"), [("desk", "light"), ("phone", "dark")])
def test_page_can_be_read(visit, violations, page_path, size, scheme):
    page, troubles = visit(page_path, size, scheme)
    assert troubles == []
    assert page.locator("html").get_attribute("data-theme") == scheme
    assert {name: found for name, check in CHECKS.items() if (found := page.evaluate(check))} == {}
    assert violations(page) == []


def test_page_is_light_enough(html, page_path):
    assert (html / page_path).stat().st_size < 1_500_000 or Path(page_path).stem == "atlas"


def test_figures_name_models_in_words(html):
    """Matplotlib notes every text of a figure in a comment."""
    figures = {f.name: f.read_text(encoding="utf-8") for f in html.glob("_images/*.svg")}
    raw = re.compile(rf"<!--(?:[^>]*\W)?(?:{KEYS}|sae)\b")
    assert {name for name, text in figures.items() if raw.search(text)} == set()
    assert sum("<!-- joint model -->" in text for text in figures.values()) > 5


def test_figures_follow_the_theme_button(visit, html):
    """One picture on a light system: dark ink on a bright page, and after the button was pressed light ink on a dark page."""
    with_figures = [
        f
        for f in sorted(html.glob("notebooks/*.html"))
        if "dark-light" in f.read_text(encoding="utf-8")
    ]
    if not with_figures:
        pytest.skip("the book has no figures yet; un-skip when a notebook shows one")
    # of all pages the last, whose figure has no tinted area
    page, _ = visit(str(with_figures[-1].relative_to(html)), "desk", "light")
    seen = {}
    for _ in range(3):
        figure = page.locator("figure img.dark-light").first
        grey = np.asarray(Image.open(io.BytesIO(figure.screenshot())).convert("L"))
        seen[page.locator("html").get_attribute("data-theme")] = (
            np.median(grey),
            grey.min(),
            grey.max(),
        )
        page.locator("button.theme-switch-button").first.click()
    (light, ink, _), (dark, _, bright) = seen["light"], seen["dark"]
    assert light > 240 and ink < 60
    assert dark < 40 and bright > 200


def test_theme_button_changes_the_theme(visit):
    page, _ = visit("book/intro.html", "desk", "light")
    seen = set()
    for _ in range(3):
        seen.add(page.locator("html").get_attribute("data-theme"))
        page.locator("button.theme-switch-button").first.click()
    assert seen == {"light", "dark"}


def test_search_finds_a_glossary_word(visit):
    page, troubles = visit("search.html?q=superposition", "desk", "light")
    page.wait_for_selector("#search-results li a")
    assert any(
        "glossary" in link
        for link in page.locator("#search-results li a").evaluate_all(
            "links => links.map(a => a.href)"
        )
    )
    assert troubles == []


def test_terms_have_previews(visit):
    page, _ = visit("book/intro.html", "desk", "light")
    page.locator("main a[href*='#term-']").first.hover()
    page.wait_for_selector(".tippy-box")
    assert len(page.locator(".tippy-box").inner_text()) > 20


def test_notebooks_can_be_downloaded_clean_and_executed(visit, html):
    notebooks = sorted(html.glob("notebooks/*.html"))
    if not notebooks:
        pytest.skip("the book has no notebooks yet; un-skip when one is listed in _toc.yml")
    page, _ = visit(str(notebooks[0].relative_to(html)), "desk", "light")
    outputs = {}
    for link in page.locator("a.download").all():
        with page.expect_download() as download:
            link.click()
        notebook = json.loads(download.value.path().read_text(encoding="utf-8"))
        outputs["executed" in link.inner_text()] = sum(
            len(cell.get("outputs", [])) for cell in notebook["cells"]
        )
    assert outputs[True] > 0 and outputs[False] == 0


def test_atlas_search_finds_words_numbers_and_follows_partners(visit):
    page, troubles = visit("book/atlas.html", "phone", "light")
    cards = page.locator("#atlas .atlas-list > li")
    data = page.evaluate("() => window.FEATINT_ATLAS.features")
    assert cards.count() == min(20, len(data))
    strongest = max(data, key=lambda f: f["partners"][0][1] if f["partners"] else 0)
    assert cards.first.get_attribute("id") == f"f{strongest['id']}"

    box, status = page.locator("#atlas input[type=search]"), page.locator(".atlas-count")
    title = data[len(data) // 2]["contexts"][0][3]
    box.fill(title)
    page.wait_for_function(
        "n => !document.querySelector('.atlas-count').textContent.startsWith(n)",
        arg=f"{len(data):,} ",
    )
    assert any(title in text for text in cards.all_inner_texts())

    box.fill(str(strongest["id"]))
    page.wait_for_function(
        "() => document.querySelector('.atlas-count').textContent === '1 feature'"
    )
    page.wait_for_selector(f"#f{strongest['id']}")
    partner = strongest["partners"][0][0]
    cards.first.get_by_role("link", name=f"feature {partner}", exact=True).click()
    page.wait_for_selector(f"#f{partner}")
    assert box.input_value() == str(partner) and status.inner_text() == "1 feature"

    box.fill("qqqqzzzz")
    page.wait_for_function(
        "() => document.querySelector('.atlas-count').textContent === '0 features'"
    )
    assert troubles == []


def test_atlas_orders_and_filters(visit):
    page, _ = visit("book/atlas.html", "desk", "dark")
    data = page.evaluate("() => window.FEATINT_ATLAS")
    page.locator("#atlas select[name=sort]").select_option("rate")
    rates = {f["id"]: f["rate"] for f in data["features"]}
    shown = [
        rates[int(i[1:])]
        for i in page.locator("#atlas .atlas-list > li").evaluate_all(
            "items => items.map(i => i.id)"
        )
    ]
    assert shown == sorted(rates.values(), reverse=True)[: len(shown)]
    page.locator("#atlas select[name=topic]").select_option("0")
    n = sum(f["topic"] == 0 for f in data["features"])
    assert (
        page.locator(".atlas-count").inner_text() == f"{n:,} {'feature' if n == 1 else 'features'}"
    )


def test_atlas_works_from_a_file_and_loads_fast(browser, html):
    page, troubles = browser.new_page(), []
    page.on("pageerror", lambda e: troubles.append(str(e)))
    page.goto((html / "book" / "atlas.html").as_uri())
    page.wait_for_selector("#atlas .atlas-list > li")
    seconds = (
        page.evaluate("() => performance.timing.loadEventEnd - performance.timing.navigationStart")
        / 1000
    )
    page.close()
    assert troubles == [] and seconds < 2
    assert (html / "_static" / "atlas-data.js").stat().st_size < 10_000_000
