# make repro   set up, then run what is out of date, from data to registry
# make test    set up, then run the tests (TESTS="-m 'not slow'" narrows them)
# make check   format, lint, types, import contracts
# make ui      compare the runs in MLflow (PORT=5000)
# make bench   measure the claims     make docs   write docs/params.md anew     make lock   take in newer versions

PYTHON ?= python3
PORT ?= 5000
TESTS ?=
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: repro test check ui bench docs lock
.DEFAULT_GOAL := repro

repro: .venv/ready
	dvc repro

test: .venv/ready
	pytest $(TESTS)
	@[ -n '$(TESTS)' ] || echo 'Not run: the slow tests. Run them: make test TESTS="-m slow"'

check: .venv/ready
	ruff format --check .
	ruff check .
	mypy
	lint-imports --no-logo

ui: .venv/ready
	convloop ui --port $(PORT)

bench: .venv/ready
	python benchmarks/generate.py
	python benchmarks/startup.py

docs: .venv/ready
	python docs/params.py

# The lock constrains and does not list for install: a torch build for GPUs brings packages of its own.
.venv/ready: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || \
	  { echo "convloop needs Python 3.11 or 3.12; this is $$($(PYTHON) --version). Name another: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --constraint requirements.lock --editable '.[dev]'
	@touch $@

lock:
	rm -rf .venv && $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --editable '.[dev]'
	{ echo "# Every version that the tests ran with, on Python 3.11 and 3.12. Made by: make lock"; \
	  .venv/bin/python -m pip freeze --exclude-editable | sed 's/+cpu$$//'; } > requirements.lock
	@touch .venv/ready
