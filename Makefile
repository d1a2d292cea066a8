# make demo             set up, work the digits recipes through the queue, print the leaderboard,
#                       deploy the W4A4 network and print its check
# make demo SEEDS="0 1 2"   the same over three seeds
# make test             set up and pass every check
# make test-full        the same, with each slow test in its full form (LSQCTL_TEST_FULL)
# make gpu              where a GPU is at hand: its tests, resume, compiler, speed, a CIFAR-10 run, within
#                       ten minutes and without a network; writes docs/gpu.md
PYTHON ?= python3
SEEDS ?= 0
DEMO ?= .demo
BOARD ?= leaderboard.csv
BIN := .venv/bin
export PIP_CONSTRAINT := constraints.txt
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-full lint tests gpu clean

demo: export LSQCTL_HOME := $(DEMO)
demo: .venv/.ready
	rm -rf $(DEMO) $(BOARD)
	$(BIN)/lsqctl submit digits/resnet8-fp32 digits/resnet8-lsq $(SEEDS:%=--seed %)
	$(BIN)/lsqctl worker --until-empty --slots 2
	$(BIN)/lsqctl leaderboard
	$(BIN)/lsqctl export $(BOARD)
	$(BIN)/lsqctl deploy digits/resnet8-lsq-w4a4 -o $(DEMO)/deployed
	$(BIN)/lsqctl deploy check $(DEMO)/deployed

test: lint tests

test-full: export LSQCTL_TEST_FULL := 1
test-full: test

lint: .venv/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

tests: .venv/.ready-dev
	$(BIN)/python -m pytest -n 3 -q

gpu:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) bench/gpu.py --write docs/gpu.md

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "lsqctl needs Python 3.11 or newer; name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.ready: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) --editable '.[deploy]'
	touch $@

.venv/.ready-dev: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) --editable '.[dev]'
	touch .venv/.ready $@

clean:
	rm -rf .venv .demo leaderboard.csv
