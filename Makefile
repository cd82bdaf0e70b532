# Tasks of this project. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo demo-release dev image image-builder test test-pulumi test-quick checks peers node fmt lint doc deny unit counts cluster bench bench-analysis bench-failover bench-feed bench-hiding bench-releases bench-rollout bench-shadow bench-slow-pod fuzz setup

CARGO ?= cargo
DENY_VERSION := 0.20.2
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/portcullis
DENY := $(CACHE)/cargo-deny-$(DENY_VERSION)/bin/cargo-deny
GUNGRAUN_VERSION := 0.20.0
GUNGRAUN := $(CACHE)/gungraun-runner-$(GUNGRAUN_VERSION)/bin

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Run the demo on this machine: gateway, sample services, certificates, ready curl lines
	$(CARGO) run -- demo

demo-release: ## Show on a Kubernetes node, or on your cluster, how a good release is rolled out, and how bad ones are taken back (needs root)
	tests/cluster/demo

dev: ## Run the demo, and build and start it again when a source changes
	examples/dev

image: ## Build the image, its digest and its bill of materials, into target/image (needs buildah)
	deploy/image

image-builder: ## Build the image of the release builder, which has git and buildah (needs root, buildah and mmdebstrap)
	IMAGE=portcullis-builder deploy/image

test: checks unit counts cluster ## Check format, lints, documentation and licences, and run all tests

# Side by side: downloads, and crates that wait for each other, leave a CPU idle.
checks: ## Check format, lints, documentation and licences, and build the peers of the tests meanwhile
	$(MAKE) -j2 lint peers doc deny node

test-quick: lint doc unit ## Run `test` without the Kubernetes node and the licences

test-pulumi: ## Run the example of Pulumi with its real engine on the Kubernetes node (needs root; builds the engine once, in twenty minutes)
	tests/pulumi/engine
	tests/cluster/test pulumi::

fmt: ## Format the sources
	$(CARGO) fmt --all

lint: setup ## Check format and lints, on all targets
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

# The documentation is for developers of Portcullis: it includes private items, so links to them are valid.
doc: setup ## Build the documentation of the crates, with warnings denied
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --workspace --no-deps --document-private-items --locked

deny: setup $(DENY) ## Check licences, duplicates and sources of dependencies, and advisories if their database is available
	$(DENY) --workspace --locked check --hide-inclusion-graph bans licenses sources
	@if timeout 20 git ls-remote -q https://github.com/RustSec/advisory-db HEAD > /dev/null 2>&1; then \
	  $(DENY) --workspace --locked check advisories; \
	else \
	  echo "SKIPPED: advisories of dependencies, because their database is unreachable"; \
	fi

$(DENY): | setup
	$(CARGO) install cargo-deny --version $(DENY_VERSION) --locked --debug --root $(CACHE)/cargo-deny-$(DENY_VERSION)

peers: setup ## Build what the tests run beside the gateway, once, into the user's cache folder
	tests/tools/build
	tests/bazel/build
	tests/chart/build
	tests/openid/build
	tests/pulumi/build
	tests/sslyze/build
	tests/schemathesis/build

node: setup ## Build the Kubernetes node of the tests, which needs root, once, into the user's cache folder
	[ "$$(id -u)" != 0 ] || tests/cluster/build

unit: peers ## Run all tests except those on a Kubernetes node
	$(CARGO) test --workspace --locked --no-fail-fast

counts: setup $(GUNGRAUN) ## Count instructions and allocations of a request, and compare with benches/counts.json (`UPDATE=1` records them)
	PATH="$(GUNGRAUN):$$PATH" benches/counts $(if $(UPDATE),--update)

$(GUNGRAUN): | setup
	$(CARGO) install gungraun-runner --version $(GUNGRAUN_VERSION) --locked --debug --root $(@D)

cluster: ## Run the tests on a real Kubernetes node (needs root)
	tests/cluster/test

bench: ## Compare cost, latency and memory with nginx, HAProxy, Caddy and Pingora on this machine, in 20 minutes
	benches/install
	$(CARGO) build --release --locked
	$(CARGO) build --release --locked --manifest-path benches/peers/Cargo.toml --target-dir target/peers
	python3 benches/compare --json target/bench.json --markdown target/bench.md --svg target/bench.svg
	python3 benches/handshakes --rounds 3 --handshakes 1000
	python3 benches/access --rounds 15

bench-failover: ## Count the requests that fail while backends are killed, beside HAProxy and nginx
	benches/install
	$(CARGO) build --release --locked
	python3 benches/failover

bench-rollout: ## Count the requests that fail over rolling updates, kills and changes, on the Kubernetes node (needs root)
	PORTCULLIS_CLUSTER_FULL=1 tests/cluster/test rollouts:: killed:: moves:: upgrades::

bench-slow-pod: ## Measure what one slow backend of ten costs, beside HAProxy and nginx
	benches/install
	$(CARGO) build --release --locked
	python3 benches/slow-pod

bench-shadow: ## Measure what a shadow costs the requests that it gets copies of
	benches/install
	$(CARGO) build --release --locked
	python3 benches/shadow

bench-releases: ## Measure the release builder with 100,000 releases
	$(CARGO) build --release --locked
	python3 benches/releases

bench-analysis: ## Simulate how often canaries are judged wrongly, 10,000 runs a cell (`RUNS=1000` for fewer)
	$(CARGO) bench --locked --bench analysis

bench-feed: ## Measure what it costs the builder to read the traffic feed, and to judge 1,000 rollouts
	$(CARGO) bench --locked --bench feed

bench-hiding: ## Measure whether timing reveals which hosts exist
	$(CARGO) bench --locked --bench hiding

fuzz: ## Run each fuzz target: `make fuzz SECONDS_EACH=600`
	fuzz/run $(or $(SECONDS_EACH),60)

setup: ## Install the requirements of the tests besides Rust and Go (Debian and Ubuntu)
	tests/install
