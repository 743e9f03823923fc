# make run: find out what the digits federation is made of. make test, make lint: what continuous integration runs.
# Another interpreter: make run PYTHON=python3.12. Arguments for pytest: make test PYTEST="-k picture".

PYTHON ?= python3
PYTEST ?= -n 2 --dist loadfile --no-loadscope-reorder
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test lint clean deploy-demo
.DELETE_ON_ERROR:

run: $(VENV)/.installed-run
	$(BIN)/fedgmi run configs/digits.toml --resume --out runs/digits

# A SuperLink and three sites as processes, with TLS and keys; a minute or two, most of it Flower's start and waits.
deploy-demo: $(VENV)/.installed-flower
	$(BIN)/fedgmi deploy demo --out runs/deploy-demo-$$(date +%Y%m%d-%H%M%S)

test: $(VENV)/.installed-dev
	$(BIN)/pytest $(PYTEST)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Throws away the environment and caches; results in runs/ stay.
clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed-run: pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-flower: pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[flower]'
	@touch $@

# What the tests need includes what a run needs.
$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $(VENV)/.installed-run $@

$(BIN)/pip:
	@command -v $(PYTHON) >/dev/null || \
	  { echo "error: no $(PYTHON) found; install Python 3.11 or newer, or: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: fedgmi needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1);" \
	    "choose another with: make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "error: $(PYTHON) cannot make a virtual environment; its venv module is missing" \
	    "(Debian, Ubuntu: apt install python3-venv)" >&2; exit 2; }
