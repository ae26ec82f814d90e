#!/usr/bin/env bash
# The fast suite with the oldest or the newest versions that pyproject.toml allows, in an environment made on the spot: tests/versions.sh oldest|newest [PYTHON] [words for pytest]
# The lock says with which versions the book is made; this says whether the bounds are true. PyTorch without CUDA: UV_TORCH_BACKEND=cpu.
set -euo pipefail
cd "$(dirname "$0")/.."
which=${1:?oldest or newest}
python=${2:-python3}
shift $(($# > 2 ? 2 : $#))
case $which in
  oldest) resolution=lowest-direct ;;
  newest) resolution=highest ;;
  *) echo "tests/versions.sh oldest|newest [PYTHON] [words for pytest]" >&2; exit 2 ;;
esac
env=_build/versions/$which
"$python" -m venv --clear "$env"
"$env/bin/pip" install --quiet uv
"$env/bin/uv" pip install --quiet --python "$env/bin/python" --resolution "$resolution" --editable ".[book,dev,cluster]"
"$env/bin/python" --version
"$env/bin/pip" list --format freeze | grep -iE '^(torch|numpy|pandas|scipy|scikit-learn|statsmodels|transformers|datasets|sphinx|snakemake|pytest)=='
OMP_NUM_THREADS=1 "$env/bin/python" -m pytest --numprocesses auto --dist loadfile -m "not smoke and not slow and not browser" "$@"
