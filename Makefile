# Everything Shoal does, by one word each. Every target sets up what it needs.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Never a script of .venv/bin: its first line names where the environment was made.
RUN := $(BIN)/python -m
export PATH := $(CURDIR)/$(BIN):$(PATH)
export USER ?= $(shell id -u)
export PYTHONDONTWRITEBYTECODE := 1
export DVC_NO_ANALYTICS := 1
# File by file on several processes, each on one core: threads that wait for each other's cores spin.
PYTEST := OMP_NUM_THREADS=1 $(RUN) pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: help setup doctor data preset repro sweep status compare choose bench bundle test faults check device-check ui clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY) ## make the environment in .venv from requirements.lock

$(READY): requirements.lock scripts/setup.sh
	@PYTHON="$(PYTHON)" bash scripts/setup.sh "$(VENV)"
	@touch $(READY)

doctor: setup ## say what works on this machine, what does not, what to do
	@$(RUN) pipeline doctor $(ARGS)

data: setup ## fetch and prepare the images
	@$(RUN) dvc repro prepare

preset: setup ## lay presets over params.yaml: make preset P="cifar10 resnet18" DATA=/data/cifar10
	@$(RUN) pipeline preset $(P) $(if $(DATA),--data "$(DATA)")

repro: setup ## run the whole pipeline, print the table of variants
	@$(BIN)/python -m pipeline.cli.dvc
	@$(RUN) dvc repro
	@echo; $(RUN) pipeline compare; echo
	@echo "All on one page: reports/index.html; every variant in the MLflow UI: make ui"

sweep: setup ## run a grid of variants: make sweep ARGS="lambda=0,1,5 seed=0,1,2 -j 2"
	@$(RUN) pipeline sweep $(ARGS)

status: setup ## say how far every variant is, and what to do next
	@$(RUN) pipeline status $(ARGS)

compare: setup ## all variants in a table: make compare ARGS="--by accuracy --front"
	@$(RUN) pipeline compare $(ARGS)

choose: setup ## which one to ship: make choose ARGS="--latency-ms 4 --max-drop 1"
	@$(RUN) pipeline choose $(ARGS)

bench: setup ## time all that can run here: make bench ARGS="--min-accuracy 90 --batch 1 128"
	@$(RUN) pipeline bench $(ARGS)

bundle: setup ## make a bundle for a device: make bundle [VARIANT=lacoot [LEVEL=5] [PRECISION=int8]]
	@$(RUN) pipeline bundle $(VARIANT) $(if $(LEVEL),--level $(LEVEL)) \
		$(if $(PRECISION),--precision $(PRECISION))

test: setup ## run the tests
	@$(PYTEST)

faults: setup ## kill, starve and corrupt every stage, fully (1 h or more); writes docs/faults.md
	@SHOAL_FAULTS=full $(PYTEST) --dist load -m fault -p tests.faults.faults_table

check: setup ## format, lint, types, import contracts and tests
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy
	$(BIN)/python -c 'from importlinter.cli import lint_imports_command as lint; lint()'
	$(PYTEST)

device-check: setup ## prove on a machine with a GPU what only a GPU can prove
	@$(BIN)/python scripts/device_check.py

ui: setup ## open the MLflow UI on this machine
	@$(RUN) pipeline ui

clean: ## remove everything that can be made again (data, artifacts, caches, environment)
	rm -rf artifacts .cache .dvc/cache .dvc/tmp mlartifacts mlflow.db* .pytest_cache .mypy_cache .ruff_cache \
		.hypothesis .import_linter_cache $(VENV)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
