# `make full` runs the whole chain on a fresh clone; `make test` runs the tests. The rest serves these.
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup full up test test-fast check format lock clean

help: ## Show what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: .venv/.ready .tessera/.sample ## Environment from the lock file, and the sample archive

full: setup ## The whole chain, sample archive or DATA=<folder of tiles>; only what is out of date
	tessera run $(if $(DATA),--data "$(DATA)")

up: setup ## Prefect server, worker and MLflow UI, until Ctrl-C
	tessera up

test: setup ## All tests (minutes); the same that CI runs
	pytest -n 2 --dist loadfile

test-fast: setup ## The tests that need no server, no DVC and no training
	pytest -n 2 -m "not slow"

check: setup ## Format, lint, types and import contracts
	ruff format --check .
	ruff check .
	mypy
	lint-imports

format: setup ## Format and mend what can be mended
	ruff format .
	ruff check --fix .

.venv/.ready: infra/install.sh $(wildcard infra/lock/*.txt) pyproject.toml
	sh infra/install.sh

.tessera/.sample: .venv/.ready data.dvc
	tessera sample
	@mkdir -p .tessera && touch $@

lock: ## Resolve the pins of infra/lock/requirements.in again (needs uv)
	sh infra/lock/update.sh

clean: ## Remove outputs, registry, runs and the local DVC remote; keep environment and sample
	rm -rf artifacts .tessera
