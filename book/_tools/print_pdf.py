"""The whole book as one PDF: each page printed by Chromium with its boxes opened, joined with bookmarks, and linked from the first page.

python book/_tools/print_pdf.py _build/html
"""

import io
import re
import shutil
import sys
from pathlib import Path

import yaml
from playwright.sync_api import sync_playwright
from pypdf import PdfWriter

ROOT = Path(__file__).resolve().parents[2]
NAME = "feature-integration-spaces.pdf"
PLACE = re.compile(r'<p class="whole-book">.*?</p>', re.S)
LEFT_OUT = {"book/atlas"}  # thousands of entries, of use only where they can be searched
OPEN_ALL = """() => {
    for (const image of document.images) image.loading = 'eager'
    for (const box of document.querySelectorAll('details')) box.open = true
    // A link to another page would lead to this machine's files.
    for (const link of [...document.links]) if (link.protocol === 'file:' && link.pathname !== location.pathname) link.removeAttribute('href')
    for (const hidden of document.querySelectorAll('.toggle-hidden')) hidden.classList.remove('toggle-hidden')
}"""
READY = "() => [...document.images].every(i => i.complete) && (!window.MathJax || MathJax.startup.promise.then(() => true))"
FOOTER = '<div style="width:100%; text-align:center; font-size:8px"><span class="pageNumber"></span></div>'


def pages() -> list[str]:
    """The book's pages in the order of _toc.yml."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    return [
        toc["root"],
        *(
            chapter["file"]
            for part in toc["parts"]
            for chapter in part["chapters"]
            if chapter["file"] not in LEFT_OUT
        ),
    ]


def main(html: Path) -> None:
    """Write `NAME` into the folder of the built book. Exits with a message if there is no book or no Chromium."""
    first = html / f"{pages()[0]}.html"
    chromium = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if not first.exists() or chromium is None:
        sys.exit(
            f"print_pdf: {'Chromium is not installed' if first.exists() else f'there is no book at {html}; `make book` builds it'}"
        )
    book = PdfWriter()
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(color_scheme="light")
        for name in pages():
            page.goto((html / f"{name}.html").as_uri())
            page.evaluate(OPEN_ALL)
            page.wait_for_function(READY)
            title = page.locator("h1").first.inner_text().removesuffix("#").strip()
            printed = page.pdf(
                format="A4",
                margin=dict.fromkeys(("top", "bottom", "left", "right"), "18mm"),
                display_header_footer=True,
                header_template="<span></span>",
                footer_template=FOOTER,
            )
            book.append(io.BytesIO(printed), outline_item=title)
        browser.close()
    book.compress_identical_objects()
    book.write(html / NAME)
    size = (html / NAME).stat().st_size / 1e6
    link = f'<p class="whole-book"><a href="../{NAME}">The whole book as PDF</a> ({len(book.pages)} pages, {size:.1f} MB).</p>'
    first.write_text(PLACE.sub(link, first.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"The book on paper: {html / NAME}, {len(book.pages)} pages, {size:.1f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
