# The whole interface. PROFILE=smoke|laptop|full|paper chooses the size; laptop is the default.
# ON=slurm|kubernetes|generic has the jobs of the flow run on a cluster (profiles/), GPU=1 with a graphics card each.
PROFILE ?= laptop
BIN := .venv/bin
# see featint/__init__.py
export OMP_WAIT_POLICY := passive
# the flow ends with this make, whatever ends it (companion/flow.py)
SNAKEMAKE := FEATINT_MAKE=$$PPID exec $(BIN)/snakemake $(if $(ON),--workflow-profile profiles/$(ON),--cores all) --scheduler greedy --rerun-incomplete
CONFIG = --config profile=$(PROFILE) $(if $(GPU),gpu=$(GPU))
# text is UTF-8 whatever the locale, for the tools of the flow too
export PYTHONUTF8 := 1
# The longest chapters first, so that the others fill the second core beside them.
FIRST = --prioritize $(foreach n,best_chance baselines behaviour efficiency detection_limit reconstruction,"$$(pwd -P)/_build/executed/$(PROFILE)/notebooks/$(n).ipynb")

.PHONY: book sweep publish-results pdf slides sphinx test smoke slurm browser bench torture versions audit mutants lint clean
book: .venv/installed  ## compute what is missing, build the book in _build/html
	$(SNAKEMAKE) $(FIRST) $(CONFIG)
	@echo "The book: _build/$(if $(filter laptop,$(PROFILE)),,$(PROFILE)/_build/)html/book/intro.html"

sweep: .venv/installed  ## the notebook of SWEEP=sweeps/k.yaml at every point of its grid, and a page that compares them; resumes
	@$(BIN)/python -m sweeps.grid $(SWEEP) $(PROFILE)
	-@$(SNAKEMAKE) --keep-going $(CONFIG) sweep=$(SWEEP) -- sweep
	@$(BIN)/python -m sweeps.page $(SWEEP) $(PROFILE)

publish-results: .venv/installed  ## the results of PROFILE that were computed here, checked and put into data/results, to be committed
	$(BIN)/python book/_tools/publish_results.py $(PROFILE)

HTML = _build/$(if $(filter laptop,$(PROFILE)),,$(PROFILE)/_build/)html
pdf: book  ## the same pages as one PDF (needs Chromium), linked from the first page
	$(BIN)/python book/_tools/print_pdf.py $(HTML)

slides: book  ## the course's four sessions as slides that need no network, in `slides/` beside the pages
	$(BIN)/python book/_tools/slides.py $(HTML)

sphinx: book  ## the same pages by the newest Sphinx without Jupyter Book, in an environment of its own: the way out should Jupyter Book 1 rot
	book/_tools/plain_sphinx.sh $(PROFILE)

test: .venv/installed  ## the fast suite
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist loadfile -m "not smoke and not slow and not browser"

CHROMIUM := $(shell command -v chromium)
smoke: .venv/installed  ## every stage on a slice of the real text, the book of it, the tests that need both, and where Chromium is found the book in it
	$(SNAKEMAKE) --config profile=smoke
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto -m "smoke$(if $(CHROMIUM), or browser)"
	@$(if $(CHROMIUM),,echo "There is no Chromium here: the tests of the pages in a browser were left out.")

browser: .venv/installed  ## the book that was built last, in Chromium
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto -m browser

bench: .venv/installed  ## training speed against other libraries, half an hour on an idle machine; resumes; the page Performance shows it
	$(BIN)/python -m benchmarks.speed

torture: .venv/installed  ## kills, full disks, changed bits, hostile input, five minutes on two cores; resumes; the page Reliability shows what held
	OMP_NUM_THREADS=1 $(BIN)/python tests/torture.py

versions: .venv/installed  ## the fast suite with the oldest and the newest versions that pyproject.toml allows, in environments made on the spot
	tests/versions.sh oldest $(or $(PYTHON),python3)
	tests/versions.sh newest $(or $(PYTHON),python3)

audit: .venv/installed  ## known weaknesses of the locked packages; says so where it cannot look them up
	$(BIN)/python tests/audit.py

slurm: .venv/installed  ## a SLURM cluster of this machine (Debian, root), the smoke flow and a sweep on it, with kills: does all come out as without?
	$(BIN)/python -m tests.slurm.run

mutants: .venv/installed  ## small faults planted in what computes numbers: do the tests notice? MODULES=companion/estimates.py SHARE=0.2 for less; resumes
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutants.py --share $(or $(SHARE),1) $(MODULES)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/nbstripout --keep-id --extra-keys "metadata.papermill cell.metadata.papermill metadata.language_info" --verify notebooks/*.ipynb

clean:  ## all that can be made again, except the environment, the cache and results/
	rm -rf _build .snakemake .pytest_cache .ruff_cache

.venv/installed: pyproject.toml requirements.lock
	python3 -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint requirements.lock --editable ".[book,dev,cluster]"
	touch $@
