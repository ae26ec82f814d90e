"""Links and anchors inside the book lead somewhere; read from the files, without a browser."""

import functools
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup


@functools.cache
def soup(file: Path) -> BeautifulSoup:
    return BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser")


@functools.cache
def anchors(file: Path) -> set[str]:
    return {tag["id"] for tag in soup(file).find_all(id=True)} | {
        tag["name"] for tag in soup(file).find_all("a", attrs={"name": True})
    }


def test_links_and_anchors_are_alive(html, page_path):
    file, dead = html / page_path, []
    for tag, attribute in (("a", "href"), ("img", "src"), ("script", "src"), ("link", "href")):
        for element in soup(file).find_all(tag, attrs={attribute: True}):
            link = urlsplit(element[attribute])
            if link.scheme or link.netloc:
                continue
            target = (file.parent / unquote(link.path)).resolve() if link.path else file
            if not target.exists():
                dead.append(element[attribute])
            elif (
                link.fragment
                and target.suffix == ".html"
                and unquote(link.fragment) not in anchors(target)
            ):
                dead.append(element[attribute])
    assert dead == []


def test_nothing_is_loaded_from_elsewhere(html, page_path):
    loaded = [
        (tag, attribute)
        for tag, attribute in (("img", "src"), ("script", "src"), ("iframe", "src"))
    ]
    elsewhere = [
        e[a]
        for t, a in loaded
        for e in soup(html / page_path).find_all(t, attrs={a: True})
        if urlsplit(e[a]).netloc
    ]
    elsewhere += [
        e["href"]
        for e in soup(html / page_path).find_all("link", href=True)
        if urlsplit(e["href"]).netloc and e.get("rel") == ["stylesheet"]
    ]
    assert elsewhere == []


def test_the_front_door_leads_to_the_book(html):
    assert "book/intro.html" in (html / "index.html").read_text(encoding="utf-8")
