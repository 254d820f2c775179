# `make demo` and `make test` do all set-up themselves: a virtual environment in .venv with everything pinned in
# pyproject.toml. Nothing is installed outside this folder.
SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
  command -v $$p >/dev/null 2>&1 && $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
  && { echo $$p; break; }; done)
PY := .venv/bin/python
READY := .venv/.ready
# With this environment everything that a test starts is the compiled build: -P keeps this folder from being found first.
COMPILED := PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/build/compiled:$(CURDIR) GOSSAMER_BUILD=compiled
ON_COMPILED := tests/unit/agent tests/unit/test_build.py tests/transcripts tests/property/test_http1.py \
  tests/property/test_headers.py tests/property/test_routes.py tests/property/test_load_balancing.py \
  tests/property/test_outlier_detection.py tests/property/test_frames.py tests/differential/test_answers.py \
  tests/differential/test_requests.py tests/differential/test_resilience.py
FUZZER := .venv/.fuzzer
FUZZ_SECONDS ?= 300
CONFORMANCE := tests/conformance tests/transcripts tests/property/test_sessions.py tests/property/test_policy_sets.py

.PHONY: help setup demo demo-keep test test-all test-differential test-conformance fuzz build test-compiled check format proto stubs golden bench-dataplane bench-controlplane clean

help: ## Show the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-20s %s\n", $$1, $$2}' Makefile

setup: $(READY) ## Make the virtual environment with everything in it

$(READY): pyproject.toml
	@[ "$$(uname -s)" = Linux ] || { echo "gossamer runs on Linux; this is $$(uname -s)" >&2; exit 1; }
	@[ -n "$(PYTHON)" ] || { echo "no Python 3.11 or newer with venv and ensurepip found: install python3 and python3-venv, or say make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "setting up .venv with $$($(PYTHON) --version) (about a minute, once)"
	@[ -x $(PY) ] || $(PYTHON) -m venv .venv
	@$(PY) -m pip install --quiet --disable-pip-version-check --upgrade pip
	@$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[all]'
	@touch $@

demo: $(READY) ## Run the whole mesh on loopback and show what it does (about a minute)
	@.venv/bin/meshctl demo

demo-keep: $(READY) ## The same, and leave it running until Ctrl-C
	@.venv/bin/meshctl demo --keep

test: $(READY) ## Run all tests, two files at a time (PYTEST_ARGS="-n 0 PATH" for one)
	@$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-all: $(READY) ## The same at full depth: random examples, many more of them, 1 GiB bodies, all differential cases
	@TEST_DEPTH=full $(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder --timeout 1800 $(PYTEST_ARGS)

test-conformance: $(READY) ## Run the protocol suites alone: conformance, transcripts, the client model, generated policy sets
	@$(PY) -m pytest $(CONFORMANCE) $(PYTEST_ARGS)

test-differential: $(READY) ## Envoy and the agent side by side, every answer compared
	@TEST_DEPTH=full $(PY) -m pytest tests/differential $(PYTEST_ARGS)

build: $(READY) stubs ## Compile the hot packages with mypyc into build/compiled (about a minute; needs a C compiler)
	@GOSSAMER_COMPILE=1 $(PY) setup.py -q build --build-base build/native --build-lib build/compiled
	@env $(COMPILED) $(PY) -c "from agent.supervisor.build import BUILD; print('build/compiled is', BUILD)"

test-compiled: build ## The agent's units, transcripts, properties and a part of the differential suite on the compiled build
	@env $(COMPILED) $(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -o "pythonpath=build/compiled ." $(ON_COMPILED) $(PYTEST_ARGS)

fuzz: $(FUZZER) ## Coverage-guided fuzzing of parsers and decoders for FUZZ_SECONDS (300)
	@$(PY) -m tests.fuzz --seconds $(FUZZ_SECONDS)

$(FUZZER): $(READY)
	@$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	@touch $@

check: $(READY) stubs ## Format, lint, types, layers, generated code
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-cache
	@$(PY) proto/generate.py check

format: $(READY) ## Format and fix what can be fixed
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix .

proto: $(READY) ## Generate the code of our .proto files (committed)
	@$(PY) proto/generate.py code

stubs: $(READY) ## Generate type stubs for the installed xDS messages (not committed)
	@[ typings/.ready -nt $(READY) -a typings/.ready -nt proto/generate.py ] || { $(PY) proto/generate.py stubs && touch typings/.ready; }

golden: $(READY) ## Rewrite the compiler's golden files; read the diff before you commit it
	@$(PY) -m pytest tests/golden --update-golden

bench-dataplane: $(READY) ## The agent beside Envoy: requests per second per core, latency, memory
	@$(PY) -m bench.dataplane

bench-controlplane: $(READY) ## Changes to 1000 and 5000 delta streams: time, CPU, memory, beside the goals
	@$(PY) -m bench.controlplane

clean: ## Remove the virtual environment and what was generated
	@rm -rf .venv typings build *.egg-info
