"""Boxes that ask before they show, and the page that lists the answers: by pointer and by keyboard, at desk and phone size, light and dark."""

import json

import pytest

from companion import exercises, places

LISTED = "() => [...document.querySelectorAll('#answers li')].map((li) => [li.dataset.key, li.innerText])"


def told(chapter: str, name: str) -> float:
    """A value of the published results."""
    file = places.PUBLISHED / "full" / f"{chapter}.json"
    return json.loads(file.read_text(encoding="utf-8"))["values"][name]["value"]


def box(page, key: str):
    """The parts of a box: its form, the input, what it says, and what was measured."""
    form = page.locator(f"#answer-{key}")
    return form, form.locator("input"), form.locator("output"), form.locator("+ .measured")


@pytest.mark.parametrize(("size", "scheme"), [("desk", "light"), ("phone", "dark")])
@pytest.mark.parametrize(
    ("path", "key", "source"),
    [
        (
            "notebooks/reading_a_splice.html",
            "splice-ratio",
            ("behaviour", "sae/kl_ratio/controlled"),
        ),
        (
            "notebooks/planted_truth.html",
            "planted-found",
            ("planted_truth", "sequential/recall_difference/controlled"),
        ),
    ],
)
def test_a_box_shows_what_was_measured_when_it_was_answered(
    visit, violations, size, scheme, path, key, source
):
    page, troubles = visit(path, size, scheme)
    form, field, said, measured = box(page, key)
    value = told(*source)
    assert float(form.get_attribute("data-value")) == value
    assert said.inner_text() == "" and not measured.is_visible()

    field.fill("a half")
    form.get_by_role("button", name="Compare").click()
    assert "A number, please" in said.inner_text() and not measured.is_visible()

    field.focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("1.25")
    page.keyboard.press("Enter")
    off = float(f"{abs(value - 1.25):.3g}")
    assert said.inner_text() == f"You said 1.25: {off:g} too low."
    assert measured.is_visible() and form.get_attribute("data-shown") in measured.inner_text()
    page.reload()
    form, field, said, measured = box(page, key)
    assert field.input_value() == "1.25" and measured.is_visible()
    form.get_by_role("button", name="Forget").click()
    assert said.inner_text() == field.input_value() == "" and not measured.is_visible()
    page.reload()
    form, field, _, measured = box(page, key)
    assert field.input_value() == "" and troubles == []
    field.fill("1")
    field.press("Enter")
    assert measured.is_visible() and violations(page) == []


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("2", "as measured"),
        ("2.5", "0.5 too high"),
        ("0,5", "1.5 too low"),
        ("−1", "3 too low"),
        ("1,002", "1,000 too high"),
        ("50 %", "48 too high"),
    ],
)
def test_numbers_are_read_as_people_write_them(visit, typed, says):
    page, _ = visit("notebooks/superposition.html", "desk", "light")
    _, field, said, _ = box(page, "superposition-pca")
    field.fill(typed)
    field.press("Enter")
    assert said.inner_text() == f"You said {typed}: {says}."


@pytest.mark.parametrize(("size", "scheme"), [("desk", "dark"), ("phone", "light")])
def test_the_page_of_answers_lists_saves_and_forgets(visit, violations, site, size, scheme):
    page, troubles = visit("notebooks/superposition.html", size, scheme)
    _, field, _, _ = box(page, "superposition-pca")
    field.fill("5")
    field.press("Enter")
    page.goto(f"{site}/book/your_answers.html")
    listed = dict(page.evaluate(LISTED))
    assert len(listed) == page.locator("#answers li").count() > 10
    assert set(listed) >= {n for n, e in exercises.EXERCISES.items() if "ask" in e}
    said = "You said 5: 3 too high. Measured: 2."
    assert listed["superposition-pca"].endswith(said)
    assert all("not answered" in text for key, text in listed.items() if key != "superposition-pca")
    count = page.locator("#answers output")
    assert count.inner_text() == f"1 of {len(listed)} answered"

    with page.expect_download() as download:
        page.get_by_role("button", name="Save").press("Enter")
    assert said in download.value.path().read_text(encoding="utf-8")

    page.locator("#answers li a").first.click()
    assert page.locator(f"form#{page.url.partition('#')[2]}").is_visible()
    page.go_back()
    page.get_by_role("button", name="Forget all").click()
    page.wait_for_function(
        "() => document.querySelector('#answers output').textContent.startsWith('0 ')"
    )
    assert all("not answered" in text for text in dict(page.evaluate(LISTED)).values())
    left = [t for t in troubles if "favicon" not in t]  # asked for on a page that was left at once
    assert left == [] and violations(page) == []


@pytest.mark.parametrize(("size", "scheme"), [("desk", "dark"), ("phone", "light")])
def test_an_exercise_checks_itself_as_the_notebook_does(visit, violations, size, scheme, capsys):
    page, troubles = visit("notebooks/factorial_designs.html", size, scheme)
    form, field, said, _ = box(page, "designs-by-hand")
    right = exercises.numbers("designs-by-hand", exercises.EXERCISES["designs-by-hand"]["right"])
    for answer in (right.item(), 4, -1, 0, -2):
        exercises.check("designs-by-hand", answer)
        field.fill(f"{answer:g}")
        field.press("Enter")
        assert said.inner_text() == capsys.readouterr().out.strip()
    for answer, how in ((-9, "small"), (9, "large")):
        field.fill(str(answer))
        form.get_by_role("button", name="Check").click()
        assert said.inner_text() == f"Not yet: {answer} is too {how}."
    hint = form.get_by_role("button", name="Hint")
    for text in exercises.EXERCISES["designs-by-hand"]["hints"]:
        hint.focus()
        page.keyboard.press("Enter")
        assert said.inner_text() == f"Hint: {text}"
    assert hint.is_disabled()
    assert troubles == [] and violations(page) == []


def test_every_box_leads_from_the_list_and_nothing_is_told_without_script(browser, site, html):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{site}/notebooks/superposition.html")
    form, _, _, measured = box(page, "superposition-pca")
    assert not form.is_visible() and not measured.is_visible()
    assert page.locator(".admonition", has=form).locator("p").nth(1).is_visible()
    page.goto(f"{site}/book/your_answers.html")
    assert page.locator("#answers li a").count() > 10
    assert not page.get_by_role("button", name="Print").is_visible()
    context.close()


def test_answers_are_kept_from_file_to_file(browser, html):
    page, troubles = browser.new_page(), []
    page.on("pageerror", lambda e: troubles.append(str(e)))
    page.goto((html / "notebooks" / "superposition.html").as_uri())
    _, field, _, _ = box(page, "superposition-pca")
    field.fill("3")
    field.press("Enter")
    page.goto((html / "book" / "your_answers.html").as_uri())
    assert "You said 3: 1 too high." in dict(page.evaluate(LISTED))["superposition-pca"]
    page.get_by_role("button", name="Forget all").click()
    page.close()
    assert troubles == []
