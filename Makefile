# askline: `make run` runs the whole pipeline on embedded defaults, `make test` passes the tests.
# Both set up everything they need in .venv with plain pip.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
STATE  ?= .askline
# Many tests wait for servers: three at a time use two cores well.
WORKERS ?= 3

.PHONY: run look test check audit format stop clean help

run: $(READY)  ## run the whole pipeline, then leave the API up to be tried; ARGS="--option value" for options
	@$(BIN)/python -m flows.full_pipeline --state-dir $(STATE) $(ARGS)

look: $(READY)  ## say what is understood of FILE=questions.csv, before anything is trained
	@$(BIN)/python -m flows.look $(FILE) $(ARGS)

test: $(READY)  ## run all tests; ARGS="-k name" for some
	@$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(READY)  ## lint, format, types, import rules, CloudFormation
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/cfn-lint deployments/api.yaml

audit:  ## check the CloudFormation template with checkov, in an environment of its own
	@test -x .audit/bin/checkov || { $(PYTHON) -m venv .audit && .audit/bin/python -m pip install --quiet --disable-pip-version-check 'checkov==3.3.*'; }
	@.audit/bin/checkov --file deployments/api.yaml --framework cloudformation --compact --quiet --skip-download

format: $(READY)  ## format the code and mend what ruff can mend
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

stop:  ## stop the embedded cloud
	@test ! -x $(BIN)/python || $(BIN)/python -m local_cloud down --state-dir $(STATE)

clean: stop  ## stop the embedded cloud and delete its state, the artifacts and the virtual environment
	rm -rf $(STATE) $(VENV) .audit .pytest_cache .mypy_cache .ruff_cache .hypothesis

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 10

# Marked ready only when the whole install has gone through, so that an interrupted one is done again.
$(READY): pyproject.toml constraints.txt
	@echo "setting up $(VENV) (a few minutes, about 3 GB, once)"
	@$(PYTHON) -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info[:2] < (3, 13)) and "askline needs Python 3.11 or 3.12; choose one with: make PYTHON=python3.11 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,cloud-scale]'
	@touch $@
