# SPDX-License-Identifier: Apache-2.0
# `make demo` and `make test` set up all they need in .venv, and do nothing again where it is there.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
# CMake and Ninja come from PyPI, not from the machine.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# What is never imported need not be compiled: Python compiles the rest at the first import.
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input install --no-compile $(if $(CI),--quiet) --constraint constraints.txt
WERROR := $(if $(CI),ON,OFF)
# `make gpu-test PYTHON=python3` runs with what that interpreter has and installs nothing: for machines that reach no index.
# The CPU library serves there too where it was brought along.
PYTHON :=
RUN := $(if $(PYTHON),PYTHONPATH=src $(PYTHON),$(BIN)/python)
READY = $(if $(PYTHON),,$(INSTALLED) $(NATIVE))
# Ninja runs as many processes as there are processors; of `make --jobs` it knows nothing.
NINJA := env -u MAKEFLAGS $(BIN)/cmake --build
NATIVE_SOURCES := CMakeLists.txt $(shell find src/pliant/ops -name '*.cpp' -o -name '*.h')
NATIVE_TESTS := $(wildcard tests/native/*.cpp tests/native/*.h)

# Stamps are written last: what broke half-way is done again.
CREATED := $(VENV)/.created
INSTALLED := $(VENV)/.installed
BENCH_INSTALLED := $(VENV)/.bench-installed
RELEASE_INSTALLED := $(VENV)/.release-installed
NATIVE := build/native/.installed
SANITIZED := build/sanitize/.built
# Python itself knows nothing of the sanitizer, so that its runtime must be there before all else; it leaks by design.
# Where memory was allocated is not recorded, which takes a fifth of the time: the seed of a finding repeats it.
FUZZ_OPERATORS = PYTHONPATH=tests LD_PRELOAD=$$($(CXX) -print-file-name=libasan.so) OMP_NUM_THREADS=2 \
  ASAN_OPTIONS=detect_leaks=0:malloc_context_size=1:quarantine_size_mb=16 \
  $(BIN)/python -m helpers.fuzz.operators --library build/sanitize/libpliant_cpu.so
# The PyTorch versions of `make test-versions`: the oldest that pyproject.toml allows, one between, and the one of constraints.txt.
VERSIONS := $(shell sed -nE 's/^dependencies = \["torch>=([0-9.]+)"\]/\1/p' pyproject.toml) 2.11 $(shell sed -nE 's/^torch==([0-9]+\.[0-9]+)\..*/\1/p' constraints.txt)
GPU_TESTS := tests/gpu/test_on_device.py tests/gpu/test_pooling_on_device.py

.PHONY: help demo test test-all test-sanitize test-versions wheels test-wheels test-emulated fuzz fuzz-operators fuzz-readers lint format native bench bench-figure docs sanitized compile-matrix gpu gpu-test gpu-sanitize gpu-bench clean

help: ## what can be made
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 24

demo: $(INSTALLED) $(NATIVE) ## train, evaluate and draw on real photographs; writes demo/
	$(BIN)/pliant demo --out demo

# A file is tested by one process, so that what its tests share, such as a training, is done once; the longest begin.
# xdist alone would begin with the files of the most tests.
test: $(INSTALLED) $(NATIVE) test-sanitize ## all tests, those of the C++ kernels under sanitizers too
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not minutes" $(PYTEST_ARGS)

test-all: $(INSTALLED) $(NATIVE) test-sanitize ## the same, and whole systems in other runtimes, which takes minutes more
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

sanitized: $(SANITIZED)

test-sanitize: $(INSTALLED) $(NATIVE) $(SANITIZED) ## the C++ tests, and random calls from Python, under the sanitizers
	$(BIN)/ctest --test-dir build/sanitize --parallel 2 --output-on-failure --no-tests=error
	$(FUZZ_OPERATORS) --cases 2000 --seed 2017

test-versions: $(VERSIONS:%=test-version-%) ## the operators, surgery and GPU kernels on old and new PyTorch; one alone: test-version-2.6

# Builds of one library serve all versions. Nothing of a GPU runs: the kernels go through Triton's compiler and its
# interpreter, but not with PyTorch 2.6, whose Triton has no float64 products and whose tensors without data want a driver.
test-version-%: build/versions/%/.installed $(NATIVE)
	OMP_NUM_THREADS=1 build/versions/$*/bin/python -m pytest -m "not minutes" tests/ops tests/nn tests/surgery \
	  $(if $(filter 2.6,$*),,tests/gpu) $(PYTEST_ARGS)

# NumPy 2.3 and newer stops the interpreter of Triton 3.6 and older.
build/versions/%/.installed: constraints.txt | $(CREATED)
	rm -rf $(@D)
	$(BIN)/python -m venv $(@D)
	grep -E '^(hypothesis|pillow|pytest|timm)==' constraints.txt >$(@D)/constraints.txt
	$(@D)/bin/python -m pip --disable-pip-version-check --no-input install --no-compile --constraint $(@D)/constraints.txt \
	  'torch==$*.*' torchvision timm pytest hypothesis 'numpy<2.3'
	touch $@

wheels: $(RELEASE_INSTALLED) ## an sdist, a pure wheel, and one for each platform, cross-compiled and checked, into dist/
	$(BIN)/python release/wheels.py $(WHEELS)

# Its wheel first, then the pure one, each from the folder alone beside PyTorch; last the sdist, which is compiled here.
test-wheels: $(CREATED) ## install what of dist/ runs here into a fresh environment with PyTorch alone, and use it
	rm -rf build/wheels/venv
	$(BIN)/python -m venv build/wheels/venv
	build/wheels/venv/bin/python -m pip --disable-pip-version-check --no-input install --no-compile --constraint constraints.txt torch
	build/wheels/venv/bin/python -m pip --disable-pip-version-check install --no-index --find-links dist pliant
	build/wheels/venv/bin/python -I release/smoke.py native
	build/wheels/venv/bin/python -m pip --disable-pip-version-check install --no-deps --force-reinstall dist/pliant-*-py3-none-any.whl
	build/wheels/venv/bin/python -I release/smoke.py reference
	build/wheels/venv/bin/python -m pip --disable-pip-version-check install --no-deps --force-reinstall dist/pliant-*.tar.gz
	build/wheels/venv/bin/python -I release/smoke.py native

# macOS has no emulator here. On Debian all that the others need are packages.
test-emulated: $(RELEASE_INSTALLED) ## the C++ tests with the library of each wheel but macOS's, in emulators; after `make wheels`
	@type -P qemu-aarch64 >/dev/null && type -P wine >/dev/null && \
	  ls /usr/aarch64-linux-gnu/lib/ld-linux-aarch64.so.1 /lib/ld-musl-x86_64.so.1 /lib/ld-musl-aarch64.so.1 >/dev/null || \
	  { echo 'make: emulators are missing; on Debian: dpkg --add-architecture arm64 && apt-get update &&' \
	    'apt-get install qemu-user libc6-arm64-cross musl musl:arm64 wine wine64' >&2; exit 1; }
	$(BIN)/python release/wheels.py --tests $(filter-out macosx%,$(basename $(notdir $(wildcard release/toolchains/*_*.cmake))))

fuzz: fuzz-operators ## random calls of the operators under the sanitizers, until something is found

fuzz-operators: $(INSTALLED) $(NATIVE) $(SANITIZED)
	$(FUZZ_OPERATORS) --cases 0 --seed $$RANDOM --last build/sanitize/last-seed

fuzz-readers: $(INSTALLED) ## changed files for every reader, until stopped
	PYTHONPATH=tests $(BIN)/python -m helpers.fuzz.readers --seed $$RANDOM

lint: $(INSTALLED) docs ## ruff, mypy, clang-format, and the site's links
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	git ls-files '*.cpp' '*.h' | xargs --no-run-if-empty $(BIN)/clang-format --dry-run -Werror

format: $(INSTALLED) ## rewrite the files as `make lint` wants them
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	git ls-files '*.cpp' '*.h' | xargs --no-run-if-empty $(BIN)/clang-format -i

native: $(NATIVE) ## build the CPU library into src/ for the editable install

bench: $(BENCH_INSTALLED) $(NATIVE) ## time the operators against plain convolution and other libraries
	$(BIN)/python -m benchmarks.run $(BENCH_ARGS)

bench-figure: $(INSTALLED) ## draw the README's figure of speed from the results in benchmarks/results
	$(BIN)/python -m benchmarks.figure

# In strict mode: a link, a heading or a name that is not there is an error.
docs: $(INSTALLED) ## build the site into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

compile-matrix: $(if $(PYTHON),,$(INSTALLED)) ## compile every GPU kernel for every architecture and type; needs no GPU, takes minutes
	PYTHONPATH=src:tests OMP_NUM_THREADS=1 $(or $(PYTHON),$(BIN)/python) -m helpers.gpu.full_matrix

# A run without a GPU would skip all and look well.
gpu: $(READY)
	@$(RUN) -c 'import torch; raise SystemExit(None if torch.cuda.is_available() else "make: PyTorch sees no GPU here")'

gpu-test: gpu ## the GPU kernels against float64, on the GPU at hand
	$(RUN) -m pytest $(GPU_TESTS) $(PYTEST_ARGS)

# Each tensor in memory of its own, or the tool would see one large allocation and nothing outside it.
gpu-sanitize: gpu ## the same under compute-sanitizer's memcheck and racecheck, which is slow
	@command -v compute-sanitizer >/dev/null || { echo 'make: compute-sanitizer, of the CUDA toolkit, is not there' >&2; exit 1; }
	for tool in memcheck racecheck; do \
	  PYTORCH_NO_CUDA_MEMORY_CACHING=1 $(if $(PYTHON),PYTHONPATH=src) compute-sanitizer --tool $$tool --error-exitcode 1 \
	    --target-processes all $(or $(PYTHON),$(BIN)/python) -m pytest $(GPU_TESTS) -x -k 'loops or layers' $(PYTEST_ARGS) || exit 1; \
	done

gpu-bench: gpu ## time the GPU kernels against cuDNN, torchvision and deformops; writes benchmarks/results/gpu.json
	$(RUN) -m benchmarks.gpu $(BENCH_ARGS)

clean: ## remove all that was built, and .venv
	rm -rf build dist demo $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -f src/pliant/ops/_native/*.so src/pliant/ops/_native/*.dylib src/pliant/ops/_native/*.dll

$(CREATED):
	@for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	  if $$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "$$python -m venv $(VENV)"; $$python -m venv $(VENV); touch $@; exit 0; \
	  fi; \
	done; \
	echo "make: Python 3.11 or newer, with its venv module, was not found (on Debian: apt-get install python3-venv)" >&2; \
	exit 1

$(INSTALLED): constraints.txt pyproject.toml src/pliant/_version.py | $(CREATED)
	$(PIP) scikit-build-core
	$(PIP) --no-build-isolation --editable '.[dev]'
	touch $@

$(BENCH_INSTALLED): $(INSTALLED)
	$(PIP) --no-build-isolation --editable '.[bench]'
	touch $@

$(RELEASE_INSTALLED): $(INSTALLED)
	$(PIP) --no-build-isolation --editable '.[release]'
	touch $@

# An order-only prerequisite: a new .venv alone is no reason to compile again.
$(NATIVE): $(NATIVE_SOURCES) | $(INSTALLED)
	$(BIN)/cmake -S . -B build/native -G Ninja -DPLIANT_WERROR=$(WERROR)
	$(NINJA) build/native
	$(BIN)/cmake --install build/native --prefix src --component pliant
	touch $@

$(SANITIZED): $(NATIVE_SOURCES) $(NATIVE_TESTS) | $(INSTALLED)
	$(BIN)/cmake -S . -B build/sanitize -G Ninja -DPLIANT_WERROR=$(WERROR) -DPLIANT_SANITIZE=ON -DPLIANT_BUILD_TESTS=ON
	$(NINJA) build/sanitize --target native_test pliant_cpu
	touch $@
