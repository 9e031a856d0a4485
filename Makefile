# What people and CI type. Everything a target needs beyond a Rust toolchain, python3 and node, it sets up itself.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help test test-agents schema test-otel test-dist dist deny lint fmt fuzz bench soak clean-cache venv agents cargo node

# Most tests wait for a child process most of the time.
TEST_THREADS ?= 8
MEASURED = $(shell sed '/^\#/d' tests/measured)

# Programs without an extension say what they are in their first line.
PYTHON_FILES = $(shell find handlers tests fuzz benches examples packaging -maxdepth 3 -name '*.py'; grep -rlE --exclude='*.*' '^\#!.*python3' handlers tests)
BASH_FILES = $(shell find . -maxdepth 1 -name '*.sh'; find handlers tests packaging -name '*.sh'; ls .ci/* packaging/build packaging/test benches/run)
NODE_FILES = $(shell find handlers tests benches -name '*.mjs' -o -name '*.cjs' -o -name '*.js')

help: ## Lists the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | \
	  awk -F '\t' '{ printf "make %-12s %s\n", $$1, $$2 }'

test: cargo node venv agents ## Every test: units, docs, the house's shape, the built server with real clients and real agents
	@echo '== test: building and running (some minutes on a fresh clone)'
	export TURNHOST_TEST_PYTHON="$(CURDIR)/.cache/venv/bin/python"; status=0; \
	cargo test --locked --no-fail-fast -- --test-threads=$(TEST_THREADS) $(addprefix --skip ,$(MEASURED)) || status=1; \
	echo '== test: what is measured, one by one'; \
	cargo test --locked --no-fail-fast --test it -- --test-threads=1 $(MEASURED) || status=1; \
	exit $$status

# Part of `make test`; alone, to look at the agents only.
test-agents: cargo node venv agents ## The tests of the built-in agents and of the SDKs' handlers, with the real CLIs
	TURNHOST_TEST_PYTHON="$(CURDIR)/.cache/venv/bin/python" \
	  cargo test --locked --test it -- --test-threads=$(TEST_THREADS) openai:: claude codex sdk:: agents_

schema: cargo ## Writes schema/ anew, and docs/options.md: what is committed must be what the program says
	cargo run --locked --quiet -- schema --dir schema
	cargo run --locked --quiet -- schema --options docs/options.md

test-otel: cargo ## The traces of a program with the feature otel, as a collector gets them; builds what that adds
	@echo '== test-otel: building and running (a minute or two)'
	cargo test --locked --features otel --test otel

test-dist: cargo venv ## What cargo install puts in place, seen to serve; takes a build of its own
	@packaging/test

lint: cargo node venv ## Format, clippy, syntax of the Python, JavaScript and bash files
	@for part in fmt clippy; do \
	  cargo $$part --version >/dev/null 2>&1 && continue; \
	  component=$${part/fmt/rustfmt}; echo "== lint: adding $$component"; \
	  rustup component add $$component || { echo "make lint needs cargo $$part: install $$component" >&2; exit 1; }; \
	done
	@echo '== lint: cargo fmt'
	cargo fmt --check
	@echo '== lint: cargo clippy'
	cargo clippy --all-targets --locked -- -D warnings
	cargo clippy --all-targets --locked --features otel -- -D warnings
	@echo '== lint: syntax of Python, JavaScript and bash files'
	PYTHONPYCACHEPREFIX=.cache/pycache .cache/venv/bin/python -m py_compile $(PYTHON_FILES)
	for file in $(NODE_FILES); do node --check "$$file"; done
	for file in $(BASH_FILES); do bash -n "$$file"; done

# How long each fuzz target runs, in seconds.
FUZZ_TIME ?= 600
FUZZ_TARGETS ?= $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs)))

# Sanitizers are a nightly's; without one, what is stable is told to take it for one.
FUZZ = $(shell if cargo +nightly --version >/dev/null 2>&1; then echo cargo +nightly fuzz; else echo env RUSTC_BOOTSTRAP=1 cargo fuzz; fi)

fuzz: cargo ## Every fuzz target for FUZZ_TIME seconds; keeps what they find. With nightly Rust, where it is there
	@cargo fuzz --version >/dev/null 2>&1 || { echo '== fuzz: adding cargo-fuzz'; cargo install cargo-fuzz --locked; }
	for target in $(FUZZ_TARGETS); do \
	  python3 fuzz/corpus.py unpack $$target .cache/fuzz/$$target; mkdir -p .cache/fuzz/$$target-small; \
	  $(FUZZ) run $$target .cache/fuzz/$$target -- -max_total_time=$(FUZZ_TIME) -max_len=4096; \
	  $(FUZZ) run $$target .cache/fuzz/$$target-small .cache/fuzz/$$target -- -merge=1 -max_len=1024; \
	  python3 fuzz/corpus.py pack $$target .cache/fuzz/$$target-small; \
	done

dist: cargo ## A release into dist/: tarball, wheel, npm and Debian packages. TURNHOST_BINARY=FILE packs that program
	@packaging/build

deny: cargo ## Licences, sources and banned crates of everything that comes into the program
	@cargo deny --version >/dev/null 2>&1 || { echo '== deny: adding cargo-deny'; cargo install cargo-deny --locked; }
	cargo deny --log-level error check bans licenses sources

bench: cargo node ## turnhost next to bare actix, uvicorn and Node.js; writes benches/RESULTS.md. Some 20 minutes
	@benches/run

# How long `make soak` goes on, in minutes.
SOAK_MINUTES ?= 30

soak: cargo ## 200 clients that cancel, leave and crash the handler; memory, descriptors, threads, children must stay
	cargo bench --locked --bench soak -- $(SOAK_MINUTES)

fmt: ## Formats the Rust files
	cargo fmt

clean-cache: ## Removes what the tests installed
	rm -rf .cache

venv:
	@.ci/venv

agents: venv
	@.ci/agents

cargo:
	@command -v cargo >/dev/null || { echo 'turnhost needs a Rust toolchain: https://rustup.rs' >&2; exit 1; }

node:
	@command -v node >/dev/null || { echo 'the tests need Node.js 18 or later on PATH' >&2; exit 1; }
