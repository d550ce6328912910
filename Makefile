# All tasks of this checkout. Each target sets up what it needs in a separate environment (.venv),
# and only once: stamp files in there record what is up to date.
#
# Needed: Rust (rustup.rs) with a C linker, Python 3.11 or later (on Debian python3-venv), make, git,
# and a network. The first build compiles for several minutes.
#
#   make demo     build, train on real digits, show the result
#   make test     build and run every test, Rust's and Python's   (ARGS="-k trainer" goes to pytest)
#   make bench    compare with the peers that are installed       (ARGS="--quick" goes to pytest)
#   make properties  other properties: odd shapes, memory, ...    (PROPERTIES_ARGS="--quick")
#   make reproduce   published figures of continual learning, and ours (DATA=mnist.npz ARGS="--seeds 1")
#   make lint     formatting, clippy, rustdoc, ruff, mypy, stubs; warnings are errors
#   make format   let rustfmt and ruff fix what lint reports
#   make docs     the manual, in docs/_build/html
#   make wheel    the wheel, in dist/
#   make sdist    the sources as one file, in dist/
#   make licenses the licences of what is compiled into the wheel, after a change of Cargo.lock
#   make exhaustive  the core's float32 functions on all 2^32 arguments, for each ISA; takes some 20 minutes
#   make aarch64  the core's tests on an emulated ARM CPU, with NEON (qemu-user, gcc-aarch64-linux-gnu)
#   make package  build the wheel, install it with NumPy only, train there, check its size
#   make clean    remove everything that was built
#
# PYTHON=python3.12 chooses the interpreter (the environment is recreated when it changes).

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
DATA ?= fashion
PROPERTIES_ARGS ?=

BIN := $(abspath $(VENV))/bin
ENV := $(VENV)/.stamp-env-$(subst /,-,$(PYTHON))
CORE := $(VENV)/.stamp-core
RUST := Cargo.toml $(wildcard Cargo.lock) $(shell find rust -name '*.rs' -o -name Cargo.toml)

export PYO3_PYTHON := $(BIN)/python
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Another active environment must not interfere with this one.
unexport CONDA_PREFIX PYTHONHOME PYTHONPATH

ifneq ($(words $(CURDIR)),1)
$(error the path of this folder has a space, with which make cannot do: move the checkout)
endif

.PHONY: help demo test core-test exhaustive aarch64 bench properties reproduce lint format docs wheel sdist licenses package env clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^#   make/make/p' $(firstword $(MAKEFILE_LIST))

# --- main targets ---------------------------------------------------------------------------------

demo: $(CORE) $(VENV)/.stamp-demo
	$(BIN)/python -m thalweg

# With -j2, the core is built for Python while its own tests run. Each Python test file stays in one
# process, since the examples of a page build on each other.
test: core-test $(CORE) $(VENV)/.stamp-demo $(VENV)/.stamp-test
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

# Every binary compiles its own copy of the kernels, which takes minutes: the core's tests are one
# binary; examples and the Python bindings, which have no Rust tests, are left to `make lint`.
core-test:
	MAKEFLAGS= cargo test -p thalweg-core --lib
	MAKEFLAGS= cargo test -p thalweg-core --doc

# In release: each of 14 functions is compared with a slower one 2^32 times, and prints its largest error.
exhaustive:
	MAKEFLAGS= cargo test --release -p thalweg-core --lib -- --ignored --nocapture math::tests::exhaustive

# Debian packages: qemu-user, gcc-aarch64-linux-gnu, libc6-dev-arm64-cross. Slightly optimized, as it
# is emulated. Most trainings would take far longer, and so would the tests that parts are disjoint;
# the allocation test starts its own binary, which is not emulated.
aarch64: export CARGO_PROFILE_TEST_OPT_LEVEL := 1
aarch64: export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER := aarch64-linux-gnu-gcc
aarch64: export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER := qemu-aarch64 -L /usr/aarch64-linux-gnu
aarch64:
	rustup target add aarch64-unknown-linux-gnu
	cargo test --target aarch64-unknown-linux-gnu -p thalweg-core --lib \
	  -- --skip tests::training --skip tests::allocations --skip tests::disjoint
	cargo test --target aarch64-unknown-linux-gnu -p thalweg-core --lib \
	  -- tests::training::single_precision tests::training::the_same_bits_by_turns

# A peer's warning is not a failure here, and the benchmarks' modules have no doctests.
BENCH_OPTIONS := -o addopts="--import-mode=importlib -s" -o filterwarnings=default
bench: $(CORE) $(VENV)/.stamp-test $(VENV)/.stamp-bench
	$(BIN)/python -m pytest $(BENCH_OPTIONS) benches $(ARGS)
# With ARGS, which select comparisons, the properties are skipped.
	$(if $(strip $(ARGS)),,$(BIN)/python -m benches.properties $(PROPERTIES_ARGS))

properties: $(CORE) $(VENV)/.stamp-bench
	$(BIN)/python -m benches.properties $(PROPERTIES_ARGS)

reproduce: $(CORE)
	$(BIN)/python -m benches.reproduction --data $(DATA) $(ARGS)

lint: $(CORE) $(VENV)/.stamp-dev $(VENV)/.stamp-demo
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest thalweg._core

format: $(VENV)/.stamp-dev
	cargo fmt --all
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(CORE) $(VENV)/.stamp-docs
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

wheel: $(ENV)
	rm -f dist/*.whl
	$(BIN)/maturin build --release --locked --out dist

sdist: $(ENV)
	rm -f dist/*.tar.gz
	$(BIN)/maturin sdist --out dist

licenses: $(ENV)
	$(BIN)/python tests/packaging/third_party.py > LICENSES-THIRD-PARTY

package: wheel
	$(BIN)/python tests/packaging/check_wheel.py dist/*.whl

clean:
	rm -rf $(VENV) target dist docs/_build docs/api/generated .mypy_cache .pytest_cache .ruff_cache
	rm -f python/thalweg/_core.*.so python/thalweg/_core.so python/thalweg/_core*.pyd
	find python tests benches examples docs -name __pycache__ -type d -prune -exec rm -rf {} +

# --- setting up -----------------------------------------------------------------------------------

env: $(ENV)

# One environment per interpreter: another value of PYTHON has no stamp here, and recreates it.
$(ENV):
	@command -v $(PYTHON) >/dev/null || { echo "make: no '$(PYTHON)' here; install Python 3.11 or \
	later, or say PYTHON=/path/to/python" >&2; exit 1; }
	@command -v cargo >/dev/null || { echo "make: no 'cargo' here; install Rust: https://rustup.rs" \
	>&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v >= (3, 11) or sys.exit("make: thalweg \
	needs Python 3.11 or later; $(PYTHON) is %d.%d; say PYTHON=python3.12, for example" % v)'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { $(PYTHON) -c 'import sys; print("make: \
	%s cannot create environments (no ensurepip); on Debian and Ubuntu: apt install \
	python%d.%d-venv" % (sys.executable, *sys.version_info[:2]), file=sys.stderr)'; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1" # the first that knows --group
	$(BIN)/python -m pip install --quiet "maturin>=1.9.4,<2"
	touch $@

# No paths of this machine in what is compiled: otherwise, wheels built elsewhere would differ. The
# editable build has the same flags, so that cargo compiles once for both.
$(CORE) wheel: export RUSTFLAGS += --remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)=/cargo

# Editable: Python sources are used in place; the core is rebuilt when Rust sources change.
$(CORE): $(ENV) $(RUST) pyproject.toml
	VIRTUAL_ENV=$(abspath $(VENV)) PIP_QUIET=1 $(BIN)/maturin develop --release --quiet
	touch $@

# The packages of one dependency group of pyproject.toml.
$(VENV)/.stamp-%: pyproject.toml $(ENV)
	$(BIN)/python -m pip install --quiet --group $*
	touch $@
