# Everything a developer or a newcomer runs. `make demo` and `make test` need Python >= 3.11 and make, nothing else.

SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
# Stealing work: tests that take minutes stand side by side in a file, and would wait behind each other in one process.
PYTEST := $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist worksteal --durations 25
LOCK ?= requirements.lock
WORKSPACE ?= workspace
STAMP := $(VENV)/.installed-$(shell cat pyproject.toml $(LOCK) | cksum | cut -d' ' -f1)

.PHONY: help setup demo test check lint types layers test-all real real-ablation real-boxes bench bench-peers chaos lock clean

help:
	@echo "make demo           run the whole job on generated figures and print where the report is"
	@echo "make test           run the tests"
	@echo "make check          lint, types, layer rule, tests with coverage (what CI runs)"
	@echo "make test-all       the slow suites too"
	@echo "make real           real photographs and weights: HYPERCOLUMNS_REAL_DATA=folder"
	@echo "make real-ablation  what each choice buys, on real photographs"
	@echo "make real-boxes     masks, keypoints and parts in boxes, on real photographs: HYPERCOLUMNS_REAL_DATA=folder"
	@echo "make bench          benchmarks"
	@echo "make bench-peers    the same job done in other ways, side by side: HYPERCOLUMNS_REAL_DATA=folder"
	@echo "make chaos          break things on purpose, count what is lost; CASES=0.1 for a tenth of the cases, ONLY=name for one"
	@echo "make setup          install into $(VENV); LOCK=requirements-cpu.lock for machines without CUDA"

setup: $(STAMP)

$(STAMP): pyproject.toml $(LOCK)
	@test -n "$(PYTHON)" || { echo "error: expected Python 3.11 or newer on the PATH, found none" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(if $(findstring cpu,$(LOCK)),UV_TORCH_BACKEND=cpu )$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python $(LOCK)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@rm -f $(VENV)/.installed-*
	@touch $@

demo: setup
	$(BIN)/hypercolumns demo --workspace $(WORKSPACE)

test: setup
	$(PYTEST)

check: setup lint types layers
	$(PYTEST) --cov --cov-report=term --cov-fail-under=95

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

layers: setup
	$(BIN)/lint-imports

test-all: setup
	$(PYTEST) -m ""

real: setup
	@test -n "$(HYPERCOLUMNS_REAL_DATA)" || { echo "error: expected HYPERCOLUMNS_REAL_DATA=folder with data/ and weights/" >&2; exit 2; }
	$(BIN)/python -m benchmarks.real --workspace $(WORKSPACE)/real

real-ablation: setup
	@test -n "$(HYPERCOLUMNS_REAL_DATA)" || { echo "error: expected HYPERCOLUMNS_REAL_DATA=folder with data/ and weights/" >&2; exit 2; }
	$(BIN)/python -m benchmarks.ablation --workspace $(WORKSPACE)/real

real-boxes: setup
	@test -n "$(HYPERCOLUMNS_REAL_DATA)" || { echo "error: expected HYPERCOLUMNS_REAL_DATA=folder with data/ and weights/" >&2; exit 2; }
	$(BIN)/python -m benchmarks.real_boxes --workspace $(WORKSPACE)/real-boxes $(if $(SMALL),--small)

bench: setup
	$(BIN)/python -m benchmarks.run $(if $(ONLY),--only $(ONLY))

bench-peers: setup
	@test -n "$(HYPERCOLUMNS_REAL_DATA)" || { echo "error: expected HYPERCOLUMNS_REAL_DATA=folder with data/ and weights/" >&2; exit 2; }
	$(BIN)/python -m benchmarks.peers.run --work $(WORKSPACE)/peers $(if $(ONLY),--only $(ONLY))

chaos: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m chaos.run --cases $(or $(CASES),1) $(if $(ONLY),--only $(ONLY))

COMPILE := uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-header --extra pipeline --extra boxes --extra s3 --group dev

# The CPU lock is the same pins without the packages that torch needs for CUDA.
lock:
	$(BIN)/$(COMPILE) --upgrade pyproject.toml -o requirements.lock
	$(BIN)/$(COMPILE) --no-annotate pyproject.toml -c requirements.lock | grep -vE '^(nvidia|cuda|triton)' > requirements-cpu.lock

clean:
	rm -rf $(VENV) $(WORKSPACE) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .coverage
