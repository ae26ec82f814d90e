"""Notebooks stay thin, clean and parameterised."""

import ast
import shutil
import symtable

import nbformat
import papermill
import pytest
from IPython.core.interactiveshell import InteractiveShell

from companion import dependencies, notebook, places, profiles, variants
from featint import store
from featint.store import StoreError

FILES = [notebook.FOLDER / f"{name}.ipynb" for name in notebook.names()]


@pytest.fixture(params=FILES, ids=lambda f: f.stem)
def file(request):
    return request.param


@pytest.fixture
def cells(file):
    return nbformat.read(file, as_version=4).cells


def code(cells):
    return [c for c in cells if c.cell_type == "code"]


def test_no_outputs_and_no_counts_in_git(cells):
    assert all(not c.outputs and c.execution_count is None for c in code(cells))


def test_parameters_are_annotated_explained_and_seen_by_papermill(cells, file):
    tagged = [c for c in code(cells) if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1 and tagged[0] is code(cells)[0]
    for node, line in zip(
        ast.parse(tagged[0].source).body, tagged[0].source.strip().splitlines(), strict=True
    ):
        assert isinstance(node, ast.AnnAssign) and "  # " in line, line
    seen = papermill.inspect_notebook(file)
    assert list(seen) == [node.target.id for node in ast.parse(tagged[0].source).body], (
        "papermill reads `name: type = value  # help` with one ="
    )
    assert all(parameter["help"] for parameter in seen.values())


def test_notebooks_call_the_package_and_draw(cells):
    assert len(code(cells)) <= 40
    for cell in code(cells):
        tree = ast.parse(cell.source)
        for node in ast.walk(tree):
            assert not isinstance(node, ast.ClassDef), cell.source
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno - node.lineno < 8, cell.source
        assert (
            len(
                [
                    line
                    for line in cell.source.splitlines()
                    if line.strip() and not line.startswith("# needs ")
                ]
            )
            <= 14
        ), cell.source


def test_a_chapter_begins_with_words(cells):
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")


VALUES = {  # of each kind: a second value, forms that mean the same, and what is refused
    "int": (
        3,
        [3.0, "3", "3.0", "3e0", " 3 "],
        [True, [3], 3.5, "true", "three", "", "nan", -1, 0],
    ),
    "index": (0, [0.0, "0", "0e4"], [False, [0], 0.5, "x", -1, "-1", 2**32, 1e300]),
    "float": (0.5, ["0.5", "5e-1", "5E-1"], [True, [0.5], "half", "", "nan", float("inf"), -0.5]),
    "bool": (False, [0, "False", "false", "no", "0"], [2, 0.5, "perhaps", "", [], [False]]),
    "str": ("other", [], [3, 0.5, True, ["other"]]),
    "list[float]": (
        [0.5, 2.0],
        [[0.5, 2], ["0.5", 2], "[0.5, 2]", "0.5, 2"],
        [1, "1", [], [True], [0], ["x"]],
    ),
}


class Kernel(dict):
    """What a Jupyter kernel keeps: its variables, and the cells that it has run."""

    def __init__(self, *cells):
        self["In"] = [""]
        self.run(*cells)

    def run(self, *cells):
        for cell in cells:
            self["In"].append(cell)
            exec(cell, self)


class TestEveryParameter:
    """What stands in the first cell of a notebook is what it takes, by whatever way."""

    @pytest.fixture
    def cell(self, cells):
        return code(cells)[0].source

    def kinds(self, cell):
        for line in ast.parse(cell).body:
            name, kind = line.target.id, ast.unparse(line.annotation)
            assert kind in notebook.KINDS, f"{name}: {kind} is no kind of parameter"
            yield name, *VALUES["index" if name in ("seed", "feature") else kind]

    def check(self, cell, name, value):
        return notebook.check(Kernel(cell, f"# Parameters\n{name} = {value!r}\n"))[name]

    def test_defaults_are_taken(self, cell):
        kernel = Kernel(cell)
        before = dict(kernel)
        notebook.check(kernel)
        assert {**kernel} == before

    def test_values_and_what_means_the_same_are_taken(self, cell):
        for name, value, forms, _ in self.kinds(cell):
            for form in (value, *forms):
                found = self.check(cell, name, form)
                assert found == value and type(found) is type(value), (name, form)

    def test_none_is_taken_where_it_is_the_default(self, cell):
        for name, optional in {
            n.target.id: ast.unparse(n.value) == "None" for n in ast.parse(cell).body
        }.items():
            if optional:
                assert self.check(cell, name, None) is self.check(cell, name, "None") is None
            else:
                with pytest.raises(ValueError, match=f"^{name} = None \\(NoneType\\) must be "):
                    self.check(cell, name, None)

    def test_others_are_refused_by_name_value_and_type(self, cell):
        for name, _, _, wrong in self.kinds(cell):
            for value in wrong:
                with pytest.raises(ValueError) as error:
                    notebook.check(
                        Kernel(cell, f"{name} = {value!r}".replace("inf", "float('inf')"))
                    )
                assert str(error.value).startswith(
                    f"{name} = {value!r} ({type(value).__name__}) must be "
                )

    def test_they_are_checked_before_any_work(self, cells):
        calls = ("notebook.start(globals())", "notebook.check(globals())")
        assert any(call in code(cells)[1].source for call in calls)

    def test_no_cell_gives_their_names_to_something_else(self, cell, cells):
        parameters = {line.target.id for line in ast.parse(cell).body}
        for later in code(cells)[1:]:
            table = symtable.symtable(later.source, "cell", "exec")
            assigned = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned()}
            assert not assigned & parameters, later.source


class TestStart:
    """`notebook.start` catches what papermill only logs, as often as a reader calls it."""

    PARAMETERS = 'profile: str = "smoke"\nk: int = None\nn_shown: int = 3'

    def test_knobs_reach_the_profile(self):
        assert notebook.start(Kernel(self.PARAMETERS, "# Parameters\nk = 5.0\n")).sae.k == 5
        assert notebook.start(Kernel(self.PARAMETERS)).label == "smoke"

    def test_a_parameter_of_the_notebook_alone_makes_another_run(self):
        def label(shown):
            return notebook.start(
                Kernel(self.PARAMETERS, f"# Parameters\nn_shown = {shown}\n")
            ).label

        assert label(3) == "smoke"
        assert label(4).startswith("custom/smoke-") and label(4) != label(5)

    def test_the_same_setting_is_the_same_run(self):
        runs = [notebook.start(Kernel(self.PARAMETERS, f"k = {k!r}")) for k in (5, 5.0, "5")]
        assert len({run.label for run in runs}) == 1

    def test_without_a_history_the_annotations_hold(self):
        names = {"__annotations__": {"profile": str, "k": int}, "profile": "smoke", "k": "5"}
        assert notebook.start(names).sae.k == 5
        with pytest.raises(ValueError, match="k = True"):
            notebook.start(names | {"k": True})

    @pytest.mark.parametrize("cells", [["# Parameters\nkk = 5\n"], [PARAMETERS + "\nkk = 5"]])
    def test_a_misspelt_parameter_is_refused(self, cells):
        with pytest.raises(ValueError, match="no parameter 'kk'; it has profile, k, n_shown"):
            notebook.start(Kernel(self.PARAMETERS, *cells))

    def test_a_reader_edits_and_runs_again(self):
        kernel = Kernel(self.PARAMETERS, "# Parameters\nkk = 5\n")
        with pytest.raises(ValueError, match="no parameter 'kk'"):
            notebook.start(kernel)
        kernel.run("# Parameters\nk = 5\n", "mine = 'a note'", "import math")
        kernel["p"] = notebook.start(kernel)
        kernel.run("began = 0.0", "models = {}", "scratch: dict = {}", "k = 6")
        assert notebook.start(kernel).sae.k == 6
        kernel["In"].append("a cell that (did not run")
        kernel.run(self.PARAMETERS.replace("None", "7"))
        assert notebook.start(kernel).sae.k == 7
        kernel.run("k = [7]")
        with pytest.raises(
            ValueError, match=r"k = \[7\] \(list\) must be a whole number of at least 1"
        ):
            notebook.start(kernel)
        kernel.run(self.PARAMETERS)
        assert notebook.start(kernel).label == "smoke"

    def test_unknown_notebooks_and_parameters_are_refused_before_anything_runs(
        self, tmp_path, monkeypatch
    ):
        with pytest.raises(ValueError, match="notebook = 'nothing' is not known"):
            notebook.run("nothing", "smoke", {})
        nb = nbformat.v4.new_notebook(
            cells=[
                nbformat.v4.new_code_cell(
                    "k: int = 3  # a number", metadata={"tags": ["parameters"]}
                )
            ]
        )
        nb.metadata["kernelspec"] = {
            "name": "python3",
            "language": "python",
            "display_name": "Python 3",
        }
        nbformat.write(nb, tmp_path / "tiny.ipynb")
        monkeypatch.setattr(notebook, "FOLDER", tmp_path)
        with pytest.raises(ValueError, match="tiny has no parameter 'kk'; it has k"):
            notebook.run("tiny", "smoke", {"kk": 5}, tmp_path / "out.ipynb")
        with pytest.raises(ValueError, match=r"k = '\[1\]' \(str\) must be a whole number of at "):
            notebook.run("tiny", "smoke", {"k": "[1]"}, tmp_path / "out.ipynb")
        assert not (tmp_path / "out.ipynb").exists()


class TestDrafts:
    """Somebody's own notebooks in the folder, and broken ones."""

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path, monkeypatch):
        monkeypatch.setattr(notebook, "FOLDER", tmp_path / "notebooks")
        monkeypatch.setattr(places, "TOC", tmp_path / "_toc.yml")
        (tmp_path / "notebooks").mkdir()
        chapters = (
            "chapters:\n  - file: notebooks/b\n  - file: notebooks/a.ipynb\n  - file: book/c\n"
        )
        (tmp_path / "_toc.yml").write_text(
            f"format: jb-book\nroot: intro\n{chapters}", encoding="utf-8"
        )
        return tmp_path / "notebooks"

    def test_only_pages_of_the_table_of_contents_count(self, folder):
        (folder / "Untitled.ipynb").touch()
        assert notebook.names() == ["a", "b"]

    def test_a_draft_runs_by_name(self, folder):
        cells = [nbformat.v4.new_code_cell("%matplotlib inline\nx = !echo 1")]
        kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
        draft = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
        nbformat.write(draft, folder / "scratch.ipynb")
        out = notebook.run("scratch", "smoke", {}, folder / "out.ipynb")
        assert nbformat.read(out, as_version=4).cells[-1].execution_count == 1

    @pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"cells": [1]}', '{"cells": null}'])
    def test_a_file_that_is_no_notebook_is_named(self, folder, content):
        (folder / "Untitled.ipynb").write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match=r"Untitled.ipynb is not a notebook .* _toc.yml"):
            notebook.run("Untitled", "smoke", {})

    def test_a_missing_page_and_a_cell_that_is_no_python_are_named(self, folder):
        with pytest.raises(ValueError, match="gone.ipynb is not a notebook .*No such file"):
            dependencies.of_notebook(folder / "gone.ipynb")
        cells = [nbformat.v4.new_code_cell(source) for source in ("x = 1", "x ==")]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "a.ipynb")
        with pytest.raises(ValueError, match=r"a.ipynb: code cell 2 is not Python \(invalid syn"):
            dependencies.of_notebook(folder / "a.ipynb")

    def test_magics_do_not_hide_what_a_notebook_imports(self, folder):
        source = "%matplotlib inline\n!ls\nimport featint.metrics"
        cells = [nbformat.v4.new_code_cell(text) for text in (source, "%%bash\nls | wc")]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "a.ipynb")
        touched = dependencies.of_notebook(folder / "a.ipynb")
        assert [f.name for f in touched] == ["metrics.py"]


def test_a_part_that_cannot_run_is_left_out(monkeypatch, capsys):
    shell = InteractiveShell()
    monkeypatch.setattr(notebook, "get_ipython", lambda: shell)
    shell.run_cell("# needs words\nbefore = 1")
    notebook.leave_out("words", "there are none")
    for cell in ("# needs words\nx = 1", "# needs topics\ny = 1", "y\n# needs words\nz = 1"):
        shell.run_cell(cell)
    assert {"before", "x", "y", "z"} & set(shell.user_ns) == {"before", "y", "z"}
    said = capsys.readouterr().out
    assert (
        "what needs words. there are none." in said and said.count("Left out, as said above.") == 1
    )


def test_no_cell_asks_for_what_may_be_left_out(cells):
    everywhere, needed = set(), {}
    for cell in code(cells):
        first, table = cell.source.partition("\n")[0], symtable.symtable(cell.source, "", "exec")
        tables, names = (
            [table],
            {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned()},
        )
        asked = set()
        while tables:
            one = tables.pop()
            tables += one.get_children()
            asked |= {x.get_name() for x in one.get_symbols() if x.is_global() or one is table}
        if first.startswith("# needs "):
            needed |= dict.fromkeys(names - everywhere, first)
        else:
            everywhere |= names
        there = {name for name, need in needed.items() if need == first} | everywhere
        assert not (asked & set(needed)) - there, cell.source


def test_a_text_is_looked_for_where_the_command_was_given(tmp_path, monkeypatch, corpus_file):
    passed = {}

    def execute(source, copy, parameters, **_):
        passed.update(parameters)
        shutil.copy(source, copy)

    monkeypatch.chdir(corpus_file.parent)
    monkeypatch.setattr(notebook, "announce", lambda *_: None)
    monkeypatch.setattr(notebook, "asked", lambda *_: profiles.smoke())
    monkeypatch.setattr(papermill, "execute_notebook", execute)
    notebook.run("reconstruction", "smoke", {"corpus": corpus_file.name}, tmp_path / "o.ipynb")
    assert passed == {"profile": "smoke", "corpus": str(corpus_file)}


class TestBeforeTheWork:
    """What could not be written, or no kernel begun, is found out before any cell runs."""

    @pytest.fixture
    def closed(self, tmp_path, monkeypatch):
        (tmp_path / "file").touch()
        monkeypatch.setattr(papermill, "execute_notebook", lambda *_, **__: pytest.fail("it ran"))
        return tmp_path / "file"

    def test_a_closed_project_or_place(self, closed, monkeypatch):
        with pytest.raises(StoreError, match="takes no files .* choose another --out"):
            notebook.run("superposition", "smoke", {}, closed / "o.ipynb")
        monkeypatch.setattr(places, "BUILD", closed)
        with pytest.raises(StoreError, match="takes no files .* copy the project"):
            notebook.run("superposition", "smoke", {})

    def test_results_that_could_not_be_written(self, closed, monkeypatch):
        monkeypatch.setattr(places, "RESULTS", closed)
        with pytest.raises(StoreError, match="takes no files .* copy the project"):
            notebook.start({"__annotations__": {"profile": str}, "profile": "smoke"})

    def test_no_home_for_the_kernel(self, closed, tmp_path, monkeypatch):
        out = tmp_path / "o.ipynb"
        monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(closed))
        with pytest.raises(StoreError, match="takes no files .* set HOME or JUPYTER_RUNTIME_DIR"):
            notebook.run("superposition", "smoke", {}, out)

        def nobody():
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr("jupyter_core.paths.jupyter_runtime_dir", nobody)
        with pytest.raises(StoreError, match="home directory. Set HOME"):
            notebook.run("superposition", "smoke", {}, out)


def test_a_run_says_beforehand_how_many_models_it_trains(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("FEATINT_CACHE", str(tmp_path))
    notebook.announce("two_decoders", profiles.get("smoke", n_tokens=1024))
    said = capsys.readouterr().err.splitlines()[-1]
    wanted = variants.of_chapter("two_decoders", profiles.get("smoke"))
    begins = f"two_decoders: trains {len(wanted)} models of {1024 * len(wanted):,} training tokens "
    assert said.startswith(begins) and said.endswith(f"into {tmp_path / 'models'}")
    monkeypatch.setattr(store, "exists", lambda kind, config: True)
    notebook.announce("two_decoders", profiles.smoke())
    assert capsys.readouterr().err == ""


def test_an_executed_copy_keeps_warnings_and_loses_progress(tmp_path):
    bars = "TopKSAE on x:   0%|     | 0/40\rTopKSAE on x: 100%|#####| 40/40\n"
    streams = [bars, f"{bars}UserWarning: look\n"]
    outputs = [nbformat.v4.new_output("stream", name="stderr", text=text) for text in streams]
    outputs.append(nbformat.v4.new_output("stream", name="stdout", text="100%|"))
    cell = nbformat.v4.new_code_cell("train()", outputs=outputs)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "x.ipynb")
    notebook.without_progress(tmp_path / "x.ipynb")
    (cell,) = nbformat.read(tmp_path / "x.ipynb", 4).cells
    assert [(o.name, o.text) for o in cell.outputs] == [
        ("stderr", "UserWarning: look\n"),
        ("stdout", "100%|"),
    ]
