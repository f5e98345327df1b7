# Wearsight: `make demo` shows the whole path, `make test` passes the tests. Each target makes what it needs.
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
  if $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; then echo $$p; break; fi; done)
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help demo test check integration chaos influxdb constraints wheel clean
.DEFAULT_GOAL := help

help: ## Say what there is to make
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(READY): constraints.txt pyproject.toml
	@if [ -z "$(PYTHON)" ]; then echo "Wearsight needs Python 3.11, 3.12 or 3.13 on PATH (make PYTHON=/path/to/python3)"; exit 1; fi
	@echo "setup: virtual environment in .venv with $(PYTHON), packages as pinned in constraints.txt (once, a few minutes)"
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r constraints.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(READY) ## Run the whole path on a simulated plant, under 5 minutes (KEEP=1 stays up with the inbox)
	@$(BIN)/python -m demo run $(if $(KEEP),--keep)

test: $(READY) ## Run the tests that need nothing but this machine
	@echo "test: everything but the tests that need real servers or hosts (make integration)"
	@$(BIN)/python -m pytest -m "not integration" -q -n 2

check: $(READY) ## Check style, types, playbooks and dashboards
	@scripts/check

integration: $(READY) ## Build or find InfluxDB, test hosts and a browser, then run the tests against them
	@scripts/integration-setup
	@echo "integration: tests against real InfluxDB, test hosts and browser"
	@$(BIN)/python -m pytest -m integration -q

chaos: $(READY) ## Break disks, processes, clocks and links, up to 10 minutes (CHAOS=nightly for longer, ONLY=act, SEED=n)
	@$(BIN)/python -m tests.chaos $(if $(CHAOS),--dose $(CHAOS)) $(foreach act,$(ONLY),--only $(act)) $(if $(SEED),--seed $(SEED) $(if $(ONLY),--series 1))

influxdb: ## Build the InfluxDB 2 server once into the user's cache (needs go, cargo, clang, pkg-config)
	@scripts/influxdb/build

constraints: $(READY) ## Pin the newest versions inside pyproject.toml's ranges, with hashes
	@scripts/pin-constraints

wheel: $(READY) ## Build the distribution into dist/
	@$(BIN)/python -m build --wheel --no-isolation --outdir dist

clean: ## Remove the virtual environment and what runs left behind
	rm -rf .venv dist build var .mypy_cache .ruff_cache .pytest_cache .hypothesis
