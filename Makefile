# One command each. The environment is a prerequisite: make builds it in .venv when it is missing or out of date.
#
#   make slimpajama-dedup                              on a local sample of this machine's own text
#   make slimpajama-dedup INPUT=/data/redpajama        on RedPajama-1T as published, or any folder of JSONL or Parquet
#   make slimpajama-dedup INPUT=… OUTPUT=… RECIPE=slimpajama-verified RECIPE_ARGS='--set minhash.threshold=0.9'
#   RAY_ADDRESS=… make slimpajama-dedup INPUT=…        on a cluster

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?=
INPUT ?=
OUTPUT ?=
RECIPE ?= slimpajama
RECIPE_ARGS ?=
MEGABYTES ?= 250
DOCUMENTS ?= 10000000
# Paths may hold spaces: the shell reads them from its environment, make never pastes them into a command.
export INPUT OUTPUT RECIPE PYTHON

EXTRAS := test,s3,gcs
BIN := .venv/bin
INSTALLED := .venv/.installed
SAMPLE := out/sample
CORPORA := build/english-$(MEGABYTES) build/mixture-$(MEGABYTES)

.PHONY: help setup slimpajama-dedup test check bench bench-questions bench-peers clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-18s %s\n", $$1, $$2}' Makefile

setup: $(INSTALLED) ## build the environment in .venv (PYTHON= names the interpreter for a new one)

# Wheels only, so that no compiler is needed (jsonpath-rw has none, and is pure Python). The stamp is written last: an
# interrupted installation is repeated.
$(INSTALLED): setup.cfg pyproject.toml
	@if ! $(BIN)/python -c $(SUPPORTED) 2>/dev/null; then \
	  for python in $${PYTHON:-python3.12 python3.13 python3.11 python3}; do \
	    if "$$python" -c $(SUPPORTED) 2>/dev/null; then found=$$python; break; fi; \
	  done; \
	  if [ -z "$${found:-}" ]; then \
	    echo "make: $${PYTHON:-no python3 here} is no Python 3.11, 3.12 or 3.13 with venv; install one (Debian and Ubuntu:" \
	      "python3.12 and python3.12-venv) or name it: make setup PYTHON=/path/to/python3.12" >&2; \
	    exit 1; \
	  fi; \
	  "$$found" -m venv --clear .venv; \
	fi
	@echo "installing into .venv; the first time this takes some minutes"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --no-binary jsonpath-rw --editable '.[$(EXTRAS)]'
	@touch $@

SUPPORTED := 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'

slimpajama-dedup: $(INSTALLED) ## deduplicate INPUT as SlimPajama was [INPUT= OUTPUT= RECIPE= RECIPE_ARGS=]
	@if [ -z "$$INPUT" ]; then \
	  INPUT=$(SAMPLE); \
	  $(BIN)/curate sample "$$INPUT" || exit; \
	fi; \
	if [ -z "$$OUTPUT" ]; then OUTPUT=$$($(BIN)/python -c $(DEFAULT_OUTPUT) "$$RECIPE" "$$INPUT"); fi; \
	$(BIN)/curate run "$$RECIPE" --input "$$INPUT" --output "$$OUTPUT" $(RECIPE_ARGS)

# out/RECIPE-HASH, so that neither another input nor another recipe meets an old run.
DEFAULT_OUTPUT := 'import hashlib, os, sys; recipe, path = sys.argv[1:]; \
  name = os.path.splitext(os.path.basename(recipe))[0] if os.path.isfile(recipe) else recipe; \
  place = path.rstrip("/") if "://" in path else os.path.realpath(path); \
  print(f"out/{name}-{hashlib.sha256(place.encode()).hexdigest()[:12]}")'

test: $(INSTALLED) ## all tests
	$(BIN)/python -m pytest

check: $(INSTALLED) ## linter and type checker
	$(BIN)/ruff check .
	$(BIN)/mypy curation pipelines benchmarks

# Corpora recombined from the text at INPUT, or from the local sample; benchmarks/README.md says what is measured.
bench: $(INSTALLED) $(CORPORA) ## measure this tool, and peers once they are installed [INPUT= MEGABYTES=250]
	$(BIN)/python benchmarks/kernels.py
	$(BIN)/python benchmarks/end_to_end.py $(CORPORA)
	@if [ -d .venv-datatrove ] && [ -d .venv-text-dedup ]; then \
	  $(BIN)/python benchmarks/slimpajama_peers.py $(firstword $(CORPORA)); \
	else \
	  echo "make bench-peers installs datatrove and text-dedup to compare with"; \
	fi

build/english-$(MEGABYTES) build/mixture-$(MEGABYTES): build/%-$(MEGABYTES): | $(INSTALLED)
	@if [ -z "$$INPUT" ]; then INPUT=$(SAMPLE); $(BIN)/curate sample "$$INPUT" || exit; fi; \
	$(BIN)/python benchmarks/make_corpus.py --megabytes $(MEGABYTES) --kind $* "$$INPUT" $@

# Ten million made-up documents and two runs on them, kept in build/questions: 12 GB; then the page at three sizes.
bench-questions: $(INSTALLED) ## measure what questions to a large run cost, and how its page opens [DOCUMENTS=10000000]
	$(BIN)/python benchmarks/questions.py --documents $(DOCUMENTS) build/questions
	$(BIN)/python benchmarks/page.py build/page

bench-peers: $(INSTALLED) ## install the tools to compare with, each in its own environment
	$(BIN)/python benchmarks/install_peers.py

clean: ## drop the environments, caches, benchmark corpora and the local sample; results stay
	rm -rf .venv .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis dist *.egg-info build $(SAMPLE)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
