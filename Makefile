# Everything is run from here, by people and by continuous integration alike.
# Needed beforehand: make, and Python 3.11 or later with its venv module.

SHELL := /bin/sh
.DEFAULT_GOAL := help

# The first interpreter on the PATH that is new enough. Choose another with `make env PYTHON=...`.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& { echo $$python; break; }; done)

VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime-installed
HELPDESK := $(VENV)/.helpdesk-installed
DEV := $(VENV)/.dev-installed
BENCH_VENV := .venv-bench
BENCH := $(BENCH_VENV)/.installed

step = @printf '\n==> %s\n' '$(1)'

.PHONY: help env demo test chaos check lint types imports audit coverage docs wheel bench bench-short fmt clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

env: $(DEV) ## Create or refresh .venv with the package, its extras and the development tools

# The stamps are written last: an installation that failed is done again, not taken for done.
$(RUNTIME): pyproject.toml
	$(call step,Environment: tenantry and its extras)
	@rm -f $(RUNTIME) $(HELPDESK) $(DEV)
	@if [ -z '$(PYTHON)' ]; then \
		echo 'Tenantry needs Python 3.11 or later, and none was found. Install one, or name it:' \
			'make $(or $(MAKECMDGOALS),env) PYTHON=/path/to/python3.11' >&2; exit 1; fi
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'Tenantry needs Python 3.11 or later, and "$(PYTHON)" is not.' \
			'Name another: make $(or $(MAKECMDGOALS),env) PYTHON=/path/to/python3.11' >&2; exit 1; }
	@$(BIN)/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| '$(PYTHON)' -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --editable '.[all]'
	@touch $(RUNTIME)

$(HELPDESK): $(RUNTIME)
	$(call step,Environment: what the help desk runs on)
	@$(BIN)/python -m pip install --quiet --group helpdesk
	@touch $(HELPDESK)

$(DEV): $(RUNTIME)
	$(call step,Environment: development tools)
	@$(BIN)/python -m pip install --quiet --group dev
	@touch $(DEV)

demo: $(HELPDESK) ## Run the help desk under load, kill a worker, show the answers; KEEP=1 leaves it running
	$(call step,Demonstration)
	@cd examples && ../$(BIN)/python -m helpdesk.demo $(if $(KEEP),--keep) $(ARGS)

test: $(DEV) ## Run the tests; options in ARGS="..."
	$(call step,Tests)
	@$(BIN)/python -m pytest -q -n 2 $(ARGS)

chaos: $(DEV) ## Kill, fork, cut and fill everything, and write the measured matrix; under ten minutes
	$(call step,Chaos)
	@$(BIN)/python -m tests.chaos --matrix docs/explanation/delivery-matrix.md $(ARGS)

check: ## Run all that must pass before a change is merged, cheapest first
	@$(MAKE) --no-print-directory env
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory types
	@$(MAKE) --no-print-directory imports
	@$(MAKE) --no-print-directory audit
	@$(MAKE) --no-print-directory coverage
	@$(MAKE) --no-print-directory docs
	@$(MAKE) --no-print-directory wheel
	@$(MAKE) --no-print-directory bench-short
	$(call step,All checks passed)

lint: $(DEV) ## Check format, lint rules and spelling
	$(call step,ruff format --check)
	@$(BIN)/ruff format --check
	$(call step,ruff check)
	@$(BIN)/ruff check
	$(call step,codespell)
	@$(BIN)/codespell

types: $(DEV) ## Check types with mypy and basedpyright
	$(call step,mypy)
	@$(BIN)/mypy
	$(call step,basedpyright)
	@$(BIN)/basedpyright

imports: $(DEV) ## Check that imports point one way
	$(call step,lint-imports)
	@$(BIN)/lint-imports

audit: $(DEV) ## Ask for known vulnerabilities of all that is installed; says so where nobody answers
	$(call step,pip-audit)
	@$(BIN)/python scripts/audit.py

coverage: $(DEV) ## Run the tests and report what they do not reach
	$(call step,Tests with coverage)
	@rm -f .coverage .coverage.*
	@$(BIN)/coverage run -m pytest -q -n 2 --ignore tests/delivery --ignore tests/chaos
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report
	$(call step,Tests of delivery; unmeasured: tracing slows what signals and forks race)
	@$(BIN)/python -m pytest -q -n 2 tests/delivery tests/chaos

docs: $(DEV) ## Build the documentation into docs/_build
	$(call step,Documentation)
	@$(BIN)/sphinx-build -n -W -E --keep-going -q -b html docs docs/_build
	@echo 'docs/_build/index.html'

wheel: $(DEV) ## Build sdist and wheel, and try the wheel in a clean environment
	$(call step,Wheel and sdist)
	@rm -rf dist
	@$(BIN)/python -m build --no-isolation --outdir dist .
	$(call step,The wheel in a clean environment)
	@set -e; scratch=$$(mktemp -d); trap 'rm -rf "$$scratch"' EXIT; \
	$(BIN)/python -m venv "$$scratch/venv"; \
	"$$scratch/venv/bin/python" -m pip install --quiet --disable-pip-version-check dist/*.whl; \
	cp scripts/check_wheel.py "$$scratch"; cd "$$scratch"; \
	venv/bin/python -I check_wheel.py without-extras; \
	venv/bin/python -m pip install --quiet --disable-pip-version-check \
		"$$(ls '$(CURDIR)'/dist/*.whl)[cli,binary]"; \
	venv/bin/python -I check_wheel.py with-extras

$(BENCH): $(RUNTIME) benchmarks/requirements.txt
	$(call step,Environment: what Tenantry is compared with)
	@rm -f $(BENCH)
	@$(BIN)/python -m venv --clear $(BENCH_VENV)
	@$(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BENCH_VENV)/bin/python -m pip install --quiet --editable '.[all]' --group helpdesk --group bench \
		--requirement benchmarks/requirements.txt
	@touch $(BENCH)

bench: $(BENCH) ## Run the benchmarks beside others; options in ARGS="..." (--quick, --page)
	$(call step,Benchmarks)
	@$(BENCH_VENV)/bin/python -m benchmarks $(ARGS)

# A figure is a finding, never a test: this never fails for being slow.
bench-short: $(DEV) ## Show in a few seconds what a call costs
	$(call step,What a call costs)
	@$(BIN)/python -m benchmarks.short

fmt: $(DEV) ## Format the code and mend what ruff can mend
	@$(BIN)/ruff format
	@$(BIN)/ruff check --fix

clean: ## Remove the environment and everything that was built
	rm -rf $(VENV) $(BENCH_VENV) dist build docs/_build .coverage .coverage.* .hypothesis
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
