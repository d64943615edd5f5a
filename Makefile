# Production ML Labs. `make help` lists the targets; each does its own set-up.

SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= $(firstword $(foreach v,3.11 3.12 3.13,$(shell command -v python$(v) 2>/dev/null)) python3)
ACCEL ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
SCALE ?= standard
DEVICE ?= auto
ARGS ?=
TEST_PROCS ?= 2
# An index that has CPU builds of torch keeps about 3 GB of CUDA packages off a machine without GPU.
TORCH_INDEX ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(ACCEL)

LABS := 1 2 3 4 5 6
MODULE_1 := lab1_fsdp_advanced
MODULE_2 := lab2_vector_db
MODULE_3 := lab3_fairness
MODULE_4 := lab4_model_serving
MODULE_5 := lab5_distillation
MODULE_6 := lab6_online_eval
RUN_OPTIONS = --scale $(SCALE) --device $(DEVICE) $(ARGS)

.PHONY: help setup doctor capstone start-capstone check-capstone traps-capstone serve test test-fast test-gpu lint format bench bench-lab1 bench-lab2 bench-lab3 bench-lab4 bench-lab4-gpu bench-lab6 progress assess grade release verify docs clean \
	$(LABS:%=lab%) $(LABS:%=start%) $(LABS:%=check%) $(LABS:%=traps%)

help: ## Show this list
	@echo "make TARGET [SCALE=smoke|standard|full] [DEVICE=auto|cpu|cuda] [ARGS=\"--option value\"]"
	@echo
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16
	@printf '%s\n' 'lab1 ... lab6   Run a lab and write its report' \
		'start1 ...      Put the exercises of a lab into work/' \
		'check1 ...      Check your solutions of a lab' \
		'traps1 ...      Meet the silent failures of a lab'

setup: $(READY) ## Make .venv with the pinned packages (ACCEL=cpu|gpu overrides what is found)

$(READY): requirements/$(ACCEL).txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "error: $(PYTHON) is not Python 3.11 to 3.13; give one: make PYTHON=python3.12 ..." >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "error: $(PYTHON) cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 2; }
	@echo "setting up $(VENV) for $(ACCEL): a few minutes the first time"
	@# The CPU and the GPU builds own the same folders: one must go before the other comes.
	@if ls $(VENV)/.ready-* >/dev/null 2>&1 && ! test -e $@; then \
		$(BIN)/python -m pip uninstall --quiet --yes faiss-cpu faiss-gpu onnxruntime onnxruntime-gpu; fi
	@rm -f $(VENV)/.ready-*
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -r requirements/$(ACCEL).txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

doctor: $(READY) ## Say what this machine can show, and how to get what is missing
	@$(BIN)/python -m common.doctor

capstone: $(READY) ## Train, compress, serve, audit and experiment on the feed ranker
	@$(BIN)/python -m capstone $(RUN_OPTIONS)

serve: $(READY) ## Serve the champion of the capstone's registry at SCALE over HTTP until Ctrl-C
	@$(BIN)/python -m capstone.serve --scale $(SCALE) $(ARGS)

$(LABS:%=lab%): lab%: $(READY)
	@$(BIN)/python -m labs.$(MODULE_$*) $(RUN_OPTIONS)

$(LABS:%=traps%): traps%: $(READY)
	@$(BIN)/python -m labs.$(MODULE_$*).traps $(ARGS)

$(LABS:%=start%): start%: $(READY)
	@$(BIN)/course start lab$* $(ARGS)

$(LABS:%=check%): check%: $(READY)
	@$(BIN)/course check lab$* $(ARGS)

lab% start% check% traps%:
	@echo "error: $@: no such lab; there are $(LABS:%=lab%) (make help)" >&2; exit 2

start-capstone: $(READY) ## Put the capstone's exercises into work/
	@$(BIN)/course start capstone $(ARGS)

check-capstone: $(READY) ## Check your solutions of the capstone
	@$(BIN)/course check capstone $(ARGS)

traps-capstone: $(READY) ## Meet the silent failures of a feed-ranking system
	@$(BIN)/python -m capstone.traps $(ARGS)

progress: $(READY) ## Exercises passed, deliverables measured, what comes next: ARGS="--html FILE"
	@$(BIN)/course progress $(ARGS)

assess: $(READY) ## The final assessment: exercises, deliverables, questions
	@$(BIN)/course assess $(ARGS)

grade: $(READY) ## Grade a folder of submissions: ARGS="SUBMISSIONS --lab lab2 --out grades"
	@$(BIN)/course grade $(ARGS)

release: $(READY) ## Write the student repository: ARGS="--out DIR"
	@$(BIN)/course release $(ARGS)

verify: $(READY) ## For authors: every exercise, lesson, link and command, and the topic table
	@$(BIN)/course verify $(ARGS)

docs: $(READY) ## Build the site of lessons, API and capstone
	@$(BIN)/course docs $(ARGS)

test: $(READY) ## Everything: unit tests, smoke runs, exercises, the system end to end
	$(BIN)/python -m pytest -n $(TEST_PROCS) --dist loadscope $(ARGS)

test-fast: $(READY) ## The unit tests alone
	$(BIN)/python -m pytest -n $(TEST_PROCS) --dist loadscope -m "not slow" $(ARGS)

test-gpu: $(READY) ## The tests that need GPUs; fails where there is none
	LABS_REQUIRE_GPU=1 $(BIN)/python -m pytest -m "gpu or multigpu" $(ARGS)

lint: $(READY) ## Style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## Rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) ## Every lab and the capstone at standard scale, one after the other
	@for lab in $(foreach n,$(LABS),labs.$(MODULE_$(n))) capstone; do \
		$(BIN)/python -m $$lab --scale $(SCALE) --device $(DEVICE) || exit $$?; done

bench-lab1: $(READY) ## Lab 1: memory against throughput over strategies, precision, checkpointing
	@$(BIN)/python -m labs.lab1_fsdp_advanced.bench $(RUN_OPTIONS)

bench-lab2: $(READY) ## Lab 2: the collection against HNSW of faiss, hnswlib and usearch
	@# hnswlib has no wheel; without a C++ compiler the benchmark says so and goes on.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/bench.txt || true
	@$(BIN)/python -m labs.lab2_vector_db.bench $(RUN_OPTIONS)

bench-lab3: $(READY) ## Lab 3: intervals and nulls of an audit against fairlearn's bootstrap
	@$(BIN)/python -m labs.lab3_fairness.bench $(RUN_OPTIONS)

bench-lab4: $(READY) ## Lab 4: five model servers on one bundle and one load
	@$(BIN)/python -m labs.lab4_model_serving.bench $(RUN_OPTIONS)

bench-lab4-gpu: $(READY) ## Lab 4: the classifier on a GPU, straight and behind TorchServe
	@$(BIN)/python -m labs.lab4_model_serving.bench_gpu $(RUN_OPTIONS)

bench-lab6: $(READY) ## Lab 6: 10 million users analysed, against tea-tasting in pandas
	@$(BIN)/python -m labs.lab6_online_eval.bench $(RUN_OPTIONS)

clean: ## Remove runs and caches; keeps work/ and .venv
	rm -rf runs site .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
