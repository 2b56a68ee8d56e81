# make demo    environment in .venv, package, and a picture of generated digits
# make test    the whole test-suite, in two processes; JOBS=8 for eight
# make check   format, lint, types, import contracts
# make bench   measured figures of README.md, beside the peers in the same run
# make performance   the tables of docs/performance.md
# make native        the tables of docs/native-backend.md
# make serving       the tables of docs/serving-performance.md; about an hour
# make gpu-check     on a machine with a GPU: its tests, its speed, gpu-report.md; BUDGET=1800 for seconds
# make gpu-evidence  what is known of the GPU code without a GPU: docs/gpu-evidence.md
# make gpu-lowest    tests of the GPU kernels with the lowest compilers that pyproject.toml claims
# make bochs         tests of the AVX-512 and AMX kernels on a CPU without them: tests/bochs/README.md
# make build   a wheel in dist/
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
JOBS   ?= 2
BUDGET ?= 600
LOWEST := triton==3.7.0 nvidia-cuda-nvcc==13.0.88 nvidia-cuda-runtime==13.0.48 \
          nvidia-cuda-cccl==13.0.50 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88
NATIVE := $(shell find csrc -type f 2>/dev/null) CMakeLists.txt pyproject.toml constraints.txt
CXX_SOURCES := $(filter %.h %.cpp %.cu %.cuh,$(NATIVE)) $(wildcard tests/cuda_on_cpu/*.h tests/cuda_on_cpu/*.cu)

# The tests start dozens of processes that import torch, each of which would compile it anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check format bench performance native serving gpu-check gpu-evidence gpu-lowest bochs build clean
.DELETE_ON_ERROR:

demo: $(VENV)/.package
	$(BIN)/fastdiff demo --out out/digits.png

test: $(VENV)/.dev
	$(BIN)/pytest --numprocesses $(JOBS) --dist worksteal

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/clang-format --dry-run --Werror $(CXX_SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $(CXX_SOURCES)

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks --write README.md

performance: $(VENV)/.dev
	$(BIN)/python -m benchmarks.performance --write docs/performance.md

native: $(VENV)/.dev
	$(BIN)/python -m benchmarks.native --write docs/native-backend.md

serving: $(VENV)/.dev
	$(BIN)/python -m benchmarks.serving --write docs/serving-performance.md

gpu-check: $(VENV)/.dev
	$(BIN)/python -m benchmarks.gpu --budget $(BUDGET)

gpu-evidence: $(VENV)/.dev
	$(BIN)/python -m benchmarks.traffic --write docs/gpu-evidence.md
	$(BIN)/python -m benchmarks.evidence --write docs/gpu-evidence.md

gpu-lowest: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target build/lowest $(LOWEST)
	PATH=$$PWD/build/lowest/nvidia/cu13/bin:$$PATH PYTHONPATH=build/lowest $(BIN)/pytest tests/kernels/triton tests/kernels/cuda tests/kernels/attention tests/kernels/test_build.py

bochs: $(VENV)/.dev
	$(BIN)/python tests/bochs/emulate.py -- -q tests/kernels/network tests/kernels/test_levels.py tests/backends/test_native_levels.py

build: $(VENV)/.venv
	$(BIN)/python -m pip wheel --no-deps -w dist .

clean:
	rm -rf $(VENV) build dist out

$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV)
	touch $@

# The package is installed editable: Python edits need nothing, C++ edits rebuild here.
$(VENV)/.package: $(VENV)/.venv $(NATIVE)
	$(PIP) -e .
	touch $@

# In one go with the package: pip would compile it a second time.
$(VENV)/.dev: $(VENV)/.venv $(NATIVE)
	$(PIP) -e '.[dev]'
	touch $(VENV)/.package $@
