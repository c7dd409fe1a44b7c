ifeq ($(origin PYTHON), undefined)
PYTHON := $(shell python3.11 --version >/dev/null 2>&1 && echo python3.11 || echo python3)
endif
PIP := .venv/bin/python -m pip install --quiet --disable-pip-version-check
# -P: the tests are to meet the package as installed, not the source beside them.
PYTEST := .venv/bin/python -P -m pytest
# With the directories, whose time changes when a file is removed.
SOURCES := pyproject.toml README.md LICENSE $(shell find thoonk_jobs -name __pycache__ -prune -o -print)

.DEFAULT_GOAL := help
.PHONY: help demo bench test check check-static lint docs docs-fresh fmt slow faults clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | awk -F '\t' '{ printf "make %-14s %s\n", $$1, $$2 }'

demo: .venv/.installed  ## see it work: publish jobs, run them, hear when they are done
	.venv/bin/thoonk-jobs demo

bench: .venv/.installed  ## measure what a job costs, on a private server; ARGS="--quick" or "--only NAME"
	.venv/bin/python benchmarks/core.py $(ARGS)

test: .venv/.installed  ## run the tests against the installed package; ARGS="-k name" for some
	$(PYTEST) -n auto --dist loadfile $(ARGS)

check: lint test  ## all that a change must pass: lint, format, types, tests

check-static: lint docs-fresh  ## lint, format, types, and whether statemachine.md is up to date

lint: .venv/.dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy --strict thoonk_jobs benchmarks/*.py

fmt: .venv/.dev  ## format the code, and mend what ruff can
	.venv/bin/ruff check --fix-only .
	.venv/bin/ruff format .

docs: .venv/.installed  ## write statemachine.md from the table
	.venv/bin/python -m thoonk_jobs.document

docs-fresh: .venv/.installed
	@cp statemachine.md .venv/statemachine.before
	@$(MAKE) --no-print-directory docs
	@cmp -s statemachine.md .venv/statemachine.before \
	  || { echo "statemachine.md was out of date; it is written anew, commit it"; exit 1; }

slow: .venv/.installed  ## run the tests that take long
	$(PYTEST) -m slow -n auto --dist loadfile $(ARGS)

faults: .venv/.installed  ## kill, freeze, cut off: the tests of faults, a quarter of an hour
	$(PYTEST) tests/faults -m "slow or not slow" $(ARGS)

clean:  ## remove what make has made
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.installed: $(SOURCES) | .venv/bin/python
	$(PIP) '.[test]'
	@touch $@

.venv/.dev: pyproject.toml | .venv/.installed
	$(PIP) '.[dev]'
	@touch $@
