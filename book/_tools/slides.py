"""Slides of the course: each session's page of the built book becomes one file of slides beside the book, one slide a section; all it needs lies in the book.

python book/_tools/slides.py _build/html
"""

import sys
from pathlib import Path

from bs4 import BeautifulSoup

FRAME = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="stylesheet" href="../_static/reveal/reveal.css">
<link rel="stylesheet" href="../_static/slides.css">
<script>window.MathJax = {{options: {{enableMenu: false}}}};</script>
<script defer src="../_static/mathjax/tex-mml-chtml.js"></script>
<script defer src="../_static/reveal/reveal.js"></script>
<script defer src="../_static/slides.js"></script>
</head><body><main class="reveal"><div class="slides">{slides}</div></main></body></html>
"""
LEFT_OUT = "a.headerlink, script, button, .caption-number"


def slides(page: str) -> str:
    """The slides of a page: its heading with what stands above the first section, then a slide per section; boxes for whoever teaches are notes."""
    soup = BeautifulSoup(page, "html.parser")
    whole = soup.select_one("article section")
    for part in whole.select(LEFT_OUT):
        part.decompose()
    for box in whole.select(".admonition.teacher"):
        box.select_one(".admonition-title").decompose()
        box.name, box.attrs = "aside", {"class": "notes"}
    for link in whole.select('a[href^="#"]'):  # a figure's number: elsewhere in the slides
        link.unwrap()
    for name in ("href", "src"):  # slides lie beside the folder of the pages
        for tag in whole.select(f"[{name}]:not([{name}*=':'])"):
            tag[name] = f"../book/{tag[name]}"
    sections = [section.extract() for section in whole.find_all("section", recursive=False)]
    for section in sections:
        del section["id"]  # reveal.js would make it the slide's address
    title = f"<section>{whole.decode_contents()}</section>"
    parts = "\n".join([title, *map(str, sections)])
    return FRAME.format(title=whole.h1.get_text(), slides=parts)


def main(html: Path) -> None:
    """Write `slides/session_<n>.html` into the folder of the built book. Exits with a message if there is no book."""
    pages = sorted(html.glob("book/session_*.html"))
    if not pages:
        sys.exit(f"slides: there is no book at {html}; `make book` builds it")
    (html / "slides").mkdir(exist_ok=True)
    for page in pages:
        file = html / "slides" / page.name
        file.write_text(slides(page.read_text(encoding="utf-8")), encoding="utf-8")
        print(f"Slides: {file}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
