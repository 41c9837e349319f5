# The verbs of this repository. `make demo` and `make test` need nothing but Python 3.11+; each sets up .venv itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?=
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt

.PHONY: demo test chromium lint types proof constraints clean

demo: $(VENV)/.demo  ## real data -> shards -> a trained tiny model, report and contact sheet in demo/
	@echo "== demo: build a corpus, train on it, report (about 10 minutes on 2 cores)"
	$(BIN)/imglish demo $(if $(DATA),--data "$(DATA)")

test: $(VENV)/.dev chromium lint types  ## everything that CI runs
	@echo "== test: the promises in miniature"
	$(BIN)/pytest -n 2 --dist loadfile  # two processes; tests of one file share what they build

chromium:  ## the browser in which tests open pages; it is no Python package
	@if ! test -x /usr/bin/chromium; then \
		if test "$$(id -u)" = 0 && command -v apt-get > /dev/null; then \
			echo "== set-up: Debian's Chromium for the tests of pages"; \
			(apt-get install -y -qq --no-install-recommends chromium || \
				(apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium)) > /dev/null; \
		else \
			echo "make test opens pages in /usr/bin/chromium, which is not here; as root: apt-get install chromium" >&2; \
			exit 1; \
		fi; \
	fi

lint: $(VENV)/.dev
	@echo "== lint: ruff, import-linter"
	$(BIN)/ruff check imglish tests benchmarks
	$(BIN)/ruff format --check imglish tests benchmarks
	$(BIN)/lint-imports --no-cache

types: $(VENV)/.dev
	@echo "== types: mypy --strict"
	$(BIN)/mypy

proof: $(VENV)/.dev $(VENV)/.demo  ## the long matrices: resumable, one row per claim in benchmarks/results/
	$(BIN)/python -m benchmarks.proof $(CLAIMS)

constraints:  ## pin what is installed now
	$(BIN)/python -m pip freeze --exclude-editable --exclude pip --exclude setuptools --exclude imglish --exclude torchscale \
		| sed 's/+cpu$$//' > constraints.txt

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	@echo "== set-up: a virtual environment in $(VENV)"
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "== set-up: packages for the demo (torch, dask, img2dataset, ...; about 2 minutes)"
	$(PIP) -e ".[fetch,text,train,audit]"
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "== set-up: packages for tests (everything; about 2 minutes)"
	$(PIP) -e ".[dev]"
	$(PIP) --no-deps "torchscale==0.3.0"  # the oracle of tests/model; its pins of timm and fairscale fit no current torch
	@touch $@
