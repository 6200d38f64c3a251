# Two commands do all the set-up: `make quickstart` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help venv quickstart test docs lint format clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' Makefile

venv: $(READY) ## Make .venv with the tested versions of everything (again when they change)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "fedtt-lightning needs Python 3.11 or newer; '$(PYTHON)' is not. Try: make PYTHON=python3.12"; exit 2; }
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev,docs]"
	@touch $@

quickstart: $(READY) ## Train FedTT on built-in data: offline, about two minutes on 2 CPU cores
	$(BIN)/python -m fedtt_lightning fit --config configs/quickstart.yaml

test: $(READY) ## Run the tests (real data too where FEDTT_SHARED names its folder)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist loadfile --durations 20

docs: $(READY) ## Build the documentation's site in build/site; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lint: $(READY) ## Check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## Format the code and fix what can be fixed safely
	$(BIN)/ruff check --fix-only -q .
	$(BIN)/ruff format .

clean: ## Remove the environment, the site and the tools' caches
	rm -rf $(VENV) build/site .mypy_cache .pytest_cache .ruff_cache .hypothesis
