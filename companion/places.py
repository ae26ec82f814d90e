"""Where the project keeps its own files; the library's artefacts lie where `featint.store` says."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
DATA = PROJECT / "data"
PUBLISHED = DATA / "results"
"""The published results, `<profile>/<chapter>.json`, in git."""
RESULTS = PROJECT / "results"
"""What is computed here, `<profile>/` or `custom/<profile>-<hash>/`, and not in git."""
AUTHOR = "author"
"""In both, the folder of what follows from the tables of the paper's author."""
BUILD = PROJECT / "_build"
TOC = PROJECT / "_toc.yml"
