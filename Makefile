# make quickstart   set up, train and evaluate Cropr on handwritten digits
# make test         set up, run linters and tests
# make lint         linters alone
# make docs         the documentation as a site, in build/site
# make test-upstream  the same tests on OpenMMLab's own last releases
# Settings: PYTHON=/path/to/python VENV=DIR JOBS=2 (of the tests)
VENV ?= .venv
UPSTREAM_VENV ?= .venv-upstream
PYTHON ?=
JOBS ?= 2
BOOT := $(or $(PYTHON),python3)
PY := "$(VENV)/bin/python"
DATA := data/digits_scenes
NAME := cropr-r30_digits-eva_linear_1xb32-15e_digits-scenes-96x96
WORK := work_dirs/quickstart

.PHONY: env quickstart test env-upstream test-upstream check lint docs

env:
	@"$(BOOT)" tools/setup_env.py --venv "$(VENV)" --python "$(PYTHON)"

check: env
	@$(PY) tools/check_env.py

quickstart: env
	@$(PY) tools/dataset_converters/digits_scenes.py $(DATA)
	@$(PY) tools/train.py configs/cropr/$(NAME).py --work-dir $(WORK) \
	    --resume
	@$(PY) tools/test.py configs/cropr/$(NAME).py \
	    "$$(cat $(WORK)/last_checkpoint)" --work-dir $(WORK)
	@echo "What was pruned: $(WORK)/pruning_maps/*.png"

lint: env
	@$(PY) tools/lint.py

docs: env
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build

test: env lint
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --dist loadfile \
	    --no-loadscope-reorder

env-upstream:
	@"$(BOOT)" tools/setup_env.py --stack upstream --venv "$(UPSTREAM_VENV)" \
	    --python "$(PYTHON)"

test-upstream: env-upstream
	@OMP_NUM_THREADS=1 "$(UPSTREAM_VENV)/bin/python" -m pytest -n $(JOBS) \
	    --dist loadfile
