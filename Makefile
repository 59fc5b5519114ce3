# `make demo` and `make test` need Python >= 3.11 and g++; with nvcc and a CUDA build of torch they build CUDA kernels too.
#   make demo     a whole active-learning comparison on real images, with an HTML report
#   make test     the test suite
#   make bench    ops against eager torch, torch.compile and named peers, as a table and in bench/results;
#                 COMPARE=--benchmark-compare compares ours with the run before, of another commit perhaps
#   make lint     ruff, mypy, clang-format
#   make clean    removes what make made
# make PYTHON=python3.12 takes another Python; FORCE_CUDA, TORCH_CUDA_ARCH_LIST and MAX_JOBS reach the build.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := $(VENV)/installed
CPP_FILES = $(shell find csrc tests/cpp tests/emulation -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' -o -name '*.inc')
DEMO := runs/demo

.PHONY: demo test bench lint clean install

install: $(STAMP)

$(STAMP): pyproject.toml setup.py constraints.txt $(shell find csrc -type f)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "lada-ext needs Python >= 3.11; try make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing torch and the build tools into $(VENV)"
	@$(PIP) install -q -c constraints.txt torch torchvision "setuptools>=77" ninja
	@echo "building lada-ext (a few minutes) and installing the rest"
	@$(PIP) install -q -c constraints.txt --no-build-isolation -e ".[al,dev]"
	@$(BIN)/lada doctor
	@touch $@

demo: $(STAMP)
	@rm -rf $(DEMO)
	@echo "the report grows while this runs: $(CURDIR)/$(DEMO)/report.html"
	$(BIN)/lada compare --methods random,entropy,lada-ent-mix-fixed,lada-ent-mix,lada-ent-stn --seeds 1,2,3 \
		--dataset mnist5k --rounds 8 --set candidates=500 --set policy_batch=25 --out $(DEMO)

test: $(STAMP)
	OMP_WAIT_POLICY=passive PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -n 2 --dist loadgroup

bench: $(STAMP)
	$(BIN)/python -m bench
	$(BIN)/python -m pytest bench/bench_ops.py --benchmark-only --benchmark-autosave $(COMPARE)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CPP_FILES)

clean:
	rm -rf $(VENV) build runs/demo *.egg-info python/*.egg-info lada_ext/*.so
	rm -rf .hypothesis tests/.hypothesis .benchmarks .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
