# One rule makes .venv; every target depends on it.
PYTHON ?= python3
BIN := .venv/bin
JOBS ?= 2

.PHONY: quickstart test test-slow lint format bench docs clean

.venv/.done: setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[dev]'
	touch $@

quickstart: .venv/.done
	$(BIN)/specialize quickstart

test: .venv/.done
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not slow and not gpu"

test-slow: .venv/.done
	$(BIN)/python -m pytest -m "slow and not gpu"

lint: .venv/.done
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pre-commit run --all-files

format: .venv/.done
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

bench: .venv/.done
	$(BIN)/specialize bench all

# The documentation site, in site/; a warning, a dead link or a dead name is an error.
docs: .venv/.done
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

clean:
	rm -rf .venv build dist site *.egg-info
