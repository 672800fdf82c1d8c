# `make sweep` and `make test` need only Python 3.11 to 3.13 and make; each sets up .venv the first time.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	command -v $$p >/dev/null 2>&1 && \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1 && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
JAX_VENV := .venv-jax
# It has JAX with CUDA.
GPU_PYTHON ?= python3
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

sweep: $(VENV)/installed ## set up, then run the convolutional sweep
	$(BIN)/python -m mnist_sweep +experiment=cnn

test: $(VENV)/installed-test $(VENV)/browser $(VENV)/postgres $(VENV)/network ## set up, then run the tests
	$(BIN)/python -m pytest -m "not slow" -n 3 --dist loadfile

test-slow: $(VENV)/installed-test $(VENV)/postgres $(VENV)/network ## run the tests that take minutes
	$(BIN)/python -m pytest -m slow

task-table: $(VENV)/installed-test ## run everything for every task, and write the table in docs/tasks.md
	RECORD_TASKS=1 $(BIN)/python -m pytest -m slow tests/e2e/test_every_task.py
	$(BIN)/python tests/task_table.py

test-jax: $(JAX_VENV)/installed ## run the tests of training on JAX, in an environment without TensorFlow
	KERAS_BACKEND=jax $(JAX_VENV)/bin/python -m pytest tests/e2e/test_without_tensorflow.py tests/training/test_jax.py

stack: $(VENV)/installed-test $(VENV)/postgres ## run PostgreSQL, S3 and an MLflow server with passwords on this machine, until Ctrl-C
	@PYTHONPATH=. $(BIN)/python tests/stack.py $(ARGS)

chaos: $(VENV)/installed-test $(VENV)/network ## disturb sweeps 621 times (kills, full disks, clock changes, lost nodes) and check that nothing is lost; takes over an hour
	$(BIN)/python tests/chaos.py

bench-search: $(VENV)/installed-test ## compare searches on recorded learning curves; takes 20 minutes
	$(BIN)/python -m benchmarks.search_quality

bench: $(VENV)/installed-bench ## compare the speed with keras-tuner, Optuna and Ray Tune, and measure the overhead (DATA=mnist.npz); 80 minutes on 2 cores
	$(BIN)/python -m benchmarks.limit
	$(BIN)/python -m benchmarks.throughput $(if $(DATA),--data $(DATA)) $(ARGS)
	$(BIN)/python -m benchmarks.overhead $(if $(DATA),--data $(DATA))

gpu-wheels: ## download what a GPU machine without a network lacks for `make gpu` (DATA=mnist.npz: also the images)
	$(PYTHON) -m benchmarks.gpu.wheels $(if $(DATA),--data $(DATA))

gpu: ## measure what a GPU does with sweeps, in 9 minutes; needs JAX and `make gpu-wheels`, but no network (ARGS=--tiny: on CPU)
	$(GPU_PYTHON) -m benchmarks.gpu $(ARGS)

gpu-report: $(VENV)/installed ## print the tables of `make gpu` again
	$(BIN)/python -m benchmarks.gpu.report $(or $(FILES),benchmarks/results/gpu/gpu.json)

check: $(VENV)/installed-dev ## run ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed-dev ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the environment and the caches, not the results
	rm -rf $(VENV) $(JAX_VENV) .gpu .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "mnist_sweep needs Python 3.11 to 3.13; set it with make PYTHON=/path/to/python"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV): TensorFlow, Keras, MLflow and their dependencies; takes some minutes the first time."
	$(PIP) --editable .
	@touch $@

$(VENV)/installed-test: pyproject.toml constraints.txt | $(VENV)/installed
	$(PIP) --editable '.[test]'
	@touch $@

$(VENV)/installed-bench: pyproject.toml constraints.txt | $(VENV)/installed
	$(PIP) --editable '.[bench]'
	@touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(VENV)/installed
	$(PIP) --editable '.[dev]'
	@touch $@

# All dependencies but TensorFlow, which the package requires, so that it cannot be installed in the usual way.
$(JAX_VENV)/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "mnist_sweep needs Python 3.11 to 3.13; set it with make PYTHON=/path/to/python"; exit 2; }
	$(PYTHON) -m venv $(JAX_VENV)
	$(PYTHON) -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; e = p["optional-dependencies"]; \
	print(*(r for r in p["dependencies"] + e["jax"] + e["test"] if not r.startswith(("tensorflow", "mnist_sweep"))), sep="\n")' \
	> $(JAX_VENV)/requirements.txt
	$(JAX_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	--requirement $(JAX_VENV)/requirements.txt hatchling editables
	$(JAX_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# The tests of web pages use headless Chromium. As root on Debian or Ubuntu it is installed; elsewhere, install it yourself.
$(VENV)/browser: | $(BIN)/python
	@if ! { command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null 2>&1 \
	&& test "$$(id -u)" = 0 && command -v apt-get >/dev/null 2>&1; then \
		echo "Installing Chromium for the tests of web pages"; \
		apt-get update -qq >/dev/null 2>&1; \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core fonts-liberation >/dev/null 2>&1 || \
		{ echo "Chromium cannot be installed; the tests of web pages will be skipped."; exit 0; }; \
	fi; touch $@

# The tests of a team's MLflow use PostgreSQL, which `make stack` runs.
$(VENV)/postgres: | $(BIN)/python
	@if ! { command -v initdb || ls /usr/lib/postgresql/*/bin/initdb; } >/dev/null 2>&1 \
	&& test "$$(id -u)" = 0 && command -v apt-get >/dev/null 2>&1; then \
		echo "Installing PostgreSQL for the tests of a team's MLflow"; \
		apt-get update -qq >/dev/null 2>&1; \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql >/dev/null 2>&1 || \
		{ echo "PostgreSQL cannot be installed; the tests that use it will be skipped."; exit 0; }; \
	fi; touch $@

# The tests of clusters use `ip`, to have machines in network namespaces; without it, Ray simulates the machines.
$(VENV)/network: | $(BIN)/python
	@if ! command -v ip >/dev/null 2>&1 && test "$$(id -u)" = 0 && command -v apt-get >/dev/null 2>&1; then \
		echo "Installing iproute2 for the tests of clusters"; \
		apt-get update -qq >/dev/null 2>&1; \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends iproute2 >/dev/null 2>&1 || \
		{ echo "iproute2 cannot be installed; Ray will simulate the machines."; exit 0; }; \
	fi; touch $@

.PHONY: help sweep test test-slow task-table test-jax stack chaos bench-search bench gpu-wheels gpu gpu-report check format clean
