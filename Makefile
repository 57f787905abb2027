# Every target makes what it needs: on a fresh machine `make demo` and `make test` are the only commands.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: test test-long demo bench bench-catalogue check clean

test: $(STAMP)
	$(BIN)/python -m pytest -n 2

test-long: $(STAMP)
	$(BIN)/python -m pytest -n 2 --long

demo: $(STAMP)
	$(BIN)/python -m examples.charlm.demo

bench: $(STAMP)
	$(BIN)/python -m benchmarks

# Goes on where it was interrupted; a row is measured again when its name is given to the second command.
bench-catalogue: $(STAMP)
	$(BIN)/python -m benchmarks.catalogue words
	$(BIN)/python -m benchmarks.catalogue times
	$(BIN)/python -m tests.catalogue.table

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv out

# The stamp is written last, so an interrupted install is begun again.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade --constraint constraints.txt pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
