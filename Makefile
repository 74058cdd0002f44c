# Everything is set up by `make demo` or `make test`; both may be repeated at no cost.
#   make demo                what opskit does, on sample files with throwaway keys (DEMO=PATH: on your files)
#   make test                the tests; ARGS="-k pack" narrows them, ARGS="-n 0" runs one at a time
#   make check               lint, types and test, as CI does
# A particular Python: make test PYTHON=python3.12 (after `make clean` where .venv exists already).

# The distribution's Python where it will do, else the one in PATH: an interpreter compiled at home (pyenv's, for one)
# lacks the profile-guided optimisation that distributions build with, and is a fifth slower at what opskit does.
FITS   := import ensurepip, sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for each in /usr/bin/python3 python3; do \
              $$each -c '$(FITS)' 2>/dev/null && echo $$each && exit; done; echo python3)
VENV   := .venv
BIN    := $(VENV)/bin
CODE   := opskit tests $(wildcard benchmarks)
export PYTHON
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test campaign lint types format check bench clean system-run system-test
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' Makefile

demo: system-run $(VENV)/installed
	@$(BIN)/opskit demo $(DEMO)

# How many at once: tests/conftest.py. Neighbours stay together, as they share what takes time to set up.
test: system-test $(VENV)/installed-dev
	@$(BIN)/python -m pytest -q -rs -n auto --dist worksteal $(ARGS)

# The long fault campaigns; the bounded ones are part of `make test`.
campaign: system-test $(VENV)/installed-dev
	@HYPOTHESIS_PROFILE=campaign $(BIN)/python -m pytest -q -m campaign --timeout=0 $(ARGS)

lint: $(VENV)/installed-dev
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/ruff format --check --quiet $(CODE) || { $(BIN)/ruff format --check $(CODE); echo "next: make format"; exit 1; }

types: $(VENV)/installed-dev
	@$(BIN)/mypy

format: $(VENV)/installed-dev
	@$(BIN)/ruff check --fix --quiet $(CODE) || true
	@$(BIN)/ruff format $(CODE)

check: lint types test

# Beside restic and borg; minutes of work on an otherwise idle machine.
bench: system-run $(VENV)/installed
	@$(BIN)/python -m benchmarks $(ARGS)

clean:
	@rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis

system-run system-test: system-%:
	@sh scripts/system-packages $*

# The stamps: .venv is brought up to date only when pyproject.toml changed. The package is installed editable, so the
# code in the folder is what runs. pip's output is shown only when pip fails. It compiles what it copies, but not what
# it links to: without byte code (PYTHONDONTWRITEBYTECODE, a folder of root's) every command would compile opskit anew.
define install
	@echo "installing $(2) into $(VENV)"
	@$(BIN)/python -m pip install --quiet --editable '$(1)' >$(VENV)/install.log 2>&1 || { cat $(VENV)/install.log; exit 1; }
	@$(BIN)/python -m compileall -q opskit
	@touch $@
endef

$(VENV)/installed: pyproject.toml $(BIN)/python
	$(call install,.,opskit)

$(VENV)/installed-dev: pyproject.toml $(BIN)/python
	$(call install,.[test$(comma)lint],opskit and what its tests need)
	@touch $(VENV)/installed

comma := ,

# Debian's python3 comes without venv; the script brings it. Order-only: asking again is not a reason to build again.
$(BIN)/python: | system-run
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "opskit needs Python 3.11 or newer, got $$($(PYTHON) --version 2>&1)."; \
		echo "  Install one, for instance python3.12 with python3.12-venv, and say: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV)
