# askline: `make run` runs the whole pipeline on embedded defaults, `make test` passes the tests.
# Each sets up what it needs in .venv with plain pip, or with uv where that is installed.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
DEV    := $(VENV)/.ready-dev
UV     := $(shell command -v uv)
INSTALL := $(if $(UV),$(UV) pip install --python $(BIN)/python,$(BIN)/python -m pip install --disable-pip-version-check) --quiet
# The locks hold the whole list, so nothing is resolved. torch stays outside them: the same version comes as a CPU build
# or as a CUDA build, by index and machine, and each has hashes and libraries of its own.
LOCKED  := $(INSTALL) --no-deps --require-hashes --requirement
OF_TORCH := torch triton cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti nvidia-cuda-nvrtc \
  nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver nvidia-cusparse \
  nvidia-cusparselt-cu13 nvidia-cuda-cccl nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx
LOCK    := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
  --custom-compile-command "make lock" $(addprefix --no-emit-package ,$(OF_TORCH)) requirements/build.in pyproject.toml
STATE  ?= .askline
# Many tests wait for servers: three at a time use two cores well.
WORKERS ?= 3

.PHONY: run look test quick check audit format lock stop clean help

run: $(READY)  ## run the whole pipeline, then leave the API up to be tried; ARGS="--option value" for options
	@$(BIN)/python -m flows.full_pipeline --state-dir $(STATE) $(ARGS)

look: $(READY)  ## say what is understood of FILE=questions.csv, before anything is trained
	@$(BIN)/python -m flows.look $(FILE) $(ARGS)

test: $(DEV)  ## run all tests; ARGS="-k name" for some
	@$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

quick: $(DEV)  ## run the tests that start no server and train no network
	@$(BIN)/python -m pytest --quick --numprocesses 2 --dist loadfile --durations=0 --durations-min=3 $(ARGS)

check: $(DEV)  ## lint, format, types, import rules, CloudFormation
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/cfn-lint deployments/api.yaml

audit:  ## check the CloudFormation template with checkov, in an environment of its own
	@test -x .audit/bin/checkov || { $(PYTHON) -m venv .audit && .audit/bin/python -m pip install --quiet --disable-pip-version-check 'checkov==3.3.*'; }
	@.audit/bin/checkov --file deployments/api.yaml --framework cloudformation --compact --quiet --skip-download

format: $(DEV)  ## format the code and mend what ruff can mend
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lock:  ## write requirements/*.lock anew from pyproject.toml and constraints.txt; needs uv
	@$(LOCK) --constraint constraints.txt --extra dev --extra cloud-scale --output-file requirements/dev.lock
	@$(LOCK) --constraint requirements/dev.lock --output-file requirements/run.lock

stop:  ## stop the embedded cloud
	@test ! -x $(BIN)/python || $(BIN)/python -m local_cloud down --state-dir $(STATE)

clean: stop  ## stop the embedded cloud and delete its state, the artifacts and the virtual environment
	rm -rf $(STATE) $(VENV) .audit .pytest_cache .mypy_cache .ruff_cache .hypothesis

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 10

# Marked ready only when the whole install has gone through, so that an interrupted one is done again.
$(READY): pyproject.toml constraints.txt requirements/run.lock
	@echo "setting up $(VENV) (a few minutes, about 2.4 GB, once)"
	@$(PYTHON) -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info[:2] < (3, 13)) and "askline needs Python 3.11 or 3.12; choose one with: make PYTHON=python3.11 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(LOCKED) requirements/run.lock
	@$(INSTALL) --constraint constraints.txt torch
	@$(INSTALL) --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m tasks.second_opinion.encoder
	@touch $@

$(DEV): $(READY) requirements/dev.lock
	@echo "adding what tests and checks need to $(VENV) (about 0.6 GB, once)"
	@$(LOCKED) requirements/dev.lock
	@touch $@
