"""Articles to windows: nothing lost, nothing in two splits, every token's origin known."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from featint import corpora
from featint.config import CorpusConfig, LMConfig
from featint.corpora import Article, Windows
from featint.store import StoreError

LM = LMConfig(name="letters")
SEPARATOR = 0


def encode(texts):
    return [[ord(c) for c in text] for text in texts]


@pytest.fixture
def config(corpus_file):
    return CorpusConfig(
        name=str(corpus_file), seq_len=16, validation_fraction=0.1, test_fraction=0.2
    )


def made(config):
    return corpora.windows(config, LM, lambda: (encode, SEPARATOR))


def test_pack_by_hand():
    windows = corpora.pack(
        [2, 0, 1], [[11, 12, 13], [21], [31, 32]], [7, 8, 9], SEPARATOR, seq_len=4
    )
    assert windows.tokens.tolist() == [
        [0, 31, 32, 0],
        [0, 11, 12, 13],
    ]  # the stream 31 32 | 11 12 13 | 21; "0 21" does not fill a window
    assert windows.article.tolist() == [
        [2, 2, 2, 0],
        [0, 0, 0, 0],
    ]  # a separator belongs to the article after it
    assert windows.topic.tolist() == [[9, 9, 9, 7], [7, 7, 7, 7]]


def test_pack_refuses_too_little_text():
    with pytest.raises(ValueError, match="2 tokens do not fill one window of seq_len = 8"):
        corpora.pack([0], [[5, 6]], [0], SEPARATOR, seq_len=8)


def test_no_article_is_in_two_splits_and_all_are_used(config):
    found = corpora.articles(config)
    parts = corpora.split(found, config)
    assert sorted(sum(parts.values(), [])) == list(range(len(found)))
    corpus = made(config)
    sets = [set(w.article.flatten().tolist()) for w in corpus.windows.values()]
    assert not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])


def test_split_is_stratified_and_seeded(config):
    found = corpora.articles(config)
    parts = corpora.split(found, config)
    assert {split: Counter(found[i].topic for i in part) for split, part in parts.items()} == {
        "train": dict.fromkeys(("Geography", "History", "Mathematics"), 14),
        "validation": dict.fromkeys(("Geography", "History", "Mathematics"), 2),
        "test": dict.fromkeys(("Geography", "History", "Mathematics"), 4),
    }
    assert parts == corpora.split(found, config) != corpora.split(found, replace(config, seed=1))


def test_windows_hold_the_text(config):
    corpus = made(config)
    for split, windows in corpus.windows.items():
        assert (windows.tokens[:, 0] == corpus.separator).all()
        stream = "".join(map(chr, windows.tokens[:, 1:].flatten().tolist()))
        rows = list(dict.fromkeys(windows.article.flatten().tolist()))  # in order of appearance
        texts = {a.title: a.text for a in corpora.articles(config)}
        assert "\0".join(texts[corpus.titles[row]] for row in rows).startswith(stream), split
        topic_of = {a.title: a.topic for a in corpora.articles(config)}
        for row, topic in zip(
            windows.article.flatten().tolist(), windows.topic.flatten().tolist(), strict=True
        ):
            assert topic_of[corpus.titles[row]] == corpus.topics[topic]


def test_articles_are_cleaned_and_sorted(tmp_path):
    file = tmp_path / "pages.json"
    pages = {
        "Zeta": {"topic": "b", "extract": "10\u00a0km of road "},
        "Alpha": {"topic": "a", "extract": "Alpha may refer to:"},
        "Beta": {"topic": "a", "extract": ""},
        "Eta": {"topic": "a", "extract": "a letter"},
    }
    file.write_text(json.dumps(pages), encoding="utf-8")
    assert corpora.articles(CorpusConfig(name=str(file))) == [
        Article("Eta", "a", "a letter"),
        Article("Zeta", "b", "10 km of road"),
    ]


def test_windows_are_made_once(config):
    first = made(config)
    again = corpora.windows(config, LM, lambda: pytest.fail("no tokenizer is needed"))
    assert all(
        torch.equal(a, b)
        for split in first.windows
        for a, b in zip(first.windows[split], again.windows[split], strict=True)
    )
    assert (again.titles, again.topics, again.separator) == (first.titles, first.topics, SEPARATOR)


def test_more_windows_than_there_are_names_both_numbers(config):
    windows = made(config).windows["test"]
    n = len(windows.tokens)
    assert all(torch.equal(a, b[:2]) for a, b in zip(windows.first(2), windows, strict=True))
    with pytest.raises(ValueError, match=f"{n + 1} windows were asked for, but the corpus has {n}"):
        windows.first(n + 1)
    assert len(Windows(*windows).first(None).tokens) == n


def test_a_changed_file_is_noticed(config, tmp_path):
    file = tmp_path / "mine.json"
    text = Path(config.name).read_text(encoding="utf-8")
    file.write_text(text, encoding="utf-8")
    mine = replace(config, name=str(file))
    made(mine)
    file.write_text(text.replace("river", "brook"), encoding="utf-8")
    with pytest.raises(StoreError, match="mine.json has changed since"):
        made(mine)


@pytest.mark.parametrize(
    "content, message",
    [
        ("not json", "must be JSON of the form"),
        ('["a list"]', "must be JSON of the form"),
        ('{"A": {"topic": "no text"}}', "must be JSON of the form.*document 1 .'A'.: .*text"),
        ('{"A": {"extract": "", "topic": "t"}}', "holds no article with text"),
    ],
)
def test_a_corpus_file_of_another_form(tmp_path, content, message):
    file = tmp_path / "bad.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        corpora.articles(CorpusConfig(name=str(file)))


PAGES = pd.DataFrame(
    {
        "title": ["Cité", "Empty", "None", "Hebrew"],
        "topic": ["a", "b", "b", None],
        "text": ["one\u00a0city, 😀", "", None, " שלום\nsecond line "],
    }
)
READ = [
    Article("Cité", "a", "one city, 😀"),
    Article("Hebrew", "Uncategorized", "שלום\nsecond line"),
]


@pytest.mark.parametrize(
    "name, write",
    [
        ("x.csv", lambda pages, file: pages.to_csv(file, index=False)),
        ("bom.csv", lambda pages, file: pages.to_csv(file, index=False, encoding="utf-8-sig")),
        ("x.parquet", lambda pages, file: pages.to_parquet(file)),
        ("x.jsonl", lambda pages, file: pages.to_json(file, orient="records", lines=True)),
        ("x.json", lambda pages, file: pages.set_index("title").to_json(file, orient="index")),
    ],
)
@pytest.mark.parametrize("names", [{}, {"text": "content", "topic": "label"}])
def test_a_text_may_be_a_table_of_any_kind(tmp_path, name, write, names):
    """Documents stay apart, empty ones are left out, columns go by their usual names."""
    write(PAGES.rename(columns=names), tmp_path / name)
    assert corpora.articles(CorpusConfig(name=str(tmp_path / name))) == READ


def test_a_folder_has_a_document_in_each_file_and_a_file_one_in_each_paragraph(tmp_path):
    texts = {"b.txt": "two\r\n\r\nparts", "a/c.txt": "\ufeffthree", "empty.txt": "", "x.md": "not"}
    place = tmp_path / "texts"
    for name, text in texts.items():
        (place / name).parent.mkdir(exist_ok=True, parents=True)
        (place / name).write_bytes(text.encode())
    folder = CorpusConfig(name=str(place))
    assert corpora.articles(folder) == [
        Article("c", corpora.NO_TOPIC, "three"),
        Article("b", corpora.NO_TOPIC, "two\n\nparts"),
    ]
    alone = corpora.articles(replace(folder, name=str(place / "b.txt")))
    assert [(a.title, a.text) for a in alone] == [("b", "two"), ("b 2", "parts")]
    (place / "d.jsonl").write_text('{"text": "four", "topic": 4}\n', encoding="utf-8")
    assert corpora.articles(folder)[-1] == Article("d", "4", "four")


def test_a_folder_that_has_changed_is_noticed(tmp_path):
    (folder := tmp_path / "texts").mkdir()
    for i in range(30):
        (folder / f"{i}.txt").write_text("some words " * 9, encoding="utf-8")
    config = CorpusConfig(name=str(folder), seq_len=16)
    assert len(made(config).titles) == 30
    (folder / "more.txt").write_text("more", encoding="utf-8")
    with pytest.raises(StoreError, match="has changed since"):
        made(config)


LATIN = "café au lait ".encode("latin-1") * 250_000


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("x.json", b'{"A": {"text": "' + LATIN + b'"}}', "byte 0xe9 in position 19"),
        ("x.txt", LATIN, "must be text, in UTF-8.* byte 0xe9 in position 3"),
        ("x.csv", b"text\n" + LATIN, "byte 0xe9"),
        ("x.jsonl", b'{"text": "' + LATIN + b'"}\n', "byte 0xe9"),
        ("x.json", b'{"A": {"text": "a"}, "B": {"text": "b \\ud800"}}', "2 .'B'.: .*ud800"),
        ("x.jsonl", b'{"text": "a"}\n{"text": "b \\ud800"}\n', "surrogate .* row 1"),
        ("x.csv", b"words,topic\na,b\n", 'a column "text".*document 1'),
        ("x.parquet", b"version https://git-lfs", "[Pp]arquet"),
        ("x.doc", b"text", "is not known; .*end in .json, .txt, .jsonl, .csv, .parquet"),
    ],
)
def test_text_that_cannot_be_read_is_named_with_its_place_in_a_line(
    tmp_path, name, content, message
):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as refused:
        corpora.articles(CorpusConfig(name=str(tmp_path / name)))
    assert name in str(refused.value) and len(str(refused.value)) < 600


def test_unknown_corpus():
    with pytest.raises(
        ValueError,
        match="corpus name = 'brown' is not known; allowed: 'wikipedia-summaries', or the path",
    ):
        corpora.articles(CorpusConfig(name="brown"))


def test_too_few_articles_for_a_split(tmp_path):
    file = tmp_path / "two.json"
    file.write_text(
        json.dumps({name: {"topic": "t", "extract": "some text"} for name in "AB"}),
        encoding="utf-8",
    )
    with pytest.raises(ValueError, match="2 articles leave the split 'validation' empty"):
        made(CorpusConfig(name=str(file)))
