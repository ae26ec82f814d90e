"""`featint` without the book: nothing of `companion`, nor a package that only the book needs."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from companion.places import PROJECT

BOOK = "pingouin matplotlib seaborn IPython papermill snakemake sphinx statsmodels".split()
REFUSE = """
    import sys

    class Refuse:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in {names}:
                raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

    sys.meta_path.insert(0, Refuse())
"""
USE = """
    import importlib, pkgutil
    import torch
    import featint
    from featint import assets, train
    from featint.activations import Batches
    from featint.config import NFMConfig, SAEConfig, TrainConfig
    from featint.joint import JointSAE
    from featint.nfm import NFM
    from featint.sae import TopKSAE

    for module in pkgutil.walk_packages(featint.__path__, "featint."):
        importlib.import_module(module.name)
    assert all(assets.identity(name) for name in assets.ASSETS)

    def batch(step):
        return torch.randn(64, 12, generator=torch.Generator().manual_seed(step))

    generator = torch.Generator().manual_seed(0)
    settings = TrainConfig(n_tokens=64 * 60, batch_tokens=64, lr=1e-2)
    config = SAEConfig(d_sae=48, k=4)
    for model in (
        TopKSAE(12, config, generator),
        JointSAE(TopKSAE(12, config, generator), NFM(12, 48, NFMConfig(d_factor=3), generator)),
    ):
        history = train.fit(model, Batches(settings.n_steps, batch), settings).history
        assert history.loss.iloc[-1] < 0.8 * history.loss.iloc[0], history
    print(featint.__file__)
"""


def run(python: Path | str, *parts: str, cwd: Path) -> str:
    """What a script prints last, run without this checkout on its path unless `cwd` is it."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    code = "\n".join(map(textwrap.dedent, parts))
    done = subprocess.run(
        [python, "-c", code], cwd=cwd, env=environment, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def test_the_library_needs_nothing_of_the_book():
    refuse = REFUSE.format(names={*BOOK, "companion"})
    assert run(sys.executable, refuse, USE, cwd=PROJECT) == str(PROJECT / "featint/__init__.py")


def test_what_is_refused_is_refused():
    refuse = REFUSE.format(names={"companion"})
    tried = "try: import companion\nexcept ModuleNotFoundError: print('refused')"
    assert run(sys.executable, refuse, tried, cwd=PROJECT) == "refused"


def test_a_relative_cache_stays_where_it_is_if_the_program_moves_on(tmp_path, monkeypatch):
    monkeypatch.setenv("FEATINT_CACHE", "mine")
    moves = f"import os, sys; sys.path.append({str(PROJECT)!r})\nfrom featint import store\nos.chdir('/')"
    assert run(sys.executable, moves, "print(store.cache())", cwd=tmp_path) == f"{tmp_path}/mine"


@pytest.mark.slow
def test_an_installed_wheel_works_without_the_book(tmp_path):
    """Minutes and 2 GB: builds the wheel, installs it with its dependencies into a fresh environment."""
    source = tmp_path / "source"  # a copy: setuptools builds in the tree
    for package in ("featint", "companion"):
        shutil.copytree(PROJECT / package, source / package)
    for name in ("pyproject.toml", "README.md", "LICENSE", "LICENSE-text"):
        shutil.copy(PROJECT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", tmp_path, source], check=True)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    python = tmp_path / "env/bin/python"
    (wheel,) = tmp_path.glob("featint-*.whl")
    subprocess.run([*pip, "--python", python, "install", wheel], check=True)
    found = (
        "import importlib.util as u\n"
        f"print([name for name in {BOOK} if u.find_spec(name) is not None])"
    )
    assert run(python, found, cwd=tmp_path) == "[]"
    assert run(python, USE, cwd=tmp_path).startswith(str(tmp_path / "env"))
