SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
MAKEFLAGS += --no-builtin-rules --no-print-directory

PYTHON3 ?= python3
VENV := .venv
PYTHON := $(VENV)/bin/python

# The model of the zoo that the stages are about: make demo MODEL=photos
MODEL ?= digits

# What stands for a stage that is done. Stamps are written when all of it succeeded.
INSTALLED := $(VENV)/.installed
ARTIFACTS := artifacts/$(MODEL)
TRAINED := $(ARTIFACTS)/weights.safetensors $(ARTIFACTS)/contract.json $(ARTIFACTS)/metrics.json
EXPORTED := model_store/.exported-$(MODEL)

INFERENCE := $(shell find inference -name '*.py' -o -name '*.toml')
INPUTS := $(filter inference/base.py inference/contract.py inference/weights.py inference/inputs/% inference/outputs/%,$(INFERENCE))
TRAINING_SOURCES := $(wildcard training/*.py models/data/*.py models/__init__.py models/$(MODEL).py) $(INPUTS)
EXPORT_SOURCES := $(wildcard export/*.py serve/torchserve/handler.py) $(INFERENCE)

# A seven where there is one, or the first that training kept.
SAMPLE = $(or $(firstword $(wildcard $(ARTIFACTS)/samples/seven.png $(ARTIFACTS)/samples/*)),$(ARTIFACTS)/samples)

# pyproject.toml's dependencies as exact versions and hashes, without the name of any index.
LOCK := $(PYTHON) -m uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-config \
	--quiet pyproject.toml --custom-compile-command "make lock"
# What the packages of the image name as needed and only compile with.
BUILD_ONLY := setuptools triton wheel

.PHONY: help setup demo train export serve predict verify compare stop bench test test-rest test-all test-faults test-endurance test-containers check lock clean

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-15s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(INSTALLED)  ## first, or let any other target do it: install the locked packages into .venv

demo: $(EXPORTED)  ## to see it all: set up, train, export, serve, predict, verify, compare, stop
	@trap 'status=$$?; trap "" INT TERM; $(MAKE) stop || status=1; exit $$status' EXIT; \
	trap 'exit 130' INT; trap 'exit 143' TERM; \
	$(MAKE) stop serve predict verify compare; \
	printf '\nThe report: %s\n' '$(ARTIFACTS)/verify.json, compare.json and compare.png'

train: $(TRAINED)  ## after a change in models/ or training/: train the model (digits, or another: MODEL=photos)

export: $(EXPORTED)  ## after training: write one checked archive per runtime to model_store/

serve: $(EXPORTED)  ## to use the model: start a local TorchServe and wait until it answers
	$(PYTHON) -m serve up $(MODEL)

predict: $(INSTALLED)  ## while it serves: ask for the label of one sample
	$(PYTHON) -m client predict --model $(MODEL)-onnx $(SAMPLE)

verify: $(INSTALLED)  ## while it serves: compare every hop with the eager model
	$(PYTHON) -m client verify

compare: $(INSTALLED)  ## while it serves: measure the runtimes against each other
	$(PYTHON) -m client compare

stop:  ## when done: stop the server
	@if [ -e $(INSTALLED) ]; then $(PYTHON) -m serve down; fi

bench:  ## on a quiet machine with a network: this server beside its peers, into docs/benchmarks.md
	$(MAKE) export MODEL=photos
	$(PYTHON) -m export photos --runtime onnx-int8
	$(PYTHON) -m benchmarks.servers
	$(PYTHON) -m benchmarks.breakdown photos-onnx photos-onnx-int8
	$(PYTHON) -m benchmarks.table

test: $(INSTALLED)  ## before a commit: every hop, one fault of each group and a minute of endurance
	$(PYTHON) -m pytest -m "not containers and not rest"

test-rest: $(INSTALLED)  ## before a merge: what make test left out and needs no Docker, all other faults among it
	$(PYTHON) -m pytest -m "rest and not containers"

test-all: $(INSTALLED)  ## instead of the two above: run every test that needs no Docker
	$(PYTHON) -m pytest -m "not containers"

test-faults: $(INSTALLED)  ## after a change of verify: put each known fault in, and print the hop that names it
	$(PYTHON) -m pytest tests/faults

test-endurance: $(INSTALLED)  ## before a release: half an hour of load, fuzz and kills (ENDURANCE=full), which make test-all does in short
	ENDURANCE=full $(PYTHON) -m pytest tests/endurance

test-containers: $(INSTALLED)  ## after a change of the image, of docker-compose.yml or of serve/: run the tests with Docker
	$(PYTHON) -m pytest tests/containers

check: $(INSTALLED)  ## before a commit: format, lint and types
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m ruff check
	$(PYTHON) -m mypy

lock: $(INSTALLED)  ## after a change of the dependencies in pyproject.toml: pin them anew
	$(LOCK) --all-extras --output-file requirements.lock
	$(LOCK) --extra serve --constraint requirements.lock $(BUILD_ONLY:%=--no-emit-package %) --output-file serve/requirements.lock

clean: stop  ## to start over: remove what was trained and exported; .venv and downloaded data stay
	rm -rf artifacts model_store .serve build .hypothesis .mypy_cache .pytest_cache .ruff_cache

$(INSTALLED): requirements.lock
	@$(PYTHON3) -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "$(PYTHON3) is missing, older than 3.11, or without venv. Name another: make setup PYTHON3=python3.12" >&2; \
		exit 1; }
	$(PYTHON3) -m venv $(VENV)
	$(PYTHON) -m pip install --disable-pip-version-check --require-hashes --requirement requirements.lock
	@touch $@

$(TRAINED) &: $(INSTALLED) $(TRAINING_SOURCES)
	$(PYTHON) -m training $(MODEL)

$(EXPORTED): $(TRAINED) $(EXPORT_SOURCES)
	$(PYTHON) -m export $(MODEL) $(if $(filter $(TRAINED) inference/goldens.py inference/inputs/%,$?),--new-goldens)
	@touch $@
