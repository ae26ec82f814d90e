"""Cells of the notebooks, run as they stand on their page."""

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
