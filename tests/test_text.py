"""Text is UTF-8 whatever the locale: every place that opens, reads or writes text says so."""

import ast
import json
import os
import subprocess
import sys

import pytest

from companion.places import PROJECT

SOURCES = sorted(
    f
    for pattern in "featint/**/*.py companion/**/*.py book/_*/*.py benchmarks/*.py tests/**/*.py Snakefile notebooks/*.ipynb".split()
    for f in PROJECT.glob(pattern)
)
BYTES_OR_OWN_FORMAT = {"os", "archive", "Image"}
"""Whose `open` has no encoding."""


def code(file):
    text = file.read_text(encoding="utf-8")
    if file.name == "Snakefile":  # Python up to its first rule, but for what runs at the start
        return (
            text.partition("\nrule ")[0]
            .replace("\nonstart:", "\nif True:")
            .replace("\nonsuccess:", "\nif True:")
            .replace("\nlocalrules:", "\nif True:")
        )
    if file.suffix != ".ipynb":
        return text
    cells = [c for c in json.loads(text)["cells"] if c["cell_type"] == "code"]
    return "\n".join("".join(c["source"]) for c in cells)


def silent(call):
    """Whether a call leaves the encoding of text to the locale."""
    given = {word.arg: word.value for word in call.keywords}
    if "encoding" in given:
        return False
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    whose = getattr(getattr(call.func, "value", None), "id", "")
    if name in ("open", "fdopen") and (whose not in BYTES_OR_OWN_FORMAT or name == "fdopen"):
        modes = [a.value for a in [*call.args, *given.values()] if isinstance(a, ast.Constant)]
        return not any("b" in mode for mode in modes if isinstance(mode, str))
    return name in ("read_text", "write_text") or "text" in given and name in ("run", "Popen")


@pytest.mark.parametrize("file", SOURCES, ids=lambda f: str(f.relative_to(PROJECT)))
def test_every_text_file_has_its_encoding(file):
    calls = [node for node in ast.walk(ast.parse(code(file))) if isinstance(node, ast.Call)]
    assert [f"line {c.lineno}: {ast.unparse(c)}" for c in calls if silent(c)] == []


@pytest.mark.parametrize("said", ["ascii", "latin-1"])
def test_committed_results_are_read_in_another_locale(said):
    """In the C locale without UTF-8 mode; signs that the terminal lacks become question marks."""
    command = [sys.executable, "-m", "companion.cli", "compare"]
    command += ["data/results/laptop", "data/results/full"]
    another = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": f"{said}:strict"}
    ours = {"PYTHONUTF8": "1"}
    here, there = (
        subprocess.run(command, cwd=PROJECT, env=os.environ | names, capture_output=True)
        for names in (ours, another)
    )
    assert there.returncode == 0, there.stderr.decode()
    assert there.stdout == here.stdout.decode().encode(said, errors="replace")
