# On a fresh machine, `make demo` and `make test` install everything they need.
# A second call installs nothing: the stamp files depend on pyproject.toml and constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Modules are compiled when they are first imported: pip would compile thousands that nothing imports.
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt
PINS := pyproject.toml constraints.txt
# Containers set this variable, and then each of the tests' many processes would compile every module.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-fast test-all test-all-processes test-pages-and-image image smoke test-docker test-sdk test-serve test-llm test-browser test-gpu bench-gpu chaos lint tree docs picture golden lock audit secrets bench bench-article clean

demo: $(VENV)/.demo
	$(BIN)/embedtune launch --data builtin:aws-docs --model builtin:minilm \
	  --set data.limit=1500 --set training.epochs=2 \
	  --output demo --name demo-$$(date -u +%Y%m%d-%H%M%S)

# Test tiers (tests/tiers.py). test-fast: no training, no processes, no servers. test: everything that
# the README promises. test-all: everything except SageMaker's SDK and a real account. Long files run
# first, so that all workers finish at about the same time.
PYTEST := $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

test: $(VENV)/.dev
	$(PYTEST) $(ARGS)

test-fast: $(VENV)/.dev
	$(PYTEST) -m 'not slow' --hypothesis-profile fast $(ARGS)

# Building images is mostly waiting, so both parts run at the same time.
test-all: $(VENV)/.dev
	$(MAKE) --jobs=2 test-all-processes test-pages-and-image

APART := docker or browser or sdk or aws or gpu or llm or serve

test-all-processes: $(VENV)/.dev
	$(PYTEST) -m 'not ($(APART))' $(ARGS)

test-pages-and-image: $(VENV)/.dev
	$(MAKE) test-browser
	$(MAKE) test-docker

# ARGS: options of `embedtune image build`; without --cpu it builds the image for GPUs.
image: $(VENV)/.demo
	$(BIN)/embedtune image build --demo $(ARGS)

# A smaller demo in that image, without network and GPU.
smoke: $(VENV)/.demo
	$(BIN)/embedtune launch --backend docker --gpus none --network none --preset quick \
	  --data builtin:aws-docs --model builtin:minilm --set data.limit=600 \
	  --output smoke --name smoke-$$(date -u +%Y%m%d-%H%M%S) $(ARGS)

# Uses a running Docker engine or, as root, starts one; without an engine it prints the reason.
# CI leaves the exhaustive tests out: IMAGE_TESTS='docker and not exhaustive'.
test-docker: $(VENV)/.dev
	PYTHON=$(BIN)/python tests/docker/engine run $(BIN)/pytest -m '$(or $(IMAGE_TESTS),docker)' tests/docker $(ARGS)

# Kill runs at random moments of every stage, and resume them.
chaos: $(VENV)/.dev
	CHAOS_RUNS=60 $(BIN)/pytest -n 0 -m exhaustive tests/chaos $(ARGS)

# The HTML pages in a real browser, if one is available.
test-browser: $(VENV)/.dev
	PYTHON=$(BIN)/python tests/browser/run $(ARGS)

# SageMaker's SDK in a separate environment (1 GB), against a local control plane.
test-sdk: $(VENV)/.dev
	PYTHON=$(BIN)/python tests/sdk/run $(ARGS)

# Check and measure a GPU, from the archive that can be carried to a machine without a network.
# ARGS='--device cpu --rows 200' runs through without one; DATA: a file of pairs.
test-gpu: .gpu-kit.tar.gz
	rm -rf gpu-kit && tar xf $< && $(BIN)/python gpu-kit/run.py test $(ARGS)

bench-gpu: .gpu-kit.tar.gz
	rm -rf gpu-kit && tar xf $< && $(BIN)/python gpu-kit/run.py bench $(ARGS)

.gpu-kit.tar.gz: $(VENV)/.dev $(shell find job tests/gpu tests/benchmarks -type f -not -name '*.pyc')
	$(BIN)/python tests/gpu/kit $@ $(if $(DATA),--data $(DATA))

# A server that we did not write, in a separate environment (several GB).
test-serve: $(VENV)/.dev
	PYTHON=$(BIN)/python tests/serve/run $(ARGS)

# Documents to a tuned model with a real language model, in a separate environment (300 MB).
test-llm: $(VENV)/.dev
	PYTHON=$(BIN)/python tests/llm/run $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile
	$(BIN)/actionlint $(wildcard .github/workflows/*.yml)

# Pin the image's packages with hashes; run after a change of pyproject.toml or constraints.txt.
lock: $(VENV)/.dev
	$(BIN)/python container/lock.py

audit: $(VENV)/.audit
	$(BIN)/python .ci/audit.py sbom.json

secrets: $(VENV)/.dev
	.ci/secrets

# Each folder and the purpose that its docstring states; FILES='*.py': each file.
tree:
	@grep -rm1 --include='$(or $(FILES),__init__.py)' '^"""' job launcher | sed 's/:"""/  /; s/"""$$//' | sort

# The generated parts of the READMEs: commands, fields of the job file, exit codes.
docs: $(VENV)/.dev
	$(BIN)/python -m launcher.reference $(wildcard */README.md)

# docs/report.png: the first screen of the newest demo's report.
picture: $(VENV)/.dev
	$(BIN)/python tests/picture.py $(ARGS)

# Regenerate the expected views of three reports after an intended change; review the diff.
golden: $(VENV)/.dev
	$(BIN)/python tests/reports.py

# The job sets the same variable: waiting threads spin for microseconds only.
bench: export GOMP_SPINCOUNT ?= 1000
bench: $(VENV)/.demo
	$(BIN)/python tests/benchmarks/versus_article.py $(ARGS)
	$(BIN)/python tests/benchmarks/padding.py
	$(BIN)/python tests/benchmarks/scale.py
	$(BIN)/python tests/benchmarks/scale_data.py

# The article's comparison at its size, with its data from the Hub, or in a file (DATA=pairs.jsonl).
# Hours on two CPU cores; after an interruption, the same command runs the sides that are missing.
# `make clean` deletes the results, too.
bench-article: export GOMP_SPINCOUNT ?= 1000
bench-article: $(VENV)/.demo .bench/all-mpnet-base-v2
	$(BIN)/python tests/benchmarks/versus_article.py --data $(or $(DATA),philschmid/finanical-rag-embedding-dataset) \
	  --model .bench/all-mpnet-base-v2 --dims 768,512,256,128,64 --limit 0 --epochs 4 --seeds 1 --sides 'article,same epochs' \
	  --scores-only --results .bench/results $(ARGS)

.bench/all-mpnet-base-v2: | $(VENV)/.demo
	$(BIN)/python tests/benchmarks/mpnet.py $@

clean:
	rm -rf $(VENV) .bench .venv-sdk .venv-serve .venv-llm .browser .gpu-kit.tar.gz gpu-kit demo smoke build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("embedtune needs Python 3.11 or newer; try: make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python $(PINS)
	$(INSTALL) --editable '.[train,demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.demo $(PINS)
	$(INSTALL) --editable '.[dev]'
	@touch $@

$(VENV)/.audit: $(VENV)/.dev $(PINS)
	$(INSTALL) --editable '.[audit]'
	@touch $@
