"""What stands on the pages: cells and functions of the notebooks, for tests to run."""

import ast

import nbformat

from companion import notebook


def run(name: str, *ids: str, **names) -> dict:
    """The cells with these ids, after the page's imports and with these names; what there is then."""
    cells = nbformat.read(notebook.FOLDER / f"{name}.ipynb", as_version=4).cells
    source = {cell.id: cell.source for cell in cells}
    (imports,) = (
        text for text in source.values() if text.startswith("import ") or text.startswith("from ")
    )
    lines = imports.splitlines()
    exec("\n".join(line for line in lines if line.startswith(("import ", "from "))), names)
    for cell in ids:
        exec(source[cell], names)
    return names


def functions(name: str) -> dict:
    """The functions that the cells of a notebook define, and what it imports."""
    cells = nbformat.read(notebook.FOLDER / f"{name}.ipynb", as_version=4).cells
    nodes = [n for cell in cells if cell.cell_type == "code" for n in ast.parse(cell.source).body]
    kept = [n for n in nodes if isinstance(n, ast.Import | ast.ImportFrom | ast.FunctionDef)]
    names = {}
    exec(compile(ast.Module(kept, []), name, "exec"), names)
    return names
