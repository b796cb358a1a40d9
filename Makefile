# Everything a developer or CI does. The first target that needs it makes .venv from the lock file:
# with uv where there is one, else with venv and pip.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
ARGS ?=
# Tests that run whole systems come last and by themselves: they are not to be short of time, and a file of them starts its own.
WHOLE_SYSTEMS := tests/end_to_end tests/chaos
ROUNDS ?= 1
SEED ?= 1
JOBS ?= 20000
MINUTES ?= 30

.PHONY: help dev test chaos bench check lint types contracts format lock clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(INSTALLED): requirements.lock pyproject.toml
	@if command -v uv >/dev/null 2>&1; then \
	  { [ -x $(BIN)/python ] || uv venv --quiet --python $(PYTHON) .venv; } && \
	  uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock && \
	  uv pip install --quiet --python $(BIN)/python --no-deps -e .; \
	else \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "TaskQueue needs Python 3.11 or newer; found %s. Set PYTHON=python3.x" % sys.version.split()[0])' && \
	  { [ -x $(BIN)/pip ] || $(PYTHON) -m venv --clear .venv; } && \
	  $(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock && \
	  $(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .; \
	fi
	@touch $@

dev: $(INSTALLED) ## the whole system on this machine; options: make dev ARGS="--users 10000 --once --json"
	@$(BIN)/tq dev $(ARGS)

test: $(INSTALLED) ## all tests; options: make test ARGS="-k schedule"
ifeq ($(strip $(ARGS)),)
	@$(BIN)/pytest --numprocesses 3 --dist worksteal $(addprefix --ignore=,$(WHOLE_SYSTEMS))
	@$(BIN)/pytest --numprocesses 3 --dist loadfile $(WHOLE_SYSTEMS)
else
	@$(BIN)/pytest $(ARGS)
endif

chaos: $(INSTALLED) ## real processes, everything breaks, nobody may be missed: make chaos ROUNDS=50 SEED=1 JOBS=20000
	@$(BIN)/python -m tests.chaos --rounds $(ROUNDS) --seed $(SEED) --jobs $(JOBS) $(ARGS)

bench: $(INSTALLED) ## measure everything, into bench.json; takes the machine for itself: make bench MINUTES=30 ARGS="--repeat 3"
	@$(BIN)/tq bench all --soak-minutes $(MINUTES) --json $(ARGS) > bench.json.part; code=$$?; \
	if [ -s bench.json.part ]; then mv bench.json.part bench.json; else rm bench.json.part; fi; exit $$code

check: lint types contracts test ## all that CI runs

lint: $(INSTALLED) ## ruff: layout and lint
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: $(INSTALLED) ## mypy --strict
	@$(BIN)/mypy

contracts: $(INSTALLED) ## who may import whom
	@$(BIN)/lint-imports

format: $(INSTALLED) ## lay the code out and mend what ruff can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: ## renew requirements.lock from pyproject.toml (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --group dev \
	  --custom-compile-command "make lock" pyproject.toml -o requirements.lock

clean: ## remove what the other targets made
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache bench.json bench.json.part
