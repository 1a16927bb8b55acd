PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-reference lint bench clean

# The main job on the built-in demo corpus.
demo: $(VENV)/.installed-demo
	$(BIN)/python train.py experiment=spear_unified

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest

# Parity with the original implementations, on the golden values in SSL_AUDIO_REFERENCE.
test-reference: $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests/reference

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Speed ratios against peers; minutes, on an otherwise idle machine.
bench: $(VENV)/.installed-bench
	for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

$(VENV)/.installed-%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable ".[$*]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
