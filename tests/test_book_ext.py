"""The book's extension, on a small book of its own built by Sphinx: executed copies are shown, numbers are read, and nothing is skipped over."""

import io
import json
import os
import re
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from bs4 import BeautifulSoup
from sphinx.errors import ExtensionError
from sphinx.testing.util import SphinxTestApp

# these read data/ when they are imported: before a test puts another in its place
import companion.exercises
import companion.plots
import companion.variants  # noqa: F401
from companion import places

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::PendingDeprecationWarning"
)  # Sphinx's own

ROOT = Path(__file__).resolve().parents[1]
CONF = """
extensions = ["myst_nb", "sphinx_design", "featint_book"]
nb_execution_mode = "off"
html_theme = "basic"
exclude_patterns = ["_build"]
"""
FVU = {
    "value": 0.31234,
    "ci": [0.305, 0.32],
    "n": 1502,
    "of": "articles",
    "unit": "FVU",
    "model": "joint",
    "quantity": "fvu",
    "protocol": "controlled",
}
RUN = {
    "parameters": {"k": 42},
    "start_time": "2026-01-01T10:00:00",
    "end_time": "2026-01-01T10:00:05",
    "duration": 5.0,
    "exception": None,
}
SOURCE = "k: int | None = None  # active features | per token\nlr: float = 1e-3  # learning rate"


def notebook(*, output: str | None = None, papermill: dict | None = None) -> dict:
    """A notebook with a title, a cell of parameters and one cell that may have an output."""
    outputs = (
        [] if output is None else [{"output_type": "stream", "name": "stdout", "text": output}]
    )
    cell = {"metadata": {}, "cell_type": "code", "execution_count": None, "outputs": []}
    return {
        "cells": [
            {
                "cell_type": "markdown",
                "id": "a",
                "metadata": {},
                "source": "# Chapter\n\nIt is {result}`chapter:joint/fvu:.2f:ci`.\n\n| model | of joint |\n|:--|:--|\n| `joint` | a joint |\n| sae_cut | sae_cat |",
            },
            cell | {"id": "b", "metadata": {"tags": ["parameters"]}, "source": SOURCE},
            cell | {"id": "c", "source": "print(1)", "outputs": outputs},
        ],
        "metadata": {
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
        }
        | ({"papermill": papermill} if papermill else {}),
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def write(file: Path, content) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A project with one page, one notebook, its executed copy and its results; the package is elsewhere."""
    monkeypatch.syspath_prepend(ROOT / "book" / "_ext")
    for name, place in {"DATA": "data", "PUBLISHED": "data/results", "RESULTS": "results"}.items():
        monkeypatch.setattr(places, name, tmp_path / place)
    monkeypatch.setenv("PROFILE", "laptop")
    (tmp_path / "featint").mkdir()
    write(tmp_path / "conf.py", CONF)
    write(
        tmp_path / "index.md",
        "# Book\n\n```{toctree}\nnotebooks/chapter\nbook/ledger\nstatus\n```\n\n{paper}`gain`, bare {paper}`gain:value`, {verdict}`gain`, {verdict}`published/gain`, n = {result}`chapter:joint/fvu:n`,"
        " five seeds: {result}`published/chapter:joint/fvu`, over {result}`chapter:joint/fvu:of`; k is {setting}`setup_topk`\n\n```{scale}\n```\n\n```{claims}\ngain: Less error\n```\n",
    )
    write(
        tmp_path / "book/ledger.md",
        "# Ledger\n\n```{ledger}\n```\n\n```{disagreements}\n```\n\n```{stability}\n```\n\n```{rules}\n```\n",
    )
    write(tmp_path / "status.md", "# Status\n\n```{status}\n```\n")
    write(tmp_path / "notebooks/chapter.ipynb", notebook())
    write(
        tmp_path / "_build/executed/laptop/notebooks/chapter.ipynb",
        notebook(output="forty-two", papermill=RUN),
    )
    stamp = {
        "time": "2026-01-01T10:00:05",
        "commit": "abc123",
        "python": "3.11",
        "device": "cpu",
        "machine": "m",
        "seed": 0,
        "versions": {"numpy": "2.4"},
    }
    for run, value in {"results/laptop": FVU, "data/results/full": FVU | {"value": 0.309}}.items():
        content = {
            "chapter": "chapter",
            "profile": run,
            "provenance": stamp,
            "values": {"joint/fvu": value},
        }
        write(tmp_path / run / "chapter.json", content)
    entry = {
        "id": "gain",
        "claim": "C1",
        "chapter": "chapter",
        "label": "Error cut",
        "paper": -41.3,
        "unit": "%",
        "where": "Abstract",
        "controlled": "chapter:joint/fvu",
    }
    sizes = {"setup_topk": (1024, 84), "setup_n_features": (50000, 4096)}
    sizes["setup_joint_tokens"] = 5_000_000, 819_200
    k = {"label": "Active features k", "unit": "features"}
    settings = [entry | k | {"id": key, "paper": paper} for key, (paper, _) in sizes.items()]
    write(tmp_path / "data/paper_values.json", [entry, *settings])
    row = {
        "id": "gain",
        "paper": -41.3,
        "as_published": None,
        "controlled": FVU,
        "verdict": "partly",
        "why": "It is | smaller.",
        "chapter": "chapter",
        "each_seed": [],
    }
    settings = [
        row
        | {"id": key, "paper": paper, "controlled": {"value": ours, "ci": None}}
        | {"verdict": "setting"}
        for key, (paper, ours) in sizes.items()
    ]
    for run in ("results/laptop", "data/results/laptop"):
        write(tmp_path / run / "ledger.json", [row, *settings])
    full = row | {"verdict": "reproduced", "controlled": FVU | {"value": 0.309}}
    full["each_seed"] = ["undecided", "reproduced", "not reproduced", "undecided"]
    write(tmp_path / "data/results/full/ledger.json", [full, *settings])
    return tmp_path


def build(folder: Path) -> str:
    """Build, and return the warnings, which `jupyter-book build -W` makes errors; raises what stops a build by itself."""
    warnings = io.StringIO()
    app = SphinxTestApp("html", srcdir=folder, warning=warnings)
    try:
        app.build()
    finally:
        app.cleanup()
    return re.sub("\x1b.*?m", "", warnings.getvalue())


def page(folder: Path, name: str) -> str:
    return (folder / "_build/html" / f"{name}.html").read_text(encoding="utf-8")


def killed_while_it_writes(folder: Path) -> None:
    """A build that gets SIGKILL before its second page, in a process of its own."""
    pages = []

    def kill(app, name, *_):
        pages.append(name)
        if len(pages) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    if not (child := os.fork()):
        app = SphinxTestApp("html", srcdir=folder, warning=io.StringIO())
        app.connect("html-page-context", kill)
        app.build()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


def test_a_build_that_is_killed_leaves_no_page_as_it_was(book):
    """Sphinx would take up what it kept from the killed build, say that no page is out of date, and write none. What it keeps is pickled."""
    build(book)
    assert "forty-two" in page(book, "notebooks/chapter")
    write(
        book / "_build/executed/laptop/notebooks/chapter.ipynb",
        notebook(output="forty-three", papermill=RUN),
    )
    killed_while_it_writes(book)
    assert "forty-two" in page(book, "notebooks/chapter"), "the kill came after the page"
    build(book)
    assert "forty-three" in page(book, "notebooks/chapter")
    assert not list(book.rglob("*.pickle")) and not list(book.rglob("*.doctree"))


def test_book_shows_what_was_executed_and_measured(book):
    assert build(book) == ""
    chapter, ledger, index = (
        page(book, "notebooks/chapter"),
        page(book, "book/ledger"),
        page(book, "index"),
    )
    assert "forty-two" in chapter
    assert (
        "0.31 [0.30, 0.32]" in chapter
        and "n = 1,502 articles; controlled; from chapter: joint/fvu" in chapter
    )
    names = BeautifulSoup(chapter, "html.parser").find("table")
    assert [cell.text for cell in names.find_all("td")] == [
        "joint model",
        "a joint",
        "SAE at a quarter of k",
        "sae_cat",
    ]
    assert names.abbr["title"].startswith("joint: SAE and NFM trained together")
    assert "active features | per token" in chapter and "learning rate" in chapter
    assert (
        "papermill notebooks/chapter.ipynb _build/executed/laptop/notebooks/chapter.ipynb -k python3 --cwd . -p k 42"
        in BeautifulSoup(chapter, "html.parser").text
    )
    assert (
        ">−41.3 %<" in index and ">−41.3<" in index and "n = <abbr" in index and ">1502<" in index
    )
    assert ">0.309<" in index and "from published/chapter: joint/fvu" in index
    assert ">84</abbr>" in index and "Active features k; the paper: 1024 features" in index
    scale, _ = BeautifulSoup(index, "html.parser").find_all("table")
    assert [[td.text for td in tr.find_all("td")] for tr in scale.tbody.find_all("tr")] == [
        ["features, d_sae", "50,000", "4,096", "0.082"],
        ["features per dimension, d_sae / d_in", "15.6", "7.11", "0.46"],
        ["active features per dimension, k / d_in", "0.32", "0.146", "0.46"],
        ["active share of the features, k / d_sae", "0.0205", "0.0205", "1"],
        ["training tokens, joint model", "5,000,000", "819,200", "0.16"],
        ["training tokens per feature", "100", "200", "2"],
    ]
    assert 'href="book/ledger.html#ledger-gain"' in index and 'id="ledger-gain"' in ledger
    assert (
        "0.3123 [0.305, 0.32]" in ledger
        and "It is | smaller." in ledger
        and "verdict-partly" in ledger
    )
    tables = BeautifulSoup(ledger, "html.parser").find_all("table")
    (differ,) = (t for t in tables if "full" in t.thead.text)
    (alone,) = (t for t in tables if "alone" in t.thead.text)
    assert [cell.text.strip() for cell in alone.tbody.find_all("td")] == [
        "Error cut",
        "reproduced",
        "1 of 4",
        "2 x undecided1 x not reproduced",
        "partly",
    ]
    said = " ".join(BeautifulSoup(ledger, "html.parser").text.split())
    assert "1 of 4 published verdicts rest on several seeds. 0 of them each seed" in said
    assert "In 1 two of them, or one and all together, would have decided differently" in said
    assert "decides otherwise in 1." in said
    assert [cell.text.strip() for cell in differ.tbody.find_all("td")] == [
        "Error cut",
        "partly0.3123 [0.305, 0.32]",
        "reproduced0.309 [0.305, 0.32]",
    ]
    assert differ.a["href"] == "#ledger-gain"
    words = " ".join(BeautifulSoup(index, "html.parser").text.split())
    assert "partly ≠ full reproduced 0.309 [0.305, 0.32]" in words
    assert "reproduced ≠ laptop partly 0.3123 [0.305, 0.32]" in words
    assert "C1 Less error −41.3 % – 0.309 [0.305, 0.32] FVU reproduced ≠ laptop partly" in words
    assert "partly ≠ full reproduced 0.309" in " ".join(
        BeautifulSoup(ledger, "html.parser").text.split()
    )
    assert "abc123" in page(book, "status") and "2026-01-01 10:00" in page(book, "status")
    downloads = {
        json.loads(f.read_text(encoding="utf-8"))["metadata"].get("papermill") is None
        for f in (book / "_build/html/_downloads").rglob("*.ipynb")
    }
    assert downloads == {True, False}

    # only what depends on a file that changed is written again, and it shows the new number
    written = (book / "_build/html/book/ledger.html").stat().st_mtime_ns
    results = book / "results/laptop/chapter.json"
    results.write_text(
        results.read_text(encoding="utf-8").replace("0.31234", "0.3176"), encoding="utf-8"
    )
    assert build(book) == ""
    assert "0.32 [0.30, 0.32]" in page(book, "notebooks/chapter")
    assert (book / "_build/html/notebooks/chapter.html").stat().st_mtime_ns > written


def test_runs_that_agree_and_the_published_profile_itself(book, monkeypatch):
    file = book / "results/laptop/ledger.json"
    rows = json.loads(file.read_text(encoding="utf-8"))
    write(file, [rows[0] | {"verdict": "reproduced"}, *rows[1:]])
    (book / "results/laptop").rename(book / "results/full")
    (book / "_build/executed/laptop").rename(book / "_build/executed/full")
    monkeypatch.setenv("PROFILE", "full")
    assert build(book) == ""
    words = " ".join(BeautifulSoup(page(book, "index"), "html.parser").text.split())
    assert "reproduced, reproduced, n =" in words and "≠" not in words and "= full" not in words
    ledger = BeautifulSoup(page(book, "book/ledger"), "html.parser").text
    assert "This book shows full itself." in ledger

    (book / "results/full").rename(book / "results/laptop")
    (book / "_build/executed/full").rename(book / "_build/executed/laptop")
    monkeypatch.setenv("PROFILE", "laptop")
    assert build(book) == ""
    words = " ".join(BeautifulSoup(page(book, "index"), "html.parser").text.split())
    assert "reproduced = full: 0.309 [0.305, 0.32]" in words and "≠" not in words
    assert "agree on all 4 numbers" in page(book, "book/ledger")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda b: (b / "_build/executed/laptop/notebooks/chapter.ipynb").unlink(),
            ["notebooks/chapter", "not been executed", "papermill"],
        ),
        (
            lambda b: write(
                b / "_build/executed/laptop/notebooks/chapter.ipynb",
                notebook(papermill=RUN | {"exception": True}),
            ),
            ["notebooks/chapter", "failed"],
        ),
        (
            lambda b: write(
                b / "_build/executed/laptop/notebooks/chapter.ipynb",
                notebook(papermill=RUN | {"end_time": None}),
            ),
            ["interrupted"],
        ),
        (
            lambda b: write(b / "_build/executed/laptop/notebooks/chapter.ipynb", "{"),
            ["notebooks/chapter", "not a notebook"],
        ),
        (
            lambda b: write(b / "index.md", "# B\n\n{result}`chapter:nothing`\n"),
            ["index", "chapter:nothing", "joint/fvu"],
        ),
        (
            lambda b: write(b / "index.md", "# B\n\n{result}`missing:x`\n"),
            ["index", "missing.json"],
        ),
        (
            lambda b: write(b / "index.md", "# B\n\n{result}`chapter:joint/fvu:.3q`\n"),
            ["index", ".3q"],
        ),
        (
            lambda b: write(b / "index.md", "# B\n\n{paper}`nothing`\n"),
            ["index", "nothing", "gain"],
        ),
        (
            lambda b: write(b / "index.md", "# B\n\n{paper}`gain:ci`\n"),
            ["index", "gain:ci", "value"],
        ),
        (
            lambda b: write(b / "index.md", "# B\n\n{setting}`gain`\n"),
            ["index", "gain", "setup_topk"],
        ),
        (
            lambda b: write(b / "index.md", "# B\n\n{verdict}`nothing`\n"),
            ["index", "nothing", "ledger"],
        ),
        (
            lambda b: write(b / "index.md", "# B\n\n{badge}`excellent`\n"),
            ["excellent", "reproduced"],
        ),
        (
            lambda b: write(b / "index.md", "# B\n\n```{picture} none\n:alt: x\n```\n"),
            ["index", "figures/laptop/none.svg"],
        ),
        (
            lambda b: write(b / "index.md", "# B\n\n```{atlas}\n```\n"),
            ["index", "atlas.json", "featint atlas --profile laptop"],
        ),
        (
            lambda b: write(
                b / "index.md", "# B\n\n```{predict} x\n:ask: y\n:measured: chapter:no\n?\n```\n"
            ),
            ["index", "x", "'no'", "joint/fvu"],
        ),
        (
            lambda b: write(b / "index.md", "# B\n\n```{check} nothing\n```\n"),
            ["index", "nothing", "fm-cost"],
        ),
        (
            lambda b: write(b / "index.md", "# B\n\n```{explore} nothing\n```\n"),
            ["index", "nothing", "experiment, splice, split, switches"],
        ),
        (
            lambda b: write(b / "index.md", "# B\n\n```{explore} switches published\n```\n"),
            ["index", "full/waterfall.json is missing", "featint notebook waterfall"],
        ),
        (lambda b: (b / "results/laptop/ledger.json").unlink(), ["ledger.json", "featint ledger"]),
    ],
)
def test_build_stops_and_names_page_and_key(book, change, said):
    change(book)
    with pytest.raises(ExtensionError) as error:
        build(book)
    assert [words for words in said if words not in str(error.value)] == []


def ask(book: Path, *glued: str) -> None:
    """Boxes on the chapter, whose notebook glues these numbers as `guess`, on a page without notebook, and the list of them."""
    outputs = [
        {
            "output_type": "display_data",
            "data": {"application/papermill.record/text/plain": number},
            "metadata": {
                "scrapbook": {"name": "guess", "mime_prefix": "application/papermill.record/"}
            },
        }
        for number in glued
    ]
    executed = notebook(output="forty-two", papermill=RUN)
    executed["cells"][2]["outputs"] += outputs
    text = "\n\n```{predict} guess\n:ask: share & more\n:format: .2f\nHow *large*?\n```\n\n```{check} designs-by-hand\n```\n"
    executed["cells"][0]["source"] += text
    write(book / "_build/executed/laptop/notebooks/chapter.ipynb", executed)
    write(
        book / "status.md",
        "# S\n\n```{predict} told\n:ask: FVU of the joint model\n:measured: published/chapter:joint/fvu\nB?\n```\n\n```{predict} later\n:ask: yours\nC?\n```\n",
    )
    write(book / "book/your_answers.md", "# Yours\n\n```{answers}\n```\n")
    index = book / "index.md"
    with_list = index.read_text(encoding="utf-8").replace(
        "\nstatus\n", "\nstatus\nbook/your_answers\n"
    )
    write(index, with_list)


def test_boxes_ask_before_they_show_and_are_listed(book):
    ask(book, "np.float64(0.8125)")
    assert build(book) == ""
    chapter = BeautifulSoup(page(book, "notebooks/chapter"), "html.parser")
    guess, by_hand = chapter.select("form.answer")
    assert guess.has_attr("hidden") and guess.label.text.strip() == "share & more"
    assert (guess["data-value"], guess["data-shown"]) == ("0.8125", "0.81")
    assert guess.find_next_sibling(class_="measured").text.strip() == "Measured: 0.81"
    assert chapter.select_one(".admonition em").text == "large"
    assert float(by_hand["data-value"]) == -4 and float(by_hand["data-tolerance"]) < 0.01
    assert dict(json.loads(by_hand["data-wrong"]))[4.0].startswith("Not yet")

    told, later = BeautifulSoup(page(book, "status"), "html.parser").select("form.answer")
    assert (told["data-value"], told["data-shown"]) == ("0.309", "0.309")
    shown = told.find_next_sibling(class_="measured")
    assert (
        shown.text.strip() == "Measured: 0.309 [0.305, 0.32]" and "published" in shown.abbr["title"]
    )
    assert later["data-value"] == "" and later.find_next_sibling() is None

    listed = BeautifulSoup(page(book, "book/your_answers"), "html.parser").select("#answers li")
    assert [row["data-key"] for row in listed] == ["guess", "designs-by-hand", "told", "later"]
    assert listed[0].a["href"] == "../notebooks/chapter.html#answer-guess"
    assert listed[2].a.text == "S: FVU of the joint model"

    write(book / "status.md", "# S\n\nNothing is asked any more.\n")
    assert build(book) == ""
    listed = BeautifulSoup(page(book, "book/your_answers"), "html.parser").select("#answers li")
    assert [row["data-key"] for row in listed] == ["guess", "designs-by-hand"]


@pytest.mark.parametrize("glued", [[], ["'much'"]])
def test_a_box_without_a_number_stops_the_build(book, glued):
    ask(book, *glued)
    with pytest.raises(
        ExtensionError, match="notebooks/chapter: its notebook glues no number 'guess'"
    ):
        build(book)


def test_missing_figure_is_a_warning_which_is_an_error(book):
    write(book / "index.md", "# B\n\n![](/_build/figures/laptop/none.svg)\n")
    assert "index.md" in (warning := build(book)) and "none.svg" in warning


def test_unknown_profile_is_refused(book, monkeypatch):
    monkeypatch.setenv("PROFILE", "huge")
    with pytest.raises(ExtensionError, match=r"'huge'.*'laptop'"):
        build(book)


def test_every_module_is_on_one_api_page():
    import featint_book

    files = [f for package in ("featint", "companion") for f in (ROOT / package).rglob("*.py")]
    watched, shown = [], []
    for page in sorted((ROOT / "book").glob("api*.md")):
        source = [page.read_text(encoding="utf-8")]
        featint_book.list_modules(
            SimpleNamespace(env=SimpleNamespace(note_dependency=watched.append)),
            f"book/{page.stem}",
            source,
        )
        shown += re.findall(r"automodule:: (\S+)", source[0])
    assert (
        len(shown) == len(set(shown)) == len(watched) == len(files) - 2
    )  # without the packages themselves


def test_a_pattern_that_no_module_fits_is_refused():
    import featint_book

    with pytest.raises(
        ExtensionError, match=r"book/x: no module fits 'chapter\.\*'; there are .*chapters"
    ):
        featint_book.list_modules(None, "book/x", ["<!-- modules: chapter.* -->"])
