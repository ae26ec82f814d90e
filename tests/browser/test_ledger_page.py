"""The ledger's filter and its columns, by pointer and by keyboard, at desk and phone size."""

import pytest

ROWS = """() => [...document.querySelectorAll('.ledger tbody tr')].map(
    (r) => [r.offsetHeight > 0, r.querySelector('.verdict').textContent, r.textContent, r.querySelector('.seeds')?.dataset.firm])"""


def shown(page):
    return [row for seen, *row in page.evaluate(ROWS) if seen]


@pytest.mark.parametrize("size", ["desk", "phone"])
def test_the_filter_shows_what_was_asked_for(visit, size):
    page, troubles = visit("book/ledger.html", size, "light")
    every = shown(page)
    count = page.locator("#ledger-filter output")
    assert count.inner_text() == f"{len(every)} of {len(every)} numbers"
    for verdict in {verdict for verdict, *_ in every}:
        page.select_option("#ledger-filter [name=verdict]", verdict)
        wanted = [row for row in every if row[0] == verdict]
        assert shown(page) == wanted
        assert count.inner_text() == f"{len(wanted)} of {len(every)} numbers"
    page.click("#ledger-filter [type=reset]")
    page.focus("#ledger-filter [name=words]")
    page.keyboard.type("Clamp")
    assert shown(page) == [row for row in every if "clamp" in row[1].lower()] != []
    page.click("#ledger-filter [type=reset]")
    for firm in ("True", "False"):
        page.select_option("#ledger-filter [name=seeds]", firm)
        assert shown(page) == [row for row in every if row[2] == firm]
    page.click("#ledger-filter [type=reset]")
    page.wait_for_function(
        "(n) => document.querySelector('output').textContent.startsWith(n)", arg=str(len(every))
    )
    assert shown(page) == every and not troubles


def test_a_column_orders_its_table(visit):
    page, troubles = visit("book/ledger.html", "desk", "dark")
    table = page.locator(".ledger table").first
    names = table.locator("tbody tr td:first-child")
    before = names.all_inner_texts()
    head = table.locator("th").first
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert names.all_inner_texts() == page.evaluate(
        "(x) => x.sort((a, b) => a.localeCompare(b))", before
    )
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert names.all_inner_texts() == page.evaluate(
        "(x) => x.sort((a, b) => b.localeCompare(a))", before
    )
    assert not troubles
