# Everything a person or CI does with this repository. `make` alone lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= $(shell tools/find_python.sh)
BIN := .venv/bin
TORCH_INDEX ?=
MODELS ?= smollm2-135m minilm-l6-v2
RUNS ?= 50
MODEL_RUNS ?= 3
SEEDS ?= 2000
ARGS ?=
export PIP_DISABLE_PIP_VERSION_CHECK = 1

ifeq ($(shell uname -s),Darwin)  # Homebrew's GMP is where no compiler looks by itself
export CPPFLAGS += -I$(shell brew --prefix 2>/dev/null)/include
export CFLAGS += -I$(shell brew --prefix 2>/dev/null)/include
export LDFLAGS += -L$(shell brew --prefix 2>/dev/null)/lib
endif

.PHONY: help install models swarm test format bench chaos adversary faults clean FORCE

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*  ## /\1\t/p' Makefile | expand -t 10
	@echo
	@echo 'TORCH_INDEX=<url>  where to take torch from, such as https://download.pytorch.org/whl/cpu'
	@echo 'ARGS="…"           more arguments for swarm, test, bench, chaos or adversary'

install: .venv/installed  ## make .venv with everything in it

models: .venv/models  ## fetch the models that swarm and tests use, convert them once

swarm: install models  ## agents with real models work for pay on docs/ and README.md
	$(BIN)/ainp2p swarm docs/ README.md $(ARGS)

test: install models  ## formatting, lint, types, tests, the README's blocks, the examples
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2 $(ARGS)

format: install  ## make the code look as `make test` wants it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install models  ## print the table of speeds
	$(BIN)/python -m benchmarks $(ARGS)

chaos: install models  ## kill a process of a swarm at a random moment, RUNS times scripted, MODEL_RUNS real
	$(BIN)/python -m ainp2p.swarm.chaos --runs $(RUNS) $(ARGS)
	$(BIN)/python -m ainp2p.swarm.chaos --runs $(MODEL_RUNS) --model smollm2-135m $(ARGS)

adversary: install  ## attack the ledger's committees, SEEDS times
	$(BIN)/python -m tests.adversary --seeds $(SEEDS) $(ARGS)

faults: install  ## a simulated town in SEEDS storms: every fault, and what must hold
	$(BIN)/pytest -n 2 -q -p no:cacheprovider tests/simulation/test_storm.py --sim-seeds $(SEEDS) $(ARGS)

clean:  ## remove .venv and what tools left behind
	rm -rf .venv build dist ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis swarm-report

# --- how .venv comes to be: each file is the proof of one step, remade when what it rests on changes -------

.venv/bin/python:
	@tools/check_machine.sh "$(PYTHON)"
	@echo 'making .venv with $(PYTHON)'
	@"$(PYTHON)" -m venv .venv

.venv/torch_index: .venv/bin/python FORCE
	@echo '$(TORCH_INDEX)' | cmp -s - $@ || echo '$(TORCH_INDEX)' > $@

.venv/torch: .venv/torch_index constraints.txt tools/install_torch.sh
	@echo 'installing torch (some 200 MB)'
	@TORCH_INDEX='$(TORCH_INDEX)' tools/install_torch.sh $(BIN)/python
	@touch $@

.venv/installed: .venv/torch pyproject.toml constraints.txt
	@echo 'installing ainp2p and what it needs'
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[model,dev]'
	@touch $@

.venv/models: .venv/installed FORCE
	@$(BIN)/ainp2p model fetch $(MODELS)
	@touch $@
