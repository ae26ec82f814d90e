"""Where the project keeps what is its own; the library's artefacts lie where `featint.store`
says."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
DATA = PROJECT / "data"
BUILD = PROJECT / "_build"
TOC = PROJECT / "_toc.yml"
