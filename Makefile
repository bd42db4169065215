# Two commands do everything: `make run` serves the demo model, `make test` runs all tests. Both install on first use.

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
ARGS ?=
SGLANG_VENV ?= $(VENV)-sglang
SGLANG_TESTS ?= tests/sglang_backend tests/e2e/test_mixed_pipelines.py
CLIENTS_VENV ?= $(VENV)-clients
CLIENTS_ARGS ?=

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BENCHMARKS := .benchmarks
ALONE = $(shell grep -rlE --include='test_*.py' '^@pytest\.mark\.alone' tests)

# Hundreds of processes of the tests would each compile the same sources.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run test test-clients test-page test-sglang check format bench bench-once install

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  PYTHON=python3.12      interpreter to make $(VENV) with (3.11 to 3.13)"
	@echo "  PIP_ARGS='...'         more arguments of pip install, such as another index for torch (README)"
	@echo "  ARGS='...'             more arguments of rt-launch (run) or pytest (test, bench)"

run: $(INSTALLED) ## serve the demo model and print its address
	@exec $(BIN)/rt-launch --model demo $(ARGS)

# Two at a time; then, one after the other, those that measure time, from the files that have some. Exit status 5: ARGS
# has selected none of them.
test: $(INSTALLED) ## run all tests
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m "not alone" $(ARGS) || test $$? -eq 5
	$(BIN)/python -m pytest -m alone -o testpaths='$(ALONE)' $(ARGS) || test $$? -eq 5

test-sglang: $(INSTALLED) ## run the tests that need SGLang, in an environment of its own (Linux; 1.6 GB)
	$(BIN)/python -m tests.sglang_backend.build_env $(SGLANG_VENV)
	HISTRIO_SGLANG_PYTHON=$(abspath $(SGLANG_VENV))/bin/python $(BIN)/python -m pytest $(SGLANG_TESTS) $(ARGS)

test-clients: $(INSTALLED) ## have the clients of other projects visit a server, from an environment of their own
	$(BIN)/python -m tests.clients.build_env $(CLIENTS_VENV) $(CLIENTS_ARGS)
	HISTRIO_CLIENTS=$(abspath $(CLIENTS_VENV)) $(BIN)/python -m pytest tests/clients $(ARGS)

test-page: $(INSTALLED) ## go through the page in a browser (Chromium, or the one that HISTRIO_BROWSER names)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[browser]' $(PIP_ARGS)
	$(BIN)/python -m pytest tests/page $(ARGS)

check: $(INSTALLED) ## lint, format, types, and whether all benchmarks can be collected
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy docs/*.py docs/examples/*.py
	$(BIN)/python -m pytest bench -o python_files='bench_*.py' --collect-only --quiet --quiet

format: $(INSTALLED) ## mend what lint and format can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED) ## measure, store the run, and compare with the last one as ratios
	$(BIN)/python -m pytest bench -o python_files='bench_*.py' --timeout 600 \
		--benchmark-storage=file://$(BENCHMARKS) --benchmark-autosave \
		$(if $(wildcard $(BENCHMARKS)/*/*.json),--benchmark-compare) \
		--benchmark-group-by=fullname --benchmark-sort=name --benchmark-columns=min,median,rounds $(ARGS)

bench-once: $(INSTALLED) ## run each benchmark once, with little to do: does it still work?
	$(BIN)/python -m pytest bench -o python_files='bench_*.py' --timeout 240 --benchmark-disable $(ARGS)

install: $(INSTALLED) ## install everything into the virtual environment

# The stamp is younger than all that says what to install: installing happens once, and again when one of them changes.
$(INSTALLED): requirements.txt constraints.txt pyproject.toml $(wildcard plugins/*/pyproject.toml plugins/*/native/*)
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 13) or sys.exit( \
		f"histrio needs Python 3.11 to 3.13, and $(PYTHON) is {v[0]}.{v[1]}: say make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r requirements.txt $(PIP_ARGS)
	@touch $@
