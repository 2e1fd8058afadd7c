# What a person and CI run; `make help` lists it. Needs GNU make 3.81 or newer and Python 3.10 to 3.13.
# All else is installed once into .venv, and again when pyproject.toml or the lock changes.
#
#   make test PYTHON=python3.11        choose the interpreter (for a new .venv)
#   make test LOCKED=1                 install exactly requirements.lock, hash-checked (without CUDA)
#   make test-tensorflow PYTEST_ARGS="-k lineage"    pass arguments to pytest

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?=
PYTEST_ARGS ?=

# TensorFlow with CUDA only where a driver shows an NVIDIA GPU. Elsewhere the extra `tensorflow-cpu`,
# which is `tensorflow-cpu` on Linux x86-64 and plain `tensorflow` on macOS and ARM.
ifneq ($(shell nvidia-smi -L 2>/dev/null | grep '^GPU '),)
FLAVOUR := cuda
PACKAGES := '.[tensorflow,dev]' 'tensorflow[and-cuda]'
else
FLAVOUR := cpu
PACKAGES := '.[tensorflow-cpu,dev]'
endif
ifneq ($(LOCKED),)
FLAVOUR := locked
endif
STAMP := $(VENV)/.installed-$(FLAVOUR)

# A variable from the caller's shell would put other packages before the environment's.
unexport PYTHONPATH PYTHONHOME
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Fewer of TensorFlow's start-up messages (not all heed it); `TF_CPP_MIN_LOG_LEVEL=0 make ...` shows them.
TF_CPP_MIN_LOG_LEVEL ?= 2
export TF_CPP_MIN_LOG_LEVEL

# Tests run on the installed wheel. pytest is started by its script and PYTHONSAFEPATH is set, so that
# neither it nor a process that a test starts has the checkout's keras_popdescent/ before the installed
# one; reproduce/, benchmarks/, examples/ and tests/ come from checkout.pth, after site-packages.
# (Python 3.10 does not know PYTHONSAFEPATH: there `python -m` started in the checkout runs the checkout.)
# The GPU is hidden, because the tests' tolerances are the CPU's: `make test CUDA_VISIBLE_DEVICES=0`
# shows it. Two workers: each starts a TensorFlow of its own.
CUDA_VISIBLE_DEVICES := -1
PYTEST = PYTHONSAFEPATH=1 CUDA_VISIBLE_DEVICES=$(CUDA_VISIBLE_DEVICES) $(BIN)/pytest -n 2 $(PYTEST_ARGS)

.DEFAULT_GOAL := help
# Checks run in the order in which they are listed, and pytest's closing line is the last.
.NOTPARALLEL:
.PHONY: help demo test check lint types test-jax test-tensorflow test-torch format notebooks bench \
	install package lock clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' Makefile

demo: $(STAMP) ## a PopDescent search on Fashion-MNIST beside RandomSearch; writes a picture to results/
	$(BIN)/python -m examples.fashion_mnist

test: lint types test-jax test-tensorflow ## everything that must pass: format, lint, types, tests

check: test ## the same as `make test`

lint: $(STAMP) ## check format and lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP) ## check types
	$(BIN)/mypy

# One test command a backend: Keras takes its backend when it is imported, once a process.
test-jax: package ## the tests marked `backend`, on JAX
	KERAS_BACKEND=jax $(PYTEST) -m backend

test-tensorflow: package ## all tests, on TensorFlow
	KERAS_BACKEND=tensorflow $(PYTEST)

# Not part of `make test`: PyTorch is several GB where pip finds a build with CUDA.
TORCH ?= torch>=2.4
test-torch: package ## the tests marked `backend`, on PyTorch, installed where it is missing (TORCH=torch==2.13.0 chooses)
	$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/pip install '$(TORCH)'
	KERAS_BACKEND=torch $(PYTEST) -m backend

format: $(STAMP) ## format, and mend what lint can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notebooks: package ## execute the notebooks in a small setting, without saving them
	KERAS_POPDESCENT_SMALL=1 $(BIN)/jupyter-execute $(wildcard notebooks/*.ipynb)

bench: $(STAMP) ## all benchmarks, each a comparison in one run; writes benchmarks/RESULTS.md (an hour or more)
	$(BIN)/python -m benchmarks

install: $(STAMP) ## make the environment, without running anything

package: $(STAMP) ## install the checkout as it is now, as a wheel
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --force-reinstall .
	@cd $(VENV) && bin/python -c 'import importlib.util, sys; \
	  origin = importlib.util.find_spec("keras_popdescent").origin; \
	  sys.exit("site-packages" not in origin and f"The checkout is tested, not the installed package. Received: {origin}")'

lock: $(STAMP) ## write requirements.lock anew, with the newest versions (then: outputHash in flake.nix)
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --extra tensorflow-cpu --extra dev --universal \
	  --python-version 3.10 --generate-hashes --custom-compile-command 'make lock' --no-emit-index-url --no-annotate \
	  --upgrade --quiet --output-file requirements.lock

clean: ## delete the environment, and what builds and runs have written
	rm -rf $(VENV) build dist results .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml $(if $(LOCKED),requirements.lock) | $(BIN)/pip
ifneq ($(LOCKED),)
	$(BIN)/pip install --require-hashes -r requirements.lock
	$(BIN)/pip install --no-deps --no-build-isolation --force-reinstall .
else
	$(BIN)/pip install $(PACKAGES)
endif
	@echo '$(CURDIR)' > "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/checkout.pth"
	@touch $@

# Candidates are run, not only looked up: a pyenv shim is on the PATH and then fails. A Debian Python
# without ensurepip is passed over as long as another one can make an environment.
CANDIDATES := $(if $(PYTHON),$(PYTHON),python3.13 python3.12 python3.11 python3.10 python3 python)
$(BIN)/pip:
	@for python in $(CANDIDATES); do \
	  "$$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || continue; \
	  version=$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	  "$$python" -c 'import ensurepip, venv' 2>/dev/null || { incomplete="$$incomplete $$version"; continue; }; \
	  echo "Making $(VENV) with Python $$version ($$python)"; \
	  exec "$$python" -m venv $(VENV); \
	done; \
	if [ -n "$$incomplete" ]; then \
	  echo "error: Python$$incomplete was found, but cannot make a virtual environment: it lacks ensurepip."; \
	  for version in $$incomplete; do echo "       Debian, Ubuntu: apt install python$$version-venv"; break; done; \
	else \
	  echo "error: no Python 3.10, 3.11, 3.12 or 3.13 was found. Tried: $(CANDIDATES)"; \
	  echo "       Debian, Ubuntu: apt install python3 python3-venv; macOS: brew install python@3.13"; \
	fi >&2; \
	echo "       or name another one: make PYTHON=/path/to/python $(MAKECMDGOALS)" >&2; \
	exit 1
