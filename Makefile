# `make digits` runs the main job, `make test` the tests, `make reproduce` the main job against its stated figures.
# Each sets up what it needs: Python 3.11 or newer, and no more.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
DIGITS := runs/digits
REPRODUCED := runs/reproduced
# Programs compiled once are kept beside the environment: sampling after training, and a second run, start sooner.
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/$(VENV)/compiled

.PHONY: setup dev digits reproduce test test-all test-oldest test-newest lint docs clean

setup: $(VENV)/ready

# What make test needs in addition, which is as much again.
dev: $(VENV)/ready-dev

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable . --constraint constraints.txt
	touch $@

$(VENV)/ready-dev: $(VENV)/ready
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[dev]' --constraint constraints.txt
	touch $@

digits: setup
	$(RUN) main.py --config=configs/digits.py --workdir=$(DIGITS)
	$(RUN) main.py --mode=sample --workdir=$(DIGITS) --num_samples=1000
	$(RUN) main.py --mode=eval --workdir=$(DIGITS) --num_samples=1000
	@echo "Look at $(DIGITS)/eval/samples.png, $(DIGITS)/eval/loss.png and $(DIGITS)/eval/report.md"

reproduce: setup  # from nothing: status 1 where a figure of config.eval.expected is missed
	rm -rf $(REPRODUCED)
	$(RUN) main.py --mode=reproduce --config=configs/digits.py --workdir=$(REPRODUCED)

test: dev
	$(RUN) -m pytest -q -n 2 --dist worksteal -m 'not slow'

test-all: dev
	$(RUN) -m pytest -q -n 2 --dist worksteal
	$(MAKE) reproduce

# The whole suite with the lowest versions that pyproject.toml allows, and with the highest, each in its own environment.
test-oldest: CONSTRAINTS := constraints-oldest.txt
test-oldest: ENVIRONMENT := $(VENV)-oldest
test-newest: CONSTRAINTS := constraints-newest.txt
test-newest: ENVIRONMENT := $(VENV)-newest
test-oldest test-newest:
	$(PYTHON) -m venv $(ENVIRONMENT)
	$(ENVIRONMENT)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' --constraint $(CONSTRAINTS)
	JAX_COMPILATION_CACHE_DIR=$(CURDIR)/$(ENVIRONMENT)/compiled $(ENVIRONMENT)/bin/python -m pytest -q -n 2 --dist worksteal -m 'not slow'

lint: dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/basedpyright

# The documentation site, in build/site: open build/site/index.html. Nothing is downloaded, then or when it is viewed.
docs: dev
	NO_MKDOCS_2_WARNING=1 JAX_PLATFORMS=cpu $(RUN) -m mkdocs build --strict --quiet

clean:  # other runs stay
	rm -rf $(VENV) $(VENV)-oldest $(VENV)-newest $(DIGITS) $(REPRODUCED) build *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
