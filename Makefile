# make demo | test | lint | slow | clean. Each makes .venv itself and installs what it needs, once.
#
# On Linux, PyPI's torch brings CUDA's libraries along. For the smaller CPU build, choose PyTorch's own index:
#   make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

SHELL := /bin/bash
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3.11 python3; do $$p -c '$(NEW_ENOUGH)' 2> /dev/null && echo $$p && break; done)
PIP_ARGS ?=
DEMO_ARGS ?=
PYTEST_ARGS ?=

# Torch's threads sleep while they wait: where other programs want the cores too, spinning costs far more.
OMP_WAIT_POLICY ?= passive
export OMP_WAIT_POLICY

BIN := .venv/bin
READY := .venv/ready

ifdef CI
PIP_ARGS += --progress-bar off
PYTEST_ARGS += --color=no
endif

.PHONY: demo test lint slow clean
.DEFAULT_GOAL := test

demo: $(READY)
	$(BIN)/pizero demo $(DEMO_ARGS)

test: lint
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile -m "not slow and not gpu" $(PYTEST_ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/codespell

slow: $(READY)
	$(BIN)/python -m pytest -m "slow and not gpu" $(PYTEST_ARGS)

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "pizero needs Python 3.11 or later: install it, or set PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2> /dev/null || \
		{ echo "$(PYTHON) cannot make a .venv: on Debian or Ubuntu, apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e ".[metaworld,orbax,hdf5,zarr,hub,dev]"
	@touch $@
