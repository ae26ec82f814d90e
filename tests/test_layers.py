"""Who may import whom: the tables that CONTRIBUTING shows. What stands in no table does not belong in the packages."""

import ast

import pytest

from companion.places import PROJECT

FEATINT = {
    "config": "",
    "store": "config",
    "assets": "config store",
    "corpora": "config store assets",
    "activations": "config store harvest",
    "kernels": "store kernels",
    "lm": "config store assets kernels",
    "harvest": "config store corpora lm",
    "sae": "config kernels",
    "nfm": "config kernels",
    "joint": "kernels sae nfm",
    "secondary": "activations sae kernels",
    "train": "config store kernels",
    "foreign": "config store activations sae",
    "runs": "config store activations foreign sae nfm joint secondary train",
    "metrics": "",
    "reconstruction": "config store activations metrics runs",
    "downstream": "config activations corpora lm reconstruction runs",
    "interventions": "store activations joint lm nfm secondary kernels",
    "geometry": "joint runs",
    "pair_effects": "nfm kernels",
    "planted": "config activations kernels metrics nfm pair_effects sae train",
    "path_effects": "joint kernels nfm sae",
}
"""What each module of the library may import of the library; of the companion, nothing."""
COMPANION = {
    "places": "",
    "flow": "",
    "progress": "places",
    "profiles": "",
    "variants": "places profiles",
    "dependencies": "places",
    "estimates": "",
    "published": "profiles",
    "designs": "estimates",
    "exercises": "places",
    "stimuli": "places",
    "results": "estimates places",
    "verdicts": "estimates",
    "ledger": "estimates places results profiles variants verdicts",
    "compare": "estimates places results verdicts",
    "plots": "estimates places variants",
    "figures": "estimates plots figures",
    "notebook": "places profiles dependencies results variants",
    "atlas": "places profiles variants",
    "chapters": "estimates published places profiles variants designs stimuli results chapters",
    "cli": "flow places profiles progress variants results ledger compare notebook atlas chapters",
}
"""What each module of the companion may import of the companion; of the library, anything."""
LM_LIBRARIES = {"transformers", "transformer_lens"}
WITHOUT_LIBRARY = {"plots", "figures", "verdicts", "dependencies"}
"""Of the companion, what imports nothing of the library but its store, and so no torch."""
FILES = {
    ".".join(f.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__"): f
    for package in ("featint", "companion")
    for f in sorted((PROJECT / package).rglob("*.py"))
}
MODULES = [name for name in FILES if "." in name]


def imports(module: str) -> set[str]:
    """Dotted names that a module imports, anywhere in its file."""
    found = set()
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute: the tables, and the flow's, read them so"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def rooms(module: str, package: str) -> set[str]:
    """The modules of a package, or its folders, that a module imports."""
    return {name.split(".")[1] for name in imports(module) if name.startswith(f"{package}.")}


@pytest.mark.parametrize("module", MODULES)
def test_imports_follow_the_tables(module):
    package, room = module.split(".")[:2]
    table = FEATINT if package == "featint" else COMPANION
    assert rooms(module, package) <= set(table[room].split()), (
        f"{module} may import only {table[room] or 'nothing of ours'}"
    )
    outside = {name.split(".")[0] for name in imports(module)}
    if package == "featint":
        assert "companion" not in outside, "the library knows nothing of the book"
    assert module == "featint.lm" or not outside & LM_LIBRARIES, (
        "only lm knows the language model's library"
    )
    if package == "companion" and room in WITHOUT_LIBRARY:
        assert "torch" not in outside and rooms(module, "featint") <= {"store"}


@pytest.mark.parametrize("module", FILES)
def test_every_module_says_what_it_is_for(module):
    assert ast.get_docstring(ast.parse(FILES[module].read_text(encoding="utf-8")))
