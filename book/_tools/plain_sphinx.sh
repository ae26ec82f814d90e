#!/usr/bin/env bash
# Build the executed book once more with the newest Sphinx and theme, from the configuration that Jupyter Book writes; Jupyter Book itself is not installed there.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PROFILE=${1:-laptop}
env=.venv-sphinx
if [ ! -e $env/installed ]; then
  python3 -m venv $env
  $env/bin/pip install --quiet --upgrade sphinx myst-nb sphinx-book-theme sphinx-external-toc sphinx-design sphinx-copybutton sphinx-togglebutton \
    sphinx-thebe sphinx-comments sphinxcontrib-bibtex sphinx-exercise sphinx-proof sphinx-tippy linkify-it-py
  # What the API page documents (featint and its dependencies) comes from the main environment, after all that is installed here.
  .venv/bin/python -c "import sysconfig; print(sysconfig.get_paths()['purelib'])" > "$($env/bin/python -c "import sysconfig; print(sysconfig.get_paths()['purelib'])")/main.pth"
  touch $env/installed
fi
trap 'rm -f conf.py' EXIT
.venv/bin/jupyter-book config sphinx . >/dev/null
# Without -W: newer versions deprecate what the pinned ones need. An extension that fails, a missing number or notebook still stops the build.
PYTHONPATH=book/_ext $env/bin/python -m sphinx -b html -n . _build/plain-sphinx
test -s _build/plain-sphinx/book/intro.html
echo "The book by plain Sphinx: _build/plain-sphinx/book/intro.html"
