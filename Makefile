# Two commands for people: `make demo` and `make test`. Both make their own virtual environment, .venv.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-slow check check-page docs clean

demo: .venv/demo.stamp
	$(BIN)/kinet-trt demo --out demo

# Work stealing keeps the tests of a module together, and with them the fixtures that they share.
test: .venv/dev.stamp check
	$(BIN)/python -m pytest -m "not slow" -n auto --dist worksteal

test-slow: .venv/dev.stamp
	$(BIN)/python -m pytest -m slow

# Types are checked on a plain install from outside the root: an editable one hides kinet_trt.export from mypy.
check: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python ci/types.py
	[ ! -d ci/page/node_modules ] || npm --prefix ci/page run --silent check

# eslint, prettier and tsc for the live page, from npm; once they are installed, `make check` runs them too.
check-page:
	npm ci --prefix ci/page
	npm --prefix ci/page run check

# The documentation, in site/.
docs: .venv/dev.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "kinet-trt needs Python 3.10 or newer")'
	$(PYTHON) -m venv .venv

.venv/demo.stamp: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) -e '.[demo]'
	touch $@

# torch first and alone: it is pinned, and what follows must not look for a newer one.
.venv/dev.stamp: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) torch==2.13.0
	$(PIP) -e '.[dev,train]'
	touch $@

clean:
	rm -rf .venv build demo *.egg-info
