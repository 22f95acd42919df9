# The commands a newcomer needs. Everything lives in .venv; nothing is installed outside it but Debian's
# chromium, which only the report's tests use (they skip with a reason where it cannot be installed).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2

.PHONY: demo test test-extras lint benchmarks clean

demo: $(VENV)/.product
	$(BIN)/neuroprune demo

test: $(STAMP) chromium lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not extras"

test-extras: $(STAMP)
	$(BIN)/pip install -q -e ".[dev,zoo,rl,search,distributed]"
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m extras

lint: $(STAMP)
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/ruff format --check -q src tests benchmarks examples
	$(BIN)/mypy

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.product: pyproject.toml | $(VENV)/bin/pip
	$(BIN)/pip install -q -e .
	touch $@

$(STAMP): pyproject.toml | $(VENV)/bin/pip
	$(BIN)/pip install -q -e ".[dev]"
	touch $@ $(VENV)/.product

.PHONY: chromium
chromium:
	@command -v chromium >/dev/null || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	    apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } || \
	  echo "chromium is not there and cannot be installed from here: the report's browser tests will skip"

clean:
	rm -rf $(VENV) build runs .pytest_cache .mypy_cache .ruff_cache
