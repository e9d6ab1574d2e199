# Three commands do everything on a fresh machine with Python 3.11+ and, for speed, a C++ compiler:
#   make studio
#   make dream PROMPT="a red mushroom with a white stem"
#   make test
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
OPS := adam antialias attend density interpolate modulate project raster sdf seen sky splat texture volume
PROMPT ?= a red mushroom with a white stem
RECIPE ?= toybox
ARGS ?=

# $(value ...) keeps a prompt byte for byte: without it make would expand every $ in it.
export DREAM_PROMPT := $(value PROMPT)
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt

.PHONY: studio dream setup models dev test release gpu lint types format bench blender mutants native doctor clean

dream: setup
	@$(BIN)/dreamlab dream --prompt-env DREAM_PROMPT --recipe "$(RECIPE)" $(ARGS)

# The page in the browser, its queue and its REST interface, on this machine alone.
studio: $(VENV)/.ready-studio
	@$(BIN)/dreamlab studio $(ARGS)

setup: $(VENV)/.ready
# What pretrained models are built of, for recipes such as mvdream: once.
models: $(VENV)/.ready-models
dev: $(VENV)/.ready-dev

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: $(PYTHON) is older than 3.11; call make PYTHON=python3.11"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
	  || { echo "error: python venv is missing (Debian: apt-get install python3-venv)"; exit 2; }
	@echo "installing into $(VENV): about a minute the first time"
	@$(PIP) install --quiet --editable .
	@$(BIN)/python -m cuda_ext.build $(OPS) > /dev/null \
	  || echo "note: no native ops (see above); the torch twins are used, slower"
	@touch $@

$(VENV)/.ready-studio: $(VENV)/.ready
	@$(PIP) install --quiet --editable '.[studio]'
	@touch $@

$(VENV)/.ready-models: $(VENV)/.ready
	@$(PIP) install --quiet --editable '.[models]'
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	@$(PIP) install --quiet --upgrade 'pip>=25.1'
	@$(PIP) install --quiet --group dev
	@touch $@

# The default recipe's ops are built by setup, any other at its first use; this builds them all ahead.
native: setup
	@$(BIN)/python -m cuda_ext.build

# A process per core and one more, for browsers and workers are waited for; at most six (each holds a gigabyte), which
# steal each other's tests.
test: dev
	@n=$$(( $$(OMP_NUM_THREADS= nproc 2>/dev/null || echo 1) + 1 )); \
	  $(BIN)/python -m pytest --numprocesses $$(( n < 6 ? n : 6 )) --dist worksteal $(ARGS)

# What takes minutes and gigabytes: a published network at its full size, to the end of a run.
release: dev
	@$(BIN)/python -m pytest -m release $(ARGS)

# The first thing to run on a machine with a GPU and torch's CUDA build in $(VENV): parity of every op, every scene's
# training, resume and export, then the kernels' times beside the model of them.
gpu: dev
	@$(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' \
	  || { echo "error: torch in $(VENV) sees no CUDA device; install its CUDA build there, and look at nvidia-smi"; exit 2; }
	@$(BIN)/python -m pytest -m gpu $(ARGS)
	@$(BIN)/dreamlab bench kernels --model --json gpu.json

lint: dev
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: dev
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

types: dev
	@$(BIN)/mypy

# Plants the faults of benchmarks/faults one by one and sees that the tests named there fail: a quarter of an hour.
mutants: dev
	@$(BIN)/python -m benchmarks.mutants $(ARGS)

bench: dev
	@$(BIN)/dreamlab bench startup && $(BIN)/dreamlab bench step

# The extension for Blender 4.2 and newer: drop the zip onto Blender's window.
blender: setup
	@mkdir -p build && cd tools/blender/dreamlab && $(CURDIR)/$(BIN)/python -m zipfile -c ../../../build/dreamlab-blender.zip *.py *.toml
	@echo build/dreamlab-blender.zip

doctor: setup
	@$(BIN)/dreamlab doctor

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
