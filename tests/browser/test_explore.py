"""The explorables: every control by pointer and by keyboard, at both sizes and in both schemes; what they show is what Python computes or the results file holds."""

import itertools
import json

import matplotlib.pyplot as plt
import numpy as np
import pages
import pingouin
import pytest
from axe_playwright_python.sync_playwright import Axe
from scipy import stats

from companion import places as folders
from companion import profiles, results
from companion.estimates import interval, number

PAGES = {
    "experiment": "notebooks/factorial_designs.html",
    "splice": "notebooks/reading_a_splice.html",
    "split": "notebooks/two_decoders.html",
    "switches": "notebooks/waterfall.html",
}
"""Where each explorable stands."""
LEVELS = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}}
TIMED = """(form) => {
    const start = performance.now();
    form.dispatchEvent(new Event("input", {bubbles: true}));
    form.getBoundingClientRect();
    return performance.now() - start;
}"""
ALL_TOKENS = """(form) => [...form.elements.sentence.options].map((option, s) => {
    const { sentence, model, token } = form.elements, seen = [];
    [sentence.value, model.value, token.value] = [s, s % 6, 1];
    for (let n = 1; n === 1 || n <= Number(token.max); n++) {
        token.value = n;
        form.dispatchEvent(new Event("input", {bubbles: true}));
        seen.push([...form.querySelectorAll(".strip li, td, output")].map((shown) => shown.textContent));
    }
    return [option.textContent, seen];
})"""
explorable = pytest.mark.parametrize("name", PAGES)
places = pytest.mark.parametrize(("size", "scheme"), [("desk", "dark"), ("phone", "light")])


@explorable
@places
def test_every_control_answers_to_keyboard_and_pointer(visit, name, size, scheme):
    page, troubles = visit(PAGES[name], size, scheme)
    form = page.locator(f"#explore-{name}")

    def told():
        return form.locator(".shown").inner_html() + form.locator("output").inner_text()

    start, text = told(), form.inner_text()
    for control in form.locator("input, select").all():
        control.focus()
        before = control.input_value()
        kind = control.evaluate("(c) => c.type")
        page.keyboard.press("ArrowDown")
        if control.input_value() == before:
            page.keyboard.press("ArrowUp")
        assert control.input_value() != before and told() != start, control.get_attribute("name")
        if kind == "range":
            middle, width = float(control.get_attribute("max")) / 2, control.bounding_box()["width"]
            below = float(control.input_value()) < middle
            control.click(position={"x": width * (0.9 if below else 0.1), "y": 10})
            assert (float(control.input_value()) < middle) != below
            assert control.get_attribute("aria-valuetext")
        form.locator("[type=reset]").click()
        page.wait_for_function(
            "([form, was]) => document.querySelector(form).innerText === was",
            arg=[f"#explore-{name}", text],
        )
        assert control.input_value() == before and told() == start
    assert troubles == []
    axe = Axe().run(page, context=f"#explore-{name}", options=LEVELS)
    assert axe.response["violations"] == []


@explorable
def test_it_is_an_offer_light_and_quick_without_a_server(browser, html, name):
    page, troubles = browser.new_page(), []
    page.on("pageerror", lambda e: troubles.append(str(e)))
    page.goto((html / PAGES[name]).as_uri())
    form = page.locator(f"#explore-{name}")
    assert form.is_visible() and form.locator("output").inner_text()
    for control in form.locator("input[type=range]").all():
        control.fill(control.get_attribute("max"))
    assert form.evaluate(TIMED) < 200
    scripts = [html / "_static" / f"{file}.js" for file in ("explore", f"explore-{name}")]
    data = len(form.get_attribute("data-values"))
    assert data + sum(script.stat().st_size for script in scripts) < 150_000
    page.close()
    still = browser.new_context(java_script_enabled=False).new_page()
    still.goto((html / PAGES[name]).as_uri())
    assert not still.locator(f"#explore-{name}").is_visible()
    assert still.locator("main figure img").first.is_visible()
    still.close()
    assert troubles == []


class TestExperiment:
    """Rates of the two tests against scipy, pingouin and the page's own simulation."""

    @pytest.fixture
    def rates(self, visit):
        page, _ = visit(PAGES["experiment"], "desk", "light")

        def rates(interaction, n, r, noise, clustering):
            """Of topics and of sentences: false positives and power."""
            design = {"fe": interaction, "topics": n, "sentences": r}
            for name in ("cn", "ce", "fn"):
                design[name] = 0
            for name, value in (design | {"noise": noise, "clustering": clustering}).items():
                page.locator(f"#explore-experiment [name={name}]").fill(str(value))
            cells = page.locator("#explore-experiment td.share").all_inner_texts()
            return np.reshape([float(cell.removesuffix(" %")) / 100 for cell in cells], (2, 2))

        return rates

    @pytest.mark.parametrize(
        "design", [(0.8, 12, 8, 1, 0.6), (2, 3, 1, 1, 0.5), (1, 64, 32, 2, 2), (0.5, 24, 1, 0.5, 0)]
    )
    def test_by_topics_it_is_the_noncentral_f(self, rates, design):
        interaction, n, r, noise, clustering = design
        (false, power), _ = rates(*design)
        assert false == 0.05
        sd = 2 * np.sqrt(clustering**2 + noise**2 / r)
        threshold = stats.f.isf(0.05, 1, n - 1)
        exact = stats.ncf.sf(threshold, 1, n - 1, n * (interaction / sd) ** 2)
        assert power == pytest.approx(exact, abs=6e-4)
        of_t = pingouin.power_ttest(interaction / sd, n, contrast="one-sample")
        assert power == pytest.approx(of_t, abs=6e-4)

    def test_sentences_that_are_independent_are_a_t_test_of_all(self, rates):
        """Topics that do not differ: four cells of 12 x 8 sentences, 380 degrees of freedom."""
        _, (false, power) = rates(0.4, 12, 8, 1, 0)
        assert false == 0.05
        exact = stats.ncf.sf(stats.f.isf(0.05, 1, 380), 1, 380, 96 * 0.4**2 / 4)
        assert power == pytest.approx(exact, abs=6e-4)

    def test_false_positives_are_those_of_the_page(self, rates):
        """Twenty designs, each simulated 500 times: sd of a rate at most 0.022, of their mean 0.005."""
        cells = "factorial_designs-n05", "factorial-designs-p-values", "factorial-designs-13"
        table = pages.run("factorial_designs", *cells, seed=0)["false_positives"]
        plt.close("all")
        sds = [float(panel.rpartition(" ")[2]) for panel in table.panel]
        found = np.array([rates(0, 12, r, 1, sd)[:, 0] for sd, r in zip(sds, table.x, strict=True)])
        for i, name in enumerate(("topics", "every sentence")):
            error = np.sqrt(found[:, i] * (1 - found[:, i]) / 500)
            assert abs((table[name] - found[:, i]) / error).max() < 4
            assert abs((table[name] - found[:, i]).mean()) < 4 * error.mean() / np.sqrt(20)

    def test_power_is_that_of_the_pages_tests(self, rates):
        n, r, noise, clustering = 12, 8, 0.8, 0.5
        rng = np.random.default_rng(0)
        y = clustering * rng.normal(size=(4000, n, 4, 1)) + noise * rng.normal(size=(4000, n, 4, r))
        p = pages.functions("factorial_designs")["p_values"](y + np.array([0, 0, 0, 0.7])[:, None])
        (_, topics), (_, sentences) = rates(0.7, n, r, noise, clustering)
        for share, name in ((topics, "topics"), (sentences, "every sentence")):
            assert share == pytest.approx((p[name] < 0.05).mean(), abs=4 * np.sqrt(0.25 / 4000))


@pytest.fixture
def measured(html):
    """The estimates of a chapter in the run that the book shows."""
    profile = html.relative_to(folders.BUILD).parts[0]
    label = "laptop" if profile == "html" else profile
    return lambda chapter: results.table(folders.RESULTS / label / f"{chapter}.json")


def test_every_token_of_every_splice_shows_its_result(visit):
    """Each sentence with one of the models; what two decimals leave out of a KL that is kept with three may round the other way."""
    file = folders.PUBLISHED / "bench" / "splices.json"
    sentences = json.loads(file.read_text(encoding="utf-8"))["sentences"]
    page, _ = visit(PAGES["splice"], "phone", "dark")
    form = page.locator("#explore-splice")
    shown = form.evaluate(ALL_TOKENS)
    assert len(shown) == len(sentences) == 60 == len({each["title"] for each in sentences})

    def guesses(pairs):
        for word, p in pairs:
            share = f"{round(100 * p)}" if round(100 * p) else "<\u00a01"
            yield f"“{word}” {share}\u00a0%".replace("\n", "↵")

    for i, (each, (option, seen)) in enumerate(zip(sentences, shown, strict=True)):
        assert option == f"{each['title']}: {''.join(each['tokens'])}"
        kl, model = each["kl"], list(each["kl"])[i % 6]
        means = [np.mean(row) for row in kl.values()]
        assert len(seen) == len(each["tokens"])
        for place, (*cells, said) in enumerate(seen):
            strip, cells = cells[: len(seen)], cells[len(seen) :]
            words, told = zip(*(cell.rsplit(" ", 1) for cell in strip), strict=True)
            assert list(words) == [token.strip() for token in each["tokens"]]
            assert [float(x) for x in told] == pytest.approx(kl[model], abs=0.0056)
            clean, after = (list(guesses(each["top"][name][place])) for name in ("clean", model))
            assert cells[:6] == [cell for rank in zip(clean, after, strict=True) for cell in rank]
            assert [float(x) for x in cells[6::2]] == pytest.approx(
                [row[place] for row in kl.values()], abs=0.0056
            )
            assert [float(x) for x in cells[7::2]] == pytest.approx(means, abs=0.0056)
            word = each["tokens"][place].strip()
            assert said.startswith(f"After “{word}”, token {place + 1} of {len(seen)},")
            assert f"by {told[place]} nats; on average" in said and each["title"] in said
    form.locator(".strip li").nth(2).click()
    assert form.locator("[name=token]").input_value() == "3"
    assert form.locator("output").inner_text().startswith(f"After “{words[2]}”, token 3 of")


def test_a_split_moves_the_gain_and_not_the_error(visit, measured):
    page, _ = visit(PAGES["split"], "desk", "light")
    table, form = measured("two_decoders"), page.locator("#explore-split")
    for model in ("sae", "joint"):
        form.locator("[name=model]").select_option(model)
        fvu = table.loc[f"{model}/fvu/controlled"]
        whole = f"Error of the whole model: {interval(fvu.value, fvu.lo, fvu.hi, '.4f')} of the"
        seen = []
        for share in np.linspace(0, 2, 21):
            form.locator("[name=share]").fill(f"{share:.1f}")
            gain = table.loc[f"{model}/gain_at_split/{share:.1f}/controlled"]
            told = interval(gain.value, gain.lo, gain.hi, ".1f")
            said = form.locator("output").inner_text()
            assert said.startswith(f"Gain as published: {told} %. {whole}")
            shown = form.locator("td").all_inner_texts()
            own = fvu.value / (1 - gain.value / 100)
            assert shown == [f"{fvu.value:.3f}", f"{own:.3f}", f"{number(gain.value, '.1f')} %"]
            seen.append(gain.value)
        assert min(seen) < 5 and seen[-1] > 70 and np.argmin(seen) == 0


@pytest.mark.parametrize("where", [PAGES["switches"], "book/intro.html"])
def test_every_combination_of_switches_shows_its_result(visit, measured, where):
    """The chapter shows the book's own run, the front page the published one."""
    page, _ = visit(where, "phone", "dark")
    form, table = page.locator("#explore-switches"), measured("waterfall")
    if where == "book/intro.html":
        table = results.table(folders.PUBLISHED / profiles.PUBLISHED / "waterfall.json")
    rows = {(r.baseline, r.part): r for r in table[table.quantity == "gain"].itertuples()}
    named = [form.locator(f"[name={name}]") for name in ("reference", "text", "first")]
    choices = [[o.get_attribute("value") for o in c.locator("option").all()] for c in named]

    def write(x):
        return number(x, ".2f" if abs(x) < 1 else ".1f")

    shown = 0
    for reference, text, first in itertools.product(*choices):
        for control, value in zip(named, (reference, text, first), strict=True):
            control.select_option(value)
        said, row = form.locator("output").inner_text(), rows.get((reference, f"{text} {first}"))
        if row is None:
            assert said == "This combination was not measured."
            continue
        ends, shown = f" [{write(row.lo)}, {write(row.hi)}]", shown + 1
        assert said.startswith(f"The joint model removes {write(row.value)} %{ends} of the error")
        assert f"({row.n:,} {row.of})" in said
        assert (row.protocol == "as published") == ("This is the published protocol." in said)
        alone = [seed[0] for seed in row.each_seed or []]
        assert form.locator("circle").count() >= len(alone)
        if alone:
            assert f"from {write(min(alone))} to {write(max(alone))} %" in said
    assert shown == len(rows) and len(rows) == 24
