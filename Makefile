# Every target makes .venv first if it is not there, or if what it is made from has changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.made
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: setup demo test test-all check format bench clean

setup: $(STAMP)

# torch is installed first and alone: asked for by another package, pip would take a CUDA build.
$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || { echo "making $(VENV), once; torch alone takes a minute or two"; $(PYTHON) -m venv $(VENV); }
	@$(PIP) torch==2.13.0
	@$(PIP) -e '.[report,onnx,ctranslate2,dev]'
	@touch $@

demo: $(STAMP)
	@$(BIN)/python examples/demo.py --out demo

test: check
	@$(BIN)/python -m pytest -n 2 -q

test-all: check
	@$(BIN)/python -m pytest -n 2 -q -m ""

check: $(STAMP)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/deptry src

format: $(STAMP)
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(STAMP)
	@for script in tokens vocabulary prepare examples pretraining finetuning inference; do \
		echo "== benchmarks/$$script.py"; $(BIN)/python benchmarks/$$script.py || exit 1; \
	done

clean:
	rm -rf $(VENV) demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
