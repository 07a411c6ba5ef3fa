# Bare `make` prints what there is. Every step of CI is a target here.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DOCS ?=
ASK ?=
SEED ?= 1
MINUTES ?= 2
# Of the tests: for the many short ones, and for those with services, API servers and Milvus (0: one at a time).
WORKERS ?= 2
SERVER_WORKERS ?= 0
STORE ?= postgres
ENGINE ?= docker
BASE_IMAGE ?= python:3.11-slim-bookworm
IMAGE_PREFIX ?= agentteams/
VERSION ?= dev

PROJECTS := protos libs/servicekit libs/manifests libs/localmodel libs/capacity libs/cli \
  services/embedding services/retrieval services/session services/orchestrator services/evaluation \
  services/gateway operator
EDITABLE := $(foreach project,$(PROJECTS),-e $(project))
SOURCES := libs services operator tests bench protos/generate.py requirements/compile.py charts/document.py charts/dashboards docs/document.py

IMAGES := session retrieval embedding orchestrator evaluation gateway operator milvus-lite
FOLDER_operator := operator
MODULE_operator := agentteams_operator
PORT_embedding := 50051
PORT_retrieval := 50052
PORT_session := 50053
PORT_orchestrator := 50054
PORT_gateway := 8080
PORT_operator := 50055
PORT_evaluation := 50056
FOLDER_milvus-lite := libs/servicekit
MODULE_milvus-lite := milvus_lite.cmdline
PORT_milvus-lite := 19530
HEALTH_URL_milvus-lite := tcp://127.0.0.1:{port}
# It ends in order on this one only, and as the first process of a container ignores SIGTERM.
STOP_SIGNAL_milvus-lite := SIGINT
HEALTH_URL_gateway := http://127.0.0.1:{port}/readyz
# buildah needs no daemon; in a container of its own it can only change the root.
BUILD = $(if $(filter buildah,$(ENGINE)),buildah bud --layers --isolation chroot --network host --pull-never --format docker,$(ENGINE) build)

.DEFAULT_GOAL := help
.PHONY: help run demo images images-check wheels setup test test-unit conformance golden lint fmt types layers proto proto-check crds crds-check charts charts-check dashboards dashboards-check lock bench chaos chaos-ingest check clean

##@ Use it
run: $(VENV)/.run ## Start everything, index a folder (DOCS=path, default docs/), ask, go on serving
	@$(BIN)/agentteams up $(if $(DOCS),--docs "$(DOCS)") $(if $(ASK),--ask "$(ASK)")

demo: $(VENV)/.run ## The same, but end after the answer; on free ports, beside whatever runs
	@$(BIN)/agentteams up --free-ports $(if $(DOCS),--docs "$(DOCS)") --demo $(if $(ASK),--ask "$(ASK)")

##@ Work on it
setup: $(VENV)/.dev ## Make the virtual environment with all tools (.venv)

PYTEST = $(BIN)/python -m pytest
MANY := tests/unit tests/contract tests/charts
# Three calls: many short tests, those with processes, and what measures. Each runs whatever becomes of the others,
# unless somebody stops it (2); the end repeats what failed and what was not run.
test: $(VENV)/.dev ## All tests, with real services, Postgres, Milvus Lite and Standalone
	@failed=0; export TEST_REPORT=$$(mktemp); trap 'rm -f "$$TEST_REPORT"' EXIT; \
	  run() { $(PYTEST) "$$@" || { [ $$? -ne 2 ] || exit 2; failed=1; echo "FAILED: pytest $$*" >>"$$TEST_REPORT"; }; }; \
	  run $(MANY) -n $(WORKERS) -m "not alone"; \
	  run tests $(MANY:%=--ignore=%) -n $(SERVER_WORKERS) -m "not alone"; \
	  run -m alone $$(grep -rlw mark.alone tests --include='test_*.py'); \
	  cat "$$TEST_REPORT"; exit $$failed

test-unit: $(VENV)/.dev ## Only the tests that start no server process
	@$(PYTEST) tests/unit -n $(WORKERS)

conformance: $(VENV)/.dev ## The vector store on every Milvus, and what holds while its roles are killed; 20 min
	@CONFORMANCE=1 $(BIN)/python -m pytest -q tests/contract/test_vector_store*.py tests/contract/test_filters*.py \
	  tests/integration/test_milvus_outages.py
	@CONFORMANCE=1 $(BIN)/python -m pytest -q tests/integration/test_milvus_roles.py

golden: $(VENV)/.dev ## Write the golden histories of the examples anew (tests/golden/); read the diff
	@GOLDEN=write $(BIN)/python -m pytest -q tests/unit/orchestrator/test_golden.py -k golden_history_says

lint: $(VENV)/.dev layers proto-check crds-check charts-check dashboards-check ## Style, imports between parts, the proto files, the CRDs
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)
	@cd protos && ../$(BIN)/buf lint

fmt: $(VENV)/.dev ## Format the code
	@$(BIN)/ruff check --fix $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

types: $(VENV)/.dev ## Type check, strict
	@$(BIN)/mypy $(foreach project,$(filter-out protos,$(PROJECTS)),$(project)/src) tests bench charts/dashboards

layers: $(VENV)/.dev ## Who may import whom
	@$(BIN)/lint-imports

proto: $(VENV)/.dev ## Write the stubs anew from protos/
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python protos/generate.py protos/gen 2>/dev/null

proto-check: $(VENV)/.dev ## Fail if the committed stubs differ from protos/
	@scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && \
	  PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python protos/generate.py "$$scratch/gen" 2>/dev/null && \
	  diff -r -x __pycache__ "$$scratch/gen" protos/gen || \
	  { echo "protos/gen differs from protos/: run 'make proto' and commit"; exit 1; }

crds: $(VENV)/.dev ## Write the CustomResourceDefinitions anew from libs/manifests
	@$(BIN)/python -m manifests.crds charts/agentteams-crds/files

crds-check: $(VENV)/.dev ## Fail if the committed ones differ from the models
	@$(BIN)/python -m manifests.crds --check charts/agentteams-crds/files

charts: $(VENV)/.dev ## Write the README and the schema of the chart's values anew
	@$(BIN)/python charts/document.py charts/dashboards

charts-check: $(VENV)/.dev ## Fail if the committed ones differ from values.yaml
	@$(BIN)/python charts/document.py --check

dashboards: $(VENV)/.dev ## Write the dashboards of charts/dashboards anew
	@$(BIN)/python -m charts.dashboards

dashboards-check: $(VENV)/.dev ## Fail if the committed ones differ
	@$(BIN)/python -m charts.dashboards --check

lock: $(VENV)/.dev ## Pin the newest versions of all packages, with hashes
	@$(BIN)/python requirements/compile.py

# Not among them: bench/questions.py asks a stack that runs already, with a real model; bench/retrieval.py
# and bench/candidates.py need data that are not ours to give.
bench: $(VENV)/.dev ## Everything in bench/ that needs no running stack, in short
	@$(BIN)/python bench/turn.py
	@$(BIN)/python bench/sessions.py --seconds 1 --sessions 10000
	@$(BIN)/python bench/large.py --events 20
	@$(BIN)/python bench/takeover.py --rounds 4
	@$(BIN)/python bench/guardrails.py
	@$(BIN)/python bench/ledger.py
	@$(BIN)/python bench/embedding.py --texts 320
	@$(BIN)/python bench/following.py
	@$(BIN)/python bench/session_calls.py
	@$(BIN)/python bench/search.py --rows 2000 --seconds 1
	@$(BIN)/python bench/ingest.py --documents 60 --seconds 6 --rounds 1
	@$(BIN)/python bench/tuner.py --rows 5000 --dimension 64 --minutes 5

# Offline: BASE_IMAGE=local-base, and the packages in build/wheels (make wheels).
images: $(addprefix image-,$(IMAGES)) ## One image a deployable: ENGINE=docker|podman|buildah BASE_IMAGE=... IMAGE_PREFIX=... VERSION=...

image-%:
	@$(BUILD) -f services/Dockerfile -t $(IMAGE_PREFIX)$*:$(VERSION) --build-arg BASE_IMAGE=$(BASE_IMAGE) \
	  --build-arg DEPLOYABLE=$* --build-arg FOLDER=$(or $(FOLDER_$*),services/$*) \
	  --build-arg MODULE=$(or $(MODULE_$*),$*) --build-arg PORT=$(PORT_$*) --build-arg HEALTH_URL=$(HEALTH_URL_$*) \
	  --build-arg STOP_SIGNAL=$(or $(STOP_SIGNAL_$*),SIGTERM) .

# As root with buildah, which can only mount; needs Postgres and the API server of the tests (tests/support/kube.py).
images-check: ## Start each image as the chart does: not root, read-only; its health, its contents, its size
	@$(BIN)/python -m tests.images.check --engine $(ENGINE) --prefix $(IMAGE_PREFIX) --tag $(VERSION)

wheels: $(VENV)/.dev ## All packages of the images into build/wheels, for builds without a network
	@for lock in $(IMAGES); do $(BIN)/python -m pip download -qq --disable-pip-version-check --require-hashes \
	  --only-binary :all: -d build/wheels -r requirements/$$lock.lock || exit 1; done

chaos: $(VENV)/.dev ## Kill services under traffic and check what is left: SEED=1 MINUTES=2 STORE=postgres|sqlite
	@$(BIN)/python -m tests.chaos.run --seed $(SEED) --minutes $(MINUTES) --store $(STORE)

chaos-ingest: $(VENV)/.dev ## Kill services and Milvus while 1,000 documents are ingested: SEED=1 MINUTES=2 STORE=postgres|sqlite
	@$(BIN)/python -m tests.chaos.ingest_run --seed $(SEED) --minutes $(MINUTES) --store $(STORE)

check: lint types test ## All that CI runs, before it runs the demo

clean: ## Remove the virtual environment and the local state
	rm -rf $(VENV) .agentteams

help: ## This list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; this is " + sys.version.split()[0] + ". Say which: make PYTHON=python3.12 ...")'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/bin/python requirements/run.lock $(addsuffix /pyproject.toml,$(PROJECTS))
	@echo "Installing packages into $(VENV) (once, about a minute) ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes -r requirements/run.lock
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation $(EDITABLE)
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements/dev.lock
	@echo "Installing the tools for development ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes -r requirements/dev.lock
	@touch $@
