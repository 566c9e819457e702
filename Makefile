# Everything that a person or CI runs. `make help` lists it.

# Options handed on to the program, as in: make testnet ARGS="--for 30s --load 2000 --json"
ARGS ?=
# Profile of `make testnet` and `make bench`: release, or dev to reuse what `make test` built.
PROFILE ?= release
# "peers" adds the libraries that `falconet bench crypto` compares with, "sim" the simulator; a
# program for operators is built without: make build FEATURES=
FEATURES ?= peers sim

CARGO ?= cargo
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
BUILT := $(TARGET_DIR)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))/falconet
# nextest runs many test binaries at a time and ends and names a test that hangs; plain cargo does
# as well.
NEXTEST := $(shell $(CARGO) nextest --version >/dev/null 2>&1 && echo yes)
RUN_TESTS := $(CARGO) $(if $(NEXTEST),nextest run,test) --locked

.DEFAULT_GOAL := help
.PHONY: help packages build testnet test lint deny fmt docs bpf bpf-check bench bench-crypto sim deb container clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

packages: ## Install the system packages that the build needs, or say which
	@tools/install-packages

build: packages ## Build the falconet program
	@$(CARGO) build --locked --profile $(PROFILE) -p falconet --no-default-features --features "$(FEATURES)" 1>&2

testnet: build ## Run four validators on this machine, with load (ARGS="--for 30s --load 2000 --json")
	@$(BUILT) testnet $(ARGS)

test: packages ## Run every test
ifeq ($(NEXTEST),yes)
	$(RUN_TESTS) --workspace --no-fail-fast
	$(CARGO) test --locked --workspace --doc
else
	$(RUN_TESTS) --workspace --no-fail-fast
endif
	@$(MAKE) --no-print-directory test-byzantine
	@$(MAKE) --no-print-directory test-trace

.PHONY: test-byzantine
test-byzantine: ## Networks of real processes, one of which is a Byzantine actor
	$(RUN_TESTS) -p falconet --features danger-byzantine --test processes byzantine

.PHONY: test-features
test-features: ## Lint and test what is built only on request: peers of the benchmarks, OpenTelemetry
	$(CARGO) clippy --locked -p falconet -p falconet-bench -p falconet-validator --all-targets \
		--features falconet/peers,falconet/otel,falconet-bench/peers,falconet-validator/otel -- -D warnings
	$(RUN_TESTS) -p falconet-bench --features peers
	$(RUN_TESTS) -p falconet-validator --features otel --lib otel
	$(RUN_TESTS) -p falconet --features otel --test processes otel

# A workspace of its own: it links libbpf, for which the validator has no use.
TRACE_MISSING := $(shell pkg-config --exists libelf zlib 2>/dev/null || echo yes)
TRACE := --locked --manifest-path tools/trace/Cargo.toml --target-dir $(TARGET_DIR)

.PHONY: trace test-trace
trace: ## Build falconet-trace (needs libelf-dev, zlib1g-dev, pkg-config)
	$(CARGO) build $(TRACE) --release

test-trace:
ifeq ($(TRACE_MISSING),yes)
	@echo "skipped: tests of falconet-trace; run: apt-get install libelf-dev zlib1g-dev pkg-config"
else
	$(CARGO) build --locked -p falconet
	FALCONET=$(abspath $(TARGET_DIR))/debug/falconet $(CARGO) test $(TRACE)
endif

lint: packages ## Check formatting, lints, licences and sources
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) fmt --manifest-path tools/trace/Cargo.toml --check
ifneq ($(TRACE_MISSING),yes)
	$(CARGO) clippy $(TRACE) --all-targets -- -D warnings
endif
	@$(MAKE) --no-print-directory deny

# bans, licenses and sources work without a network; the advisory database does not, and is
# checked by `cargo deny check advisories`.
deny: ## Check dependencies: licences, bans, sources (needs cargo-deny)
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
		$(CARGO) deny --locked check bans licenses sources; \
	else \
		echo "skipped: cargo-deny is not installed; run: cargo install --locked cargo-deny"; \
	fi

fmt: ## Format the code
	$(CARGO) fmt --all

docs: ## Write the generated documentation again
	$(CARGO) run --locked --quiet -p falconet -- write-docs .
	FALCONET_WRITE=1 $(CARGO) test --locked --quiet -p falconet-ebpf --test filter objects::the_

bpf: ## Compile the BPF programs again (needs clang, llvm and libbpf-dev)
	ebpf/compile

bpf-check: ## Check that the compiled BPF programs are those of the sources
	ebpf/compile --check

bench-crypto: build ## Compare signature verification with other libraries (ARGS=--json)
	@$(BUILT) bench crypto $(ARGS)

bench: build ## Measure a local cluster (ARGS="--rate 5000 --duration 20s --json -")
	@$(BUILT) bench cluster $(ARGS)

deb: FEATURES :=
deb: build ## Make a Debian package (in target/deb)
	@tools/package/build-deb $(BUILT) $(TARGET_DIR)/deb

container: ## Make a container image (needs docker and a network)
	docker build -f tools/package/Containerfile -t falconet .

sim: build ## Run seeds of the simulator on all cores (ARGS="--seeds 10000 --nodes-byzantine 1")
	@$(BUILT) sim $(or $(ARGS),--seeds 2000)

clean: ## Remove what was built
	$(CARGO) clean
