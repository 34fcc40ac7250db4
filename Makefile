# Everything a newcomer runs. Needs only make, a POSIX shell and Python >= 3.11.
#   make demo PYTHON=/path/to/python3.12   picks the interpreter
#   make demo VENV=elsewhere               puts the environment elsewhere

VENV ?= .venv
PYTHON ?=
WORKDIR ?= runs/language_emoji
CONFIG ?= configs/language_emoji.py
DEMO_ASSETS := minilm-l6 me5-small dinov2-small openmoji cedict
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses=4 --dist=worksteal

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-app lint types docs format clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.demo  ## install, fetch weights and data, run the default recipe, write the report
	$(BIN)/python -m mmjax.assets fetch $(DEMO_ASSETS)
	$(BIN)/python -m mmjax.main --config $(CONFIG) --workdir $(WORKDIR)

test: $(VENV)/.test  ## install the light test extra (no torch) and run the tests
	$(PYTEST) -m "not parity"

test-all: $(VENV)/.test $(VENV)/.parity  ## as test, with the live comparisons against torch too
	$(PYTEST)

lint: $(VENV)/.dev  ## check format, lint, who imports whom, and the shell scripts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/shellcheck launch/*.sh launch/slurm.sbatch

format: $(VENV)/.dev  ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Tests and tools are type-checked too, so their packages must be there.
types: $(VENV)/.dev $(VENV)/.test $(VENV)/.parity $(VENV)/.docs $(VENV)/.browser  ## check types
	$(BIN)/pyright --pythonpath $(BIN)/python

test-app: $(VENV)/.test $(VENV)/.browser $(VENV)/.docs  ## app, reports and site over HTTP, and in Chromium where it is
	$(BIN)/python -m pytest -q -m "app or browser" tests/app tests/run/test_app.py

docs: $(VENV)/.docs  ## build the site into site/; every warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

clean:  ## remove the environment, runs and build products (not the asset cache)
	rm -rf $(VENV) runs build dist site *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp, not bin/python, says that the environment is whole: an interrupted one is made anew.
$(VENV)/.made:
	@for python in $(or $(PYTHON),python3.11 python3.12 python3 python3.13 python); do \
	  if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
	      >/dev/null 2>&1; then \
	    echo "making $(VENV) with $$python ($$("$$python" --version 2>&1))"; \
	    "$$python" -m venv --clear $(VENV) && touch $@ && exit 0; \
	    echo "error: $$python could not make $(VENV) (its own message stands above)" >&2; exit 1; \
	  fi; \
	done; \
	echo "error: no usable Python >= 3.11 with the venv module among" \
	  "$(or $(PYTHON),python3.11 python3.12 python3 python3.13 python);" \
	  "install one (Debian: python3-venv too) or say make PYTHON=/path/to/python3.12" >&2; \
	exit 1

# One stamp an extra; a changed pyproject.toml installs again.
$(VENV)/.demo $(VENV)/.test $(VENV)/.parity $(VENV)/.dev $(VENV)/.docs $(VENV)/.browser: $(VENV)/.%: pyproject.toml $(VENV)/.made
	@echo "installing mmjax[$*] into $(VENV)"
	$(BIN)/python -m pip install -e '.[$*]'
	@touch $@
