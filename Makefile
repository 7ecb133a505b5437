# Every target installs what it needs, on a machine with Python and its venv module, and is quick the second time.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
# Two targets must not run pip in one environment at the same time.
.NOTPARALLEL:

VENV = .venv
# The first of these that is version 3.11, 3.12 or 3.13 is used.
PYTHON = python3.11 python3.12 python3.13 python3

# Set on the command line only, because some environments have a HOST. Empty: the service's own default.
HOST =
PORT =
DEVICE =
MODEL =
REVISION =
ARGS =

python := $(VENV)/bin/python
# On a terminal pip shows its downloads; otherwise only failures. As in scripts/install-torch.
quiet := $(shell [ -t 2 ] || echo -qq)
pip := $(python) -m pip install $(quiet) -c constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

# Debian's packages of the data that MODEL is trained on.
data_packages = $(if $(filter emoji%,$(MODEL)),fonts-noto-color-emoji unicode-cldr-core,dataset-fashion-mnist)
# Servers to compare with.
peers := bentoml litserve mosec
# Clients to test with that need environments of their own.
client_peers := kserve
# Tools that check what is deployed.
deploy_tools := kubernetes
# What describes and audits the packages.
audit_tools := supply
# Draws the diagrams of the documentation site, with docs/requirements.txt.
mermaid := mermaid@11.12.0
# Trainers to compare with.
train_peers := diffusers lucidrains

rest := slow or browser or containers or prometheus or gpu
# Two processes, up to 2.5 GB each. A file stays in one of them, because its tests share a service.
parallel := -n 2 --dist loadfile

.PHONY: $(shell awk -F: '/^[a-z-]+:/ { print $$1 }' Makefile)

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-17s %s\n", $$1, $$2 }' Makefile

install: $(VENV)/.dev  ## install everything that the other targets need

install-diffusers: $(VENV)/.diffusers  ## the packages for folders in diffusers' format, and the command genserve

serve: $(VENV)/.serve  ## serve the models in weights/: [HOST=127.0.0.1] [PORT=8000] [DEVICE=auto|cpu|cuda]
serve-diffusers: $(VENV)/.diffusers  ## the same, with folders in diffusers' format: see docs/DIFFUSERS.md
serve serve-diffusers:
	@exec env $(if $(HOST),GENSERVE_HOST=$(HOST)) $(if $(PORT),GENSERVE_PORT=$(PORT)) \
		$(if $(DEVICE),GENSERVE_DEVICE=$(DEVICE)) $(python) -m service

site: $(VENV)/peers/site/.ready  ## the documentation site in build/site, which needs no network
	@[ -e $< ] && $(python) -m scripts.site_docs && echo "==> build/site/index.html"

test: $(VENV)/.dev  ## the tests that need only Python; 6 minutes on two cores; [ARGS='-x tests/service']
	@echo "==> about 6 minutes on two cores; a part of the tests: make test ARGS=tests/service/api"
	$(python) -m pytest $(parallel) -m 'not ($(rest))' $(ARGS)

test-all: $(VENV)/.dev $(patsubst %,$(VENV)/peers/%/.ready,$(client_peers) $(deploy_tools) site)  ## the other tests: slow ones, GPU, promtool, containers; lists skipped ones
	@command -v promtool >/dev/null || [ -x $(VENV)/bin/promtool ] || scripts/install-promtool $(VENV)/bin || \
		echo "==> promtool is not available here: its tests are skipped"
	PATH="$(abspath $(VENV)/bin):$$PATH" $(python) -m pytest -m '$(rest)' $(ARGS)
	GENSERVE_TEST_LINKED=1 $(python) -m pytest $(parallel) -m 'not ($(rest))' tests/service/api

test-containers: $(VENV)/.dev  ## only the tests that build and run the images; TORCH_INDEX_URL= uses PyPI's torch
	$(python) -m pytest -m containers $(ARGS)

test-ray: $(VENV)/.ray  ## the service on Ray Serve, on three nodes of this machine: the contract, and deaths under load; 3 minutes
	$(python) -m pytest -m ray tests/contract tests/deploy $(ARGS)

lint: $(VENV)/.dev  ## ruff and mypy --strict
	$(python) -m ruff check
	$(python) -m ruff format --check
	$(python) -m mypy

page-pictures: $(VENV)/.dev  ## the page's screenshots in docs/pictures; needs chromium
	PAGE_PICTURES=docs/pictures $(python) -m pytest -m browser -k screenshots tests/e2e

first-minute: $(VENV)/.dev  ## docs/pictures/first-minute.gif: a terminal in which genserve is used; port 8000 must be free
	$(python) -m scripts.first_minute docs/pictures/first-minute.gif

train: which-model $(VENV)/.train  ## train the preset MODEL=vae|gan|ddpm|... on Fashion-MNIST, or emoji; [ARGS='--epochs 2 ...']
	@for package in $(data_packages); do \
		dpkg-query -W $$package >/dev/null 2>&1 || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || { \
		echo "==> installing Debian's $$package"; \
		{ apt-get update -qq && apt-get install -y -qq $$package; } >/dev/null 2>&1 || \
		echo "    not available: the trainer says where else to get it"; }; \
	done
	$(python) -m trainer train $(MODEL) $(ARGS)

which-model:
	@[ -n "$(MODEL)" ] || { echo "which model? for example: make train MODEL=vae"; exit 2; }

bench-api-servers: $(VENV)/.serve  ## one and two API processes in front of an engine that computes nothing; 2 minutes
	$(python) -m benchmarks.api_servers $(ARGS)

bench-capacity: $(VENV)/.train  ## what large loads need: a simulation with measured costs, compared with the service; 7 minutes; [ARGS=--quick]
	$(python) -m benchmarks.capacity $(ARGS)

bench-codes: $(VENV)/.train  ## text to image in patches against an autoencoder's codes; over an hour; ARGS='--autoencoder RUN'
	$(python) -m benchmarks.codes $(ARGS)

bench-fair: $(VENV)/.serve  ## the GAN's p99 alone, and while the DDPM is flooded
	$(python) -m benchmarks.fair $(ARGS)

bench-gpu: $(VENV)/.diffusers  ## on a GPU: forward passes plain, as CUDA graphs, and served; Stable Diffusion served and by pipe(...); [ARGS=--tiny]
	$(python) -m benchmarks.gpu $(ARGS)

bench-kill: $(VENV)/.serve  ## processes die under load: nothing lost, nothing wrong; 10 minutes; [ARGS=--quick]
	$(python) -m benchmarks.kill $(ARGS)

bench-latency: $(VENV)/.serve  ## milliseconds per picture over HTTP, for each model
	$(python) -m benchmarks.latency $(ARGS)

bench-limit: $(VENV)/.serve  ## pictures per second over HTTP against the bare TorchScript loop
	$(python) -m benchmarks.limit $(ARGS)

bench-metrics: $(VENV)/.serve  ## counting and a scrape of several processes against prometheus_client's own
	$(python) -m benchmarks.metrics $(ARGS)

bench-mixed: $(VENV)/.serve $(VENV)/peers/litserve/.ready  ## short requests among long ones, with each kind of batching; 15 minutes
	$(python) -m benchmarks.mixed $(ARGS)

bench-overload: $(VENV)/.serve  ## ten times the load that can be served; 6 minutes
	$(python) -m benchmarks.overload $(ARGS)

bench-peers: $(VENV)/.serve $(peers:%=$(VENV)/peers/%/.ready)  ## the GAN served by genserve, LitServe, mosec, BentoML and plain FastAPI; 20 minutes
	$(python) -m benchmarks.peers $(ARGS)

bench-png: $(VENV)/.serve  ## the PNG writer against Pillow's
	$(python) -m benchmarks.png $(ARGS)

bench-prepare: $(VENV)/.serve  ## ways to prepare a model for serving on a CPU
	$(python) -m benchmarks.prepare $(ARGS)

bench-precision: $(VENV)/.serve  ## denoising in bfloat16 against float32, in turn, by batch size; [ARGS=--served]: whole services, 3 minutes
	$(python) -m benchmarks.precision $(ARGS)

bench-processes: $(VENV)/.serve  ## the service in several processes against one, in bursts in turn; 10 minutes
	$(python) -m benchmarks.processes $(ARGS)

bench-prompts: $(VENV)/.diffusers  ## mixed prompts to a folder of diffusers, against pipe(...) in line and in batches; 12 minutes; [ARGS=--quick]
	$(python) -m benchmarks.prompts $(ARGS)

bench-quality: $(VENV)/.train $(train_peers:%=$(VENV)/peers/%/.ready)  ## quality after equal training, with lucidrains' and diffusers' trainers; two hours
	$(python) -m benchmarks.quality $(ARGS)

bench-reliability: $(VENV)/.dev  ## what docs/RELIABILITY.md promises; 75 minutes; [ARGS='--quick' | '--only R4,R9' | '--plant leak']
	$(python) -m benchmarks.reliability $(ARGS)

bench-replicas: $(VENV)/.serve  ## one and two replicas behind HAProxy: answers per second, replaced and killed under load; 4 minutes
	$(python) -m benchmarks.replicas $(ARGS)

bench-rest: $(VENV)/.serve  ## seconds to ready, idle processor time and memory of all processes
	$(python) -m benchmarks.rest $(ARGS)

bench-revisions: $(VENV)/.serve  ## this tree's service against REVISION=..., in bursts in turn; 10 minutes
	@[ -n "$(REVISION)" ] || { echo "which revision? for example: make bench-revisions REVISION=HEAD~10"; exit 2; }
	$(python) -m benchmarks.revisions $(REVISION) $(ARGS)

bench-tenants: $(VENV)/.serve  ## what one API key's flood leaves of another's goodput; 6 minutes
	$(python) -m benchmarks.tenants $(ARGS)

bench-train: $(VENV)/.train $(train_peers:%=$(VENV)/peers/%/.ready)  ## the training loop against a bare one, lucidrains' and diffusers'
	$(python) -m benchmarks.train $(ARGS)

bench-transport: $(VENV)/.serve  ## Unix sockets, ZeroMQ and shared memory between an API and an engine process; 3 minutes
	@$(pip) pyzmq==27.3.0 || echo "==> pyzmq is not available here: it is left out"
	$(python) -m benchmarks.transport $(ARGS)

bench-widths: $(VENV)/.train  ## networks of different sizes at equal training time, on emoji in colour; an hour; ARGS='ddpm 2x48 4x96'
	$(python) -m benchmarks.widths $(ARGS)

sbom: $(VENV)/.serve $(audit_tools:%=$(VENV)/peers/%/.ready)  ## build/sbom.json: the packages of .venv in CycloneDX; for an image see docs/OPERATIONS.md
	@mkdir -p build
	$(VENV)/peers/supply/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--output-file build/sbom.json $(python)

audit: $(VENV)/.serve $(audit_tools:%=$(VENV)/peers/%/.ready)  ## packages with known vulnerabilities, and secrets in the repository; says what could not be asked
	@$(python) -m scripts.audit $(VENV)/peers/supply

clean:  ## remove the environment and the caches; runs, data and weights stay
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# venv creates bin/pip last, so that an interrupted environment is created again.
$(VENV)/bin/pip:
	@for p in $(PYTHON); do \
		if $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then found=$$p; break; fi; \
	done; \
	[ -n "$${found:-}" ] || { echo "Python 3.11, 3.12 or 3.13 is needed, but none of these is: $(PYTHON)"; exit 1; }; \
	echo "==> $(VENV) with $$($$found --version)"; \
	$$found -m venv $(VENV) || { echo "on Debian: apt-get install python3-venv"; exit 1; }

# A stamp file says what is installed; larger sets include smaller ones. Torch is first: see scripts/install-torch.
$(VENV)/.torch: constraints.txt | $(VENV)/bin/pip
	@scripts/install-torch $(python) torch
	@touch $@

$(VENV)/.torchvision: $(VENV)/.torch
	@scripts/install-torch $(python) torchvision
	@touch $@

$(VENV)/.serve: pyproject.toml $(VENV)/.torch
	@echo "==> the service's packages"
	@$(pip) -e '.[serve]'
	@echo "==> installed the command genserve: $(VENV)/bin/genserve --help"
	@touch $@

$(VENV)/.diffusers: pyproject.toml $(VENV)/.torch
	@echo "==> the service's packages, with diffusers"
	@$(pip) -e '.[diffusers]'
	@echo "==> installed the command genserve: $(VENV)/bin/genserve --help"
	@touch $(VENV)/.serve $@

$(VENV)/.train: pyproject.toml $(VENV)/.torchvision
	@echo "==> the trainer's packages"
	@$(pip) -e '.[train]'
	@touch $(VENV)/.serve $@

$(VENV)/.dev: pyproject.toml $(VENV)/.torchvision
	@echo "==> the tests' and linters' packages"
	@$(pip) -e '.[dev]'
	@touch $(VENV)/.serve $(VENV)/.diffusers $(VENV)/.train $@

$(VENV)/.ray: $(VENV)/.dev
	@echo "==> Ray Serve"
	@$(pip) -e '.[ray]'
	@touch $@

# Needs no torch, unlike the other peers. More specific than their rule, so it comes first.
$(client_peers:%=$(VENV)/peers/%/.ready): $(VENV)/peers/%/.ready: tests/e2e/dialects/requirements-%.txt | $(VENV)/bin/pip
	@echo "==> the client of $* to test with"
	@$(python) -m venv --clear $(@D) && $(@D)/bin/python -m pip install -qq -r $< && touch $@ || \
		echo "    $* is not available here: its test is skipped"

$(deploy_tools:%=$(VENV)/peers/%/.ready): $(VENV)/peers/%/.ready: tests/deploy/requirements-%.txt | $(VENV)/bin/pip
	@echo "==> the tools of $* to test with"
	@$(python) -m venv --clear $(@D) && $(@D)/bin/python -m pip install -qq -r $< && touch $@ || \
		echo "    $* is not available here: its tests are skipped"

$(audit_tools:%=$(VENV)/peers/%/.ready): $(VENV)/peers/%/.ready: scripts/requirements-%.txt | $(VENV)/bin/pip
	@echo "==> the tools of make sbom and make audit"
	@$(python) -m venv --clear $(@D) && $(@D)/bin/python -m pip install -qq -r $< && touch $@

# MkDocs, and mermaid for its diagrams: without npm they are shown as text.
$(VENV)/peers/site/.ready: docs/requirements.txt | $(VENV)/bin/pip
	@echo "==> what builds the documentation site"
	@$(python) -m venv --clear $(@D) && $(@D)/bin/python -m pip install -qq -r $< && touch $@ || \
		echo "    MkDocs is not available here: no site is built"
	@cd $(@D) && npm pack --silent $(mermaid) >/dev/null 2>&1 && \
		tar -xzf mermaid-*.tgz --strip-components=2 package/dist/mermaid.min.js && rm mermaid-*.tgz || \
		echo "    mermaid is not available here: the site shows its diagrams as text"

# A peer that cannot be installed gets no stamp: the benchmark skips it and says so.
$(VENV)/peers/%/.ready: benchmarks/peers/requirements-%.txt $(VENV)/.torch
	@echo "==> $* to compare with"
	@$(python) -m venv --clear $(@D) && scripts/install-torch $(@D)/bin/python torch && \
		$(@D)/bin/python -m pip install -qq -r $< && touch $@ || echo "    $* is not available here"
