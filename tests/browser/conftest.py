"""The book that was built last, served on this machine, and a Chromium to read it with."""

import functools
import os
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe

SIZES = {"desk": {"width": 1360, "height": 900}, "phone": {"width": 390, "height": 844}}
OPEN_ALL = "() => { for (const i of document.images) i.loading = 'eager'; for (const d of document.querySelectorAll('details')) d.open = true }"
AT_ONCE = "*, *::before, *::after { animation: none !important; transition: none !important }"  # opened boxes fade in: half-way they lack contrast
READY = """() => [...document.images].every(i => i.complete)
    && (!window.MathJax || (MathJax.startup && MathJax.startup.promise.then(() => true)))"""
LEVELS = {
    "runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]},
    "resultTypes": ["violations"],
}
"""All of WCAG 2.1 AA; without the list of everything that passed, which takes as long to gather as a large page to check."""
ROOT = Path(__file__).resolve().parents[2]


def built() -> Path | None:
    """The folder of pages: $FEATINT_HTML, or of the books in `_build` the one that was built last."""
    if folder := os.environ.get("FEATINT_HTML"):
        return Path(folder)
    books = [ROOT / "_build" / "html", *ROOT.glob("_build/*/_build/html")]
    return max(
        (b for b in books if (b / "searchindex.js").exists()),
        key=lambda b: (b / "searchindex.js").stat().st_mtime,
        default=None,
    )


def pages() -> list[str]:
    """Every page that was written from a source, as its path from the root of the book."""
    folder = built()
    return (
        sorted(
            str(f.relative_to(folder))
            for part in ("book", "notebooks")
            for f in folder.glob(f"{part}/**/*.html")
        )
        if folder
        else []
    )


def pytest_generate_tests(metafunc):
    if "page_path" in metafunc.fixturenames:
        metafunc.parametrize("page_path", pages())


def pytest_collection_modifyitems(items):
    for item in items:
        if ROOT / "tests" / "browser" in Path(item.path).parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def html() -> Path:
    folder = built()
    if folder is None:
        pytest.fail("there is no book in _build; `make book` or `make smoke` builds one")
    return folder


@pytest.fixture(scope="session")
def site(html):
    """The book's address on this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=html))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args):
    """Debian's Chromium instead of a downloaded one; without its sandbox, which needs rights that containers do not have."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.fail("Chromium is not installed; `apt-get install chromium` brings it")
    return browser_type_launch_args | {"executable_path": chromium, "args": ["--no-sandbox"]}


@pytest.fixture
def visit(browser, site):
    """Open a page and wait until its scripts, pictures and formulas are done; collects all that goes wrong on the way."""
    contexts = []

    def open_page(path: str, size: str, scheme: str):
        context = browser.new_context(viewport=SIZES[size], color_scheme=scheme)
        contexts.append(context)
        page, troubles = context.new_page(), []
        page.on("console", lambda m: m.type == "error" and troubles.append(f"console: {m.text}"))
        page.on("pageerror", lambda e: troubles.append(f"script: {e}"))
        page.on(
            "request",
            lambda r: (
                r.url.startswith((site, "data:", "blob:")) or troubles.append(f"off-host: {r.url}")
            ),
        )
        page.on("requestfailed", lambda r: troubles.append(f"failed: {r.url}"))
        page.on("response", lambda r: r.status >= 400 and troubles.append(f"{r.status}: {r.url}"))
        page.goto(f"{site}/{path}", wait_until="load")
        page.add_style_tag(content=AT_ONCE)
        page.evaluate(OPEN_ALL)
        page.wait_for_function(READY)
        return page, troubles

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def violations():
    """What a page, as it stands, breaks of the rules for all readers."""

    def found(page) -> list:
        broken = Axe().run(page, options=LEVELS).response["violations"]
        return [(v["id"], [node["html"][:200] for node in v["nodes"][:3]]) for v in broken]

    return found
