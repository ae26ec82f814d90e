"""Notebooks stay thin, clean and parameterised."""

import ast

import nbformat
import papermill
import pytest

from companion import dependencies, notebook, places

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
        assert len([line for line in cell.source.splitlines() if line.strip()]) <= 14, cell.source


def test_a_chapter_begins_with_words(cells):
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")


class TestStart:
    """`notebook.start` catches what papermill only logs."""

    def names(self, **more):
        return {
            "__annotations__": {"profile": str, "k": int, "n_shown": int},
            "profile": "smoke",
            "k": None,
            "n_shown": 3,
            "ast": ast,
        } | more

    def test_knobs_reach_the_profile(self):
        assert notebook.start(self.names(k=5)).sae.k == 5
        assert notebook.start(self.names()).label == "smoke"

    def test_a_misspelt_parameter_is_refused(self):
        with pytest.raises(ValueError, match="no parameter 'kk'; it has profile, k, n_shown"):
            notebook.start(self.names(kk=5))

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
