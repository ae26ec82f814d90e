"""Who may import whom. A module may use those in its own row; what is not in the table does not belong in the package."""

import ast

import pytest

from featint.store import PROJECT

ALLOWED = {
    "config": "",
    "store": "config",
    "results": "config store",
    "sources": "store",
    "profiles": "config store",
    "variants": "config profiles",
    "assets": "config store",
    "corpora": "config store assets",
    "activations": "config store",
    "lm": "config store assets",
    "harvest": "config store corpora activations lm",
    "kernels": "store",
    "sparse": "kernels",
    "sae": "config sparse",
    "nfm": "config sparse",
    "joint": "sparse sae nfm",
    "secondary": "sae sparse",
    "train": "config store sparse",
    "runs": "config store activations sae nfm joint secondary train",
    "interventions": "store activations joint lm secondary sparse",
    "interactions": "activations factorial interventions joint lm runs secondary sparse stats stimuli",
    "clamping": "crossed interactions interventions joint secondary sparse stats stimuli",
    "interaction_results": "activations clamping crossed interactions interventions lm results runs stimuli",
    "figures_interactions": "plots",
    "toy_designs": "factorial",
    "metrics": "",
    "downstream": "config activations corpora lm",
    "geometry": "",
    "contributions": "geometry",
    "stats": "",
    "factorial": "stats",
    "crossed": "stats factorial",
    "stimuli": "config store",
    "plots": "store",
    "figures": "plots",
    "figures_toy": "plots",
    "figures_gain": "plots",
    "notebook": "profiles store",
    "verdicts": "",
    "ledger": "store results profiles config variants verdicts",
    "compare": "config results store verdicts",
    "atlas": "activations harvest joint lm pairs profiles runs sparse store variants",
    "toy": "",
    "pairs": "nfm sparse",
    "planted": "config metrics toy",
    "recovery": "config sae nfm joint sparse train toy planted pairs",
    "planted_truth": "config stats planted recovery profiles results",
    "figures_planted": "plots",
    "leftovers": "activations config runs sae sparse store train",
    "baselines": "activations downstream harvest leftovers lm metrics profiles results runs stats variants",
    "waterfall": "activations config metrics profiles results runs stats variants",
    "best_chance": "activations config harvest leftovers metrics profiles results runs stats variants",
    "seeds": "activations metrics profiles results runs stats variants",
    "behaviour": "activations config corpora downstream harvest lm metrics nfm profiles runs sparse variants",
    "behaviour_results": "behaviour results stats",
    "efficiency": "activations behaviour behaviour_results config downstream harvest joint lm metrics nfm profiles results runs sae stats variants",
    "one_splice": "downstream lm",
    "figures_behaviour": "plots",
    "two_decoders": "activations config joint metrics nfm profiles results runs sae stats train",
    "effects": "contributions joint sae sparse",
    "norms": "config contributions effects geometry joint runs sae",
    "norm_heldout": "activations contributions effects metrics runs sparse stats",
    "norm_results": "effects geometry norm_heldout norms results runs stats",
    "norm_sweep": "activations config norms profiles runs store train variants",
    "toy_norms": "config sae train",
    "figures_norms": "plots",
    "figures_performance": "plots",
    "reconstruction": "activations metrics profiles results runs stats variants",
}
FREE = {"__main__", "__init__"}
WALLS = {
    "transformer_lens": {"lm"},
    "transformers": {"lm"},
    "torch": set(ALLOWED)
    - {
        "config",
        "profiles",
        "variants",
        "results",
        "stats",
        "factorial",
        "crossed",
        "stimuli",
        "plots",
        "figures",
        "figures_toy",
        "figures_planted",
        "figures_gain",
        "figures_interactions",
        "toy_designs",
        "figures_norms",
        "figures_performance",
        "figures_behaviour",
        "behaviour_results",
        "ledger",
        "verdicts",
        "compare",
    },
}
MODULES = sorted(f.stem for f in (PROJECT / "featint").glob("*.py"))


def imports(module: str) -> set[str]:
    """Dotted names that a module imports, anywhere in its file."""
    found = set()
    for node in ast.walk(ast.parse((PROJECT / "featint" / f"{module}.py").read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


@pytest.mark.parametrize("module", [m for m in MODULES if m not in FREE])
def test_imports_follow_the_table(module):
    inside = {name.split(".")[1] for name in imports(module) if name.startswith("featint.")} & set(MODULES)
    assert inside <= set(ALLOWED[module].split()), f"{module} may import only {ALLOWED[module] or 'nothing of ours'}"
    outside = {name.split(".")[0] for name in imports(module)}
    for library, allowed in WALLS.items():
        assert library not in outside or module in allowed, f"{module} must not import {library}"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_fits_on_a_few_screens(module):
    lines = (PROJECT / "featint" / f"{module}.py").read_text().splitlines()
    assert len(lines) <= 250
    assert module == "__init__" or ast.get_docstring(ast.parse("\n".join(lines))), "every module says what it is for"
