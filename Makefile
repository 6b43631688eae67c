# `make demo`, `make test` and `make check` each create .venv and install what they need; a second call reuses it.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
EVERYTHING := .venv/.everything

# The checkout stands on the path itself, or a folder that is called dsenv would hide it from scripts beside it.
EDITABLE := --config-settings editable_mode=compat
OFFLINE := $(CURDIR)/.venv-offline/bin/python

.PHONY: demo test check lint types wheel release docs offline

demo: $(INSTALLED)
	$(BIN)/python -m benchmarks.demo

test: $(INSTALLED)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

check: lint types wheel docs .venv-offline/.installed
	DSENV_D3RLPY_PYTHON=$(OFFLINE) $(BIN)/python -m pytest -q -m "slow or ray or browser or libraries"

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

wheel: $(INSTALLED)
	rm -rf build dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m benchmarks.wheel dist

# The wheel in empty environments: half an hour or more. What is passed already, with this wheel, is not tried again.
release: $(INSTALLED)
	$(BIN)/python -m benchmarks.release

# d3rlpy brings the old gym and pins an old Gymnasium: it learns in an environment of its own.
offline: $(EVERYTHING) .venv-offline/.installed
	DSENV_D3RLPY_PYTHON=$(OFFLINE) $(BIN)/python -m pytest -q -m libraries tests/test_examples.py -k d3rlpy

.venv-offline/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-offline
	.venv-offline/bin/python -m pip install -c constraints.txt torch==2.13.0 d3rlpy==2.8.0 'minari[hdf5]' pillow $(EDITABLE) -e .
	touch .venv-offline/.installed

docs: $(EVERYTHING)
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

$(EVERYTHING): $(INSTALLED)
	$(BIN)/python -m pip install -c constraints.txt $(EDITABLE) -e '.[all,dev,libraries,docs,browser,tracking]'
	touch $(EVERYTHING)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("dsenv needs Python >= 3.11, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install -c constraints.txt $(EDITABLE) -e '.[all,dev]'
	touch $(INSTALLED)
