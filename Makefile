# Bare `make` lists what there is. `make run` and `make test` set up .venv by themselves.

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help run test check format lint types contracts constraints bench

# The first Python >= 3.11 that answers; `make PYTHON=/path/to/python …` names another.
NEW_ENOUGH := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for candidate in python3.13 python3.12 python3.11 python3; do \
	$$candidate -c '$(NEW_ENOUGH)' >/dev/null 2>&1 && { command -v $$candidate; break; }; done)

BIN := .venv/bin
# Hashes are checked only for what is named with -r, so the pinned files are installed as requirements;
# then nothing is left to resolve, and the package itself comes without looking anything up.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
SELF := $(INSTALL) --no-index --no-deps --no-build-isolation --editable .
SOURCES := jobworker tests tasks schedules bench app.py celeryconfig.py flowerconfig.py

help:  ## list the commands
	@echo "make <command>:"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-14s%s\n", $$1, $$2 }' Makefile

run: .venv/runtime  ## start everything on this machine (Ctrl-C stops it)
	@exec $(BIN)/jobworker up $(ARGS)

test: .venv/dev  ## run the tests; they start the servers they need (ARGS="-k name" for some)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal $(ARGS)

check: lint types contracts test  ## all checks: format, lint, types, import contracts, tests

lint: .venv/dev
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)

types: .venv/dev
	$(BIN)/mypy

contracts: .venv/dev
	$(BIN)/lint-imports

format: .venv/dev  ## format the code
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

bench: .venv/dev  ## measure this tree beside stock Celery (ARGS="transport" for the message transport)
	$(BIN)/python -m bench $(ARGS)

constraints: .venv/dev  ## pin the newest versions that pyproject.toml allows (UPGRADE= keeps what is pinned)
	$(PIN) --group build --output-file constraints.txt pyproject.toml
	$(PIN) --group build --group dev --constraints constraints.txt --output-file constraints-dev.txt pyproject.toml

UPGRADE ?= --upgrade
PIN = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-config $(UPGRADE) \
	--custom-compile-command "make constraints"

# .venv/runtime and .venv/dev are empty files: when they are older than the pins, pip runs again.
.venv/runtime: constraints.txt pyproject.toml .venv/bin/python
	@echo "installing into .venv (once, and when constraints.txt changes) ..."
	@$(INSTALL) --require-hashes --requirement constraints.txt
	@$(SELF)
	@touch $@

.venv/dev: constraints-dev.txt pyproject.toml .venv/bin/python
	@echo "installing into .venv (once, and when constraints-dev.txt changes) ..."
	@$(INSTALL) --require-hashes --requirement constraints-dev.txt
	@$(SELF)
	@touch .venv/runtime $@

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "JobWorker needs Python 3.11 or newer with venv and ensurepip" \
		"(Debian, Ubuntu: apt-get install python3-venv); found: $$(python3 --version 2>&1)." \
		"Name another one with: make PYTHON=/path/to/python ..." >&2; exit 1; }
	@rm -rf .venv && $(PYTHON) -m venv .venv
