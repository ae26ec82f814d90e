"""Who may import whom. A core module may use those in its own row, a room those in its line; what is in neither table does not belong in the package."""

import ast

import pytest

from featint.store import PROJECT

CORE = {
    "config": "",
    "store": "config",
    "results": "config store",
    "sources": "store",
    "profiles": "config store",
    "variants": "config profiles",
    "assets": "config store",
    "corpora": "config store assets",
    "activations": "config store",
    "lm": "config store assets kernels",
    "harvest": "config store corpora activations lm",
    "kernels": "store",
    "sparse": "kernels",
    "sae": "config sparse",
    "nfm": "config sparse",
    "joint": "sparse sae nfm",
    "secondary": "sae sparse",
    "pairs": "nfm sparse",
    "train": "config store sparse",
    "runs": "config store activations sae nfm joint secondary train",
    "metrics": "",
    "heldout": "config store activations metrics runs",
    "downstream": "config activations corpora lm",
    "interventions": "store activations joint lm secondary sparse",
    "geometry": "",
    "contributions": "geometry",
    "effects": "contributions joint sae sparse",
    "stats": "",
    "factorial": "stats",
    "crossed": "stats factorial",
    "stimuli": "config store",
    "plots": "store",
    "notebook": "profiles store",
    "verdicts": "",
    "ledger": "store results profiles config variants verdicts",
    "compare": "config results store verdicts",
    "atlas": "activations harvest joint lm pairs profiles runs sparse store variants",
}
ROOMS = {
    "toys": {*CORE, "toys"},
    "chapters": {*CORE, "toys", "chapters"},
    "figures": {"plots", "figures"},
}
FREE = {"__main__", "__init__"}
WITHOUT_TORCH = {"config", "profiles", "variants", "results", "stats", "factorial", "crossed", "stimuli", "plots", "ledger", "verdicts", "compare",
                 "toys.designs", "chapters.behaviour_results"}  # fmt: skip
FILES = {".".join(f.relative_to(PROJECT / "featint").with_suffix("").parts): f for f in sorted((PROJECT / "featint").rglob("*.py"))}


def room(name: str) -> str:
    """The room of a dotted name below `featint.`, or the core module itself."""
    return name.split(".")[0]


def imports(module: str) -> set[str]:
    """Dotted names that a module imports, anywhere in its file."""
    found = set()
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute: the tables, and the flow's, read them so"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


@pytest.mark.parametrize("module", [m for m in FILES if m not in FREE])
def test_imports_follow_the_tables(module):
    allowed = ROOMS[room(module)] if "." in module else set(CORE[module].split())
    inside = {room(name.removeprefix("featint.")) for name in imports(module) if name.startswith("featint.")}
    assert inside <= allowed, f"{module} may import only {' '.join(sorted(allowed)) or 'nothing of ours'}"
    outside = {room(name) for name in imports(module)}
    assert module == "lm" or not outside & {"transformers", "transformer_lens"}, "only lm knows the language model's library"
    assert "torch" not in outside or not (room(module) == "figures" or module in WITHOUT_TORCH), f"{module} must not import torch"


@pytest.mark.parametrize("module", FILES)
def test_a_module_fits_on_a_few_screens(module):
    lines = FILES[module].read_text().splitlines()
    assert len(lines) <= 250
    assert ast.get_docstring(ast.parse("\n".join(lines))), "every module, and every room, says what it is for"
