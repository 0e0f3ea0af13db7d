# Everything that people and CI run. `make help` lists it.
.DEFAULT_GOAL := help
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# More than two cores: some tests wait for processes.
JOBS ?= 3
ARGS ?=
OUTPUTS ?= outputs

.PHONY: help setup check format test test-slow test-browser test-slurm test-ray docs demo train table wandb-sync bench profile bench-sweep bench-scaling bench-overhead clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

setup: .venv/ready ## install everything into .venv (once; repairs an interrupted set-up)

# The stamp is written last, so that an interrupted set-up is repeated.
.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "kdbench needs Python 3.11 or newer, found " + sys.version)'
	@echo "setting up .venv: several GB for torch, some minutes, once"
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

check: setup ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup ## format, and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: setup ## the quick tests: offline, about ten minutes on two cores
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) -m 'not slow and not browser and not slurm and not ray'

test-slow: setup ## the long tests: a kill at every point, longer runs
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) -m slow

test-browser: setup ## the report in a real browser (needs chromium)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m browser tests/contracts

test-slurm: setup ## sweeps on a local Slurm with two fake GPUs (root on Debian; installs Slurm)
	@folder=$$(mktemp -d /tmp/kdbench-slurm.XXXXXX); \
	trap "scripts/stop_slurm.sh $$folder" EXIT; trap 'exit 130' INT TERM; \
	scripts/start_slurm.sh $$folder && \
	SLURM_CONF=$$folder/slurm.conf OMP_NUM_THREADS=1 $(BIN)/pytest -m slurm tests/contracts

test-ray: setup ## sweeps on a local Ray with two fake GPUs (installs Ray)
	@$(BIN)/python -c 'import ray' 2>/dev/null || $(BIN)/python -m pip install --quiet --editable '.[ray]'
	OMP_NUM_THREADS=1 $(BIN)/pytest -m ray tests/contracts

docs: setup ## build the documentation into site/: offline, all links checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

demo: setup ## train and compare 24 students on real digits: under 5 minutes on two cores
	$(BIN)/kdbench-train -m table=demo paths.outputs=$(OUTPUTS)
	@$(BIN)/kdbench-report $(OUTPUTS)/runs --table demo --out $(OUTPUTS)/tables/demo --figures $(OUTPUTS)/tables/demo/figures
	@echo 'look at $(OUTPUTS)/tables/demo/report.html and $(OUTPUTS)/tables/demo/figures/learning.png'

train: setup ## one run: make train ARGS="temperature=cosine seed=1"
	$(BIN)/kdbench-train $(ARGS)

table: setup ## a paper's table: make table TABLE=ttm_cifar100; DRY=1: only its cost; without TABLE: list them
	@$(BIN)/kdbench-table $(TABLE) $(if $(DRY),--dry) $(if $(TABLE),paths.outputs=$(OUTPUTS)) $(ARGS)

wandb-sync: setup ## upload runs that W&B has not seen (below OUTPUTS); safe to repeat
	@$(BIN)/kdbench-dashboard --sync $(OUTPUTS)

bench: setup ## speed against the field's usual training loop (a quarter of an hour)
	$(BIN)/python scripts/bench/training.py $(ARGS)

profile: setup ## where the time of a step goes; of a cohort: make profile ARGS="--cohort 8"
	$(BIN)/python scripts/bench/profile_step.py $(ARGS)

bench-sweep: setup ## speed of one cohort of N runs against N single runs, on CIFAR-100
	$(BIN)/python scripts/bench/sweep.py $(ARGS)

bench-scaling: setup ## cost by learners, classes, image size, samples; decoding photographs
	$(BIN)/python scripts/bench/scaling.py $(ARGS)

bench-overhead: setup ## cost of logs, checks and checkpoints, on CIFAR-100
	$(BIN)/python scripts/bench/overhead.py $(ARGS)

clean: ## delete caches and build products; outputs/ and .venv/ stay
	rm -rf build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
