"""The book that was built last, served on this machine, and a Chromium to read it with."""

import functools
import os
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

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
