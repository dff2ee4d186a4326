# One rule makes every environment; every target depends on the one it runs in.
PYTHON ?= python3
BIN := .venv/bin
# Workers of the tests; some tests wait for other processes, so more than two cores'.
JOBS ?= 3
# By pip, which takes a CPU build where PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL names one.
# On Linux the package index itself has the CUDA build only, several GB that also work.
TORCH := torch==2.13.0
PEFT := 'peft>=0.18,<1'

.PHONY: quickstart test test-slow test-beam test-torch test-wheel lint format bench docs \
	clean

.venv/.done: EXTRAS = dev
.venv-beam/.done: EXTRAS = test,beam
.venv-torch/.done: EXTRAS = test
.venv-torch/.done: LAST = $(@D)/bin/python -m pip install --quiet $(TORCH) $(PEFT)

.venv/.done .venv-beam/.done .venv-torch/.done: setup.py
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --upgrade uv
	$(@D)/bin/uv pip install --quiet --compile-bytecode --python $(@D)/bin/python \
		-e '.[$(EXTRAS)]'
	$(LAST)
	touch $@

quickstart: .venv/.done
	$(BIN)/specialize quickstart

test: .venv/.done
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not slow and not gpu"

test-slow: .venv/.done
	$(BIN)/python -m pytest -m "slow and not gpu"

# What the ordinary environment cannot hold beside the rest. Without the library that a
# target is about, pytest collects nothing and fails.
test-beam: .venv-beam/.done
	.venv-beam/bin/python -m pytest tests/corpus/test_beam.py

test-torch: .venv-torch/.done
	.venv-torch/bin/python -m pytest -n $(JOBS) --dist worksteal -m "torch and not slow"

test-wheel: .venv/.done
	$(BIN)/python -m pytest -m slow tests/test_wheel.py

lint: .venv/.done
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pre-commit run --all-files

format: .venv/.done
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

bench: .venv/.done
	$(BIN)/specialize bench all

# The documentation site, in site/; a warning, a dead link or a dead name is an error.
docs: .venv/.done
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build
	$(BIN)/python -m pytest -q tests/test_documented_names.py

clean:
	rm -rf .venv .venv-beam .venv-torch build dist site *.egg-info
