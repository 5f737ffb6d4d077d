# Every target runs in .venv, which is made from requirements.lock and kept up to date.
# Needs Python 3.11 or newer with venv, and a C++ compiler. PYTHON=python3.12 chooses another Python.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# pip runs setup.py again if one of these is newer than the last installation.
BUILD_INPUTS := setup.py pyproject.toml $(shell find csrc -type f)
CXX_SOURCES := $(shell find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

.PHONY: demo test bench bench-peers lint format clean

demo: $(VENV)/installed  ## trainings on real data, speed, pictures in demo_out/
	$(BIN)/python -m demo

test: $(VENV)/installed
	$(BIN)/python -m pytest

bench: $(VENV)/installed  ## checks the speed and memory targets; wants a quiet machine
	$(BIN)/python -m bench.soft_rank; status=$$?; $(BIN)/python -m bench.retrieval && exit $$status

# torchsort has no wheels, and its setup fails if nvcc is found next to a torch without CUDA.
bench-peers: $(VENV)/installed
	PATH="$(abspath $(BIN)):/usr/bin:/bin" $(PIP) install --no-build-isolation --no-deps torchsort==0.1.10

lint: $(VENV)/dependencies
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CXX_SOURCES)

format: $(VENV)/dependencies
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_SOURCES)

clean:
	rm -rf $(VENV) build demo_out .pytest_cache .mypy_cache .ruff_cache *.egg-info sodeep_fast/*.so

$(VENV)/dependencies: requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -r requirements.lock
	touch $@

$(VENV)/installed: $(VENV)/dependencies $(BUILD_INPUTS)
	$(PIP) install --no-build-isolation --no-deps -e .
	touch $@
