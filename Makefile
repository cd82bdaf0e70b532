# What there is to do with this project. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test test-quick fmt lint doc deny unit cluster bench bench-hiding fuzz setup

CARGO ?= cargo
DENY_VERSION := 0.20.2
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/portcullis
DENY := $(CACHE)/cargo-deny-$(DENY_VERSION)/bin/cargo-deny

help: ## Lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Builds, and runs the main job on this machine: gateway, sample services, certificates, ready curl lines
	$(CARGO) run -- demo

test: lint doc deny unit cluster ## Format, lints, documentation, licences, and all tests

test-quick: lint doc unit ## The same without the Kubernetes node and the check of licences

fmt: ## Formats the sources
	$(CARGO) fmt --all

lint: setup ## Format and lints, on all targets
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

# The documentation is for those who build Portcullis: private items are in it, so links to them are right.
doc: ## The documentation of the crates, with warnings denied
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --workspace --no-deps --document-private-items --locked

deny: $(DENY) ## Licences, duplicates and sources of dependencies; advisories where their database can be had
	$(DENY) --workspace --locked check --hide-inclusion-graph bans licenses sources
	@if timeout 20 git ls-remote -q https://github.com/RustSec/advisory-db HEAD > /dev/null 2>&1; then \
	  $(DENY) --workspace --locked check advisories; \
	else \
	  echo "SKIPPED: advisories of dependencies, because their database cannot be reached from here"; \
	fi

$(DENY):
	$(CARGO) install cargo-deny --version $(DENY_VERSION) --locked --debug --root $(CACHE)/cargo-deny-$(DENY_VERSION)

unit: setup ## All tests but those on a Kubernetes node
	tests/tools/build
	tests/openid/build
	tests/sslyze/build
	$(CARGO) test --workspace --locked --no-fail-fast

cluster: ## The tests on a real Kubernetes node of this suite's own (needs root)
	tests/cluster/test

bench: ## Compares cost with nginx and HAProxy on this machine
	benches/install
	$(CARGO) build --release --locked
	python3 benches/compare

bench-hiding: ## Whether a clock can tell hosts that exist from hosts that do not
	$(CARGO) bench --locked --bench hiding

fuzz: ## Runs each fuzz target for a while: `make fuzz SECONDS_EACH=600`
	fuzz/run $(or $(SECONDS_EACH),60)

setup: ## Installs what the tests need beside Rust and Go (Debian and Ubuntu)
	tests/install
