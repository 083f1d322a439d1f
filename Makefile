# `make demo` and `make test` are all a newcomer needs: each makes .venv by itself, once.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check

ENV_PROJECTS := $(sort $(wildcard environments/*/pyproject.toml))
ENV_DIRS     := $(patsubst %/pyproject.toml,%,$(ENV_PROJECTS))
DEMO_DIRS    := $(filter environments/echo environments/gymnasium,$(ENV_DIRS))
# Extras of environments that their tests need.
EXTRAS_coding := [monty]
# One pip command names them all, so that the environments find the openenv-async beside them.
editable      = $(foreach dir,$(1),-e './$(dir)$(EXTRAS_$(notdir $(dir)))')

DEMO       ?= $(BIN)/openenv-async demo
PYTEST_ARGS ?= -n 2 --dist loadgroup
BENCH_ARGS ?=
MUTANTS_ARGS ?=
SECONDS    ?= 600
COVERAGE_FLOOR := 60

.PHONY: demo test test-heavy lint mutants bench soak venv clean

demo: $(VENV)/.demo-installed
	$(DEMO)

test: $(VENV)/.dev-installed
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m "not heavy"

# The tests that failed last, one at a time; refused where they are more than a busy machine explains.
MOST_AGAIN := 5
.PHONY: test-again
test-again: $(VENV)/.dev-installed
	$(BIN)/python -c "import json; failed = json.load(open('.pytest_cache/v/cache/lastfailed')); \
		exit(f'{len(failed)} tests failed: too many to try again' if len(failed) > $(MOST_AGAIN) else 0)"
	$(BIN)/python -m pytest -v -m "not heavy" --last-failed --last-failed-no-failures=none

.PHONY: test-core test-pythons coverage

# Each room by itself, without Docker, browser, torch or Ray: under two minutes on two cores.
test-core: $(VENV)/.core-installed
	$(BIN)/python -m pytest --core $(PYTEST_ARGS) tests

# The core tests under each Python of the metadata that is here.
test-pythons:
	.ci/pythons

# Of the core tests; what only a whole server or a worker process runs is not counted as covered.
coverage: $(VENV)/.core-installed
	$(BIN)/python -m pytest --core $(PYTEST_ARGS) --cov --cov-report=term \
		--cov-fail-under=$(COVERAGE_FLOOR) tests

# What takes minutes: every ROM and every game, all images, pushing, hundreds of containers.
test-heavy: $(VENV)/.dev-installed
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m heavy

lint: $(VENV)/.dev-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@set -e; for dir in $(ENV_DIRS); do \
		echo "$(BIN)/mypy $$dir"; \
		MYPYPATH=$$dir $(BIN)/mypy $$dir; \
	done
	$(BIN)/lint-imports --no-cache
	$(BIN)/codespell

# Mutations of the engine, client, pool, protocol and rollouts, each tried on a copy of the tree.
mutants: $(VENV)/.dev-installed
	$(BIN)/python -m tests.mutants $(MUTANTS_ARGS)

# The package, the environments and all that they need, as wheels in dist/: what `pip install
# --no-index --find-links dist openenv-async-echo` installs from, on a machine without a network.
.PHONY: wheels
wheels: $(BIN)/python
	$(PIP) wheel --quiet --wheel-dir dist . $(foreach dir,$(ENV_DIRS),./$(dir))

bench: $(VENV)/.dev-installed
	$(BIN)/python -m benchmarks.compare $(BENCH_ARGS)

# The documentation site, without network.
.PHONY: docs
docs: $(VENV)/.docs-installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "build/site/index.html; with search: $(BIN)/python -m http.server -d build/site"

soak: $(VENV)/.dev-installed
	$(BIN)/python -m benchmarks.soak --seconds $(SECONDS)

venv: $(VENV)/.dev-installed

clean:
	rm -rf $(VENV) benchmarks/.venvs build dist .mypy_cache .ruff_cache .pytest_cache \
		.hypothesis .import_linter_cache .coverage .coverage.* htmlcov demo-output
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.demo-installed: pyproject.toml openenv_async/version.py $(ENV_PROJECTS) | $(BIN)/python
	$(PIP) install --quiet -e '.[fast]' $(call editable,$(DEMO_DIRS))
	@touch $@

# Nothing to do where `make venv` was.
$(VENV)/.core-installed: pyproject.toml openenv_async/version.py | $(BIN)/python
	test -e $(VENV)/.dev-installed || $(PIP) install --quiet -e '.[dev-core]' -e ./environments/echo
	@touch $@

$(VENV)/.docs-installed: pyproject.toml openenv_async/version.py | $(BIN)/python
	test -e $(VENV)/.dev-installed || $(PIP) install --quiet -e '.[docs]'
	@touch $@

# Everything the demo needs is in here as well.
$(VENV)/.dev-installed: pyproject.toml openenv_async/version.py $(ENV_PROJECTS) | $(BIN)/python
	$(PIP) install --quiet -e '.[dev]' $(call editable,$(ENV_DIRS))
	@touch $@ $(VENV)/.demo-installed
