# What there is to do here. `make` alone lists it with expected times, measured on 2 cores.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help build fmt lint test test-chaos tools demo bench bench-sessions up docs-check questions

CARGO ?= cargo
export PATH := $(CURDIR)/.tools/bin:$(PATH)

help: ## lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## builds everything (first time 3 to 5 min)
	@echo "build: 3 to 5 minutes the first time, seconds afterwards"
	$(CARGO) build --workspace

fmt: ## formats the code (seconds)
	$(CARGO) fmt --all

tools: ## installs what tests and the demo need beside Rust (first time 1 to 3 min)
	@echo "tools: 1 to 3 minutes the first time, seconds afterwards"
	@scripts/install-tools.sh

lint: ## formatting, clippy, proto, dependencies (first time 4 min)
	@echo "lint: about 4 minutes the first time, seconds afterwards"
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --quiet -- -D warnings
	@scripts/lint.sh

test: tools lint ## everything that must hold, on Postgres, Redis and the embedded stores (15 to 25 min from a clean clone)
	@echo "test: 15 to 25 minutes from a clean clone, 3 to 6 afterwards"
	$(CARGO) build --workspace --bins --examples --quiet
	MAR_REQUIRE_TOOLS=1 $(CARGO) test --workspace --no-fail-fast

test-chaos: tools ## a storm of 1,000 runs and more, that it finds each fault that a build can be told to have, and that a release has none (20 to 40 min)
	@echo "test-chaos: 20 to 40 minutes, of which up to 8 build a release; MAR_CHAOS_SEED=n repeats a storm's choices"
	$(CARGO) build --workspace --bins --examples --quiet
	MAR_SIMULATION_SEEDS=3000 $(CARGO) test -p mar-tests --test simulation worlds_hold -- --nocapture
	$(CARGO) test -p mar-tests --test chaos --no-fail-fast -- --ignored --nocapture --test-threads 1
	@scripts/check-release.sh

demo: ## asks a real model about this project: make demo QUESTION="…" MODEL=small (first time 5 to 8 min, then under 1)
	@echo "demo: 5 to 8 minutes the first time (build, 1.1 GB of model), then under a minute"
	@QUESTION="$${QUESTION:-}" MODEL="$${MODEL:-}" scripts/demo.sh "$${QUESTION:-}"

questions: ## ten questions to the local model, as a table (8 min; MODEL=small 4)
	@echo "questions: about 8 minutes, 4 with MODEL=small"
	@scripts/questions.sh --model $(if $(filter small,$(MODEL)),small,large)

bench: tools ## benchmark A beside its floors and its peers (12 min, of which 10 build)
	@echo "bench: about 12 minutes, most of it an optimised build"
	@scripts/bench.sh

bench-sessions: tools ## steps, storage, takeover and memory of four processes beside their floors (20 min, of which 15 build)
	@echo "bench-sessions: about 20 minutes, most of it an optimised build"
	@scripts/bench-sessions.sh

up: ## starts everything in one process, with the documentation as tools, until Ctrl-C
	@echo "up: starts in under a second once it is built"
	$(CARGO) build --quiet --workspace --bins
	"$${CARGO_TARGET_DIR:-target}/debug/mar" up --docs docs

docs-check: ## builds the API documentation without warnings and checks links between the pages (2 min)
	@echo "docs-check: about 2 minutes the first time"
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --quiet
	@python3 scripts/check_links.py
