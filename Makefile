# `make demo` shows the library at work, `make test` tests it. Both do all of their set-up in .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

SOURCES := $(shell find csrc vdm vdm_kernels -type f -not -name '*.pyc' -not -name '*.so' -not -name '_build_info.json')
INSTALLED := $(VENV)/.installed

.PHONY: demo test bench lint clean

demo: $(INSTALLED)
	$(BIN)/python examples/demo.py demo

test: $(INSTALLED)
	$(BIN)/pytest

bench: $(INSTALLED)
	$(BIN)/pytest benchmarks/ --benchmark-only --quick

lint: $(INSTALLED)
	$(PIP) ruff mypy clang-format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'csrc/*.h' 'csrc/*.cuh' 'csrc/*.cpp' 'csrc/*.cu')

# A plain install, as a user's: the tests then see the package that pip builds, not the checkout.
$(INSTALLED): pyproject.toml setup.py CMakeLists.txt constraints.txt $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) ".[test]"
	touch $@

clean:
	rm -rf $(VENV) build dist demo *.egg-info
