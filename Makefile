# `make demo` and `make test` set up all that they need; `make` lists the rest.

SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
# Where the logs of the tests go, and further arguments of pytest and the demo.
LOGS ?= work_dirs/tests
ARGS ?=
# Tests side by side, a core each: two threads that share a core with anything
# else wait for each other, up to thirty times as long.
PYTEST = OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest tests -q \
	-n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

export PYTHON VENV
RUN := $(VENV)/bin/python
SOURCES := cyborgs_plugin configs docs tools tests setup.py
# Whatever there is of the texts.
TEXTS := $(wildcard *.md .ci Makefile)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast test-openmmlab test-interop gpu-check lint docs dist clean distclean

help:  ## list the targets
	@echo 'Usage: make TARGET'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | \
		expand -t 18
	@echo 'Variables: PYTHON=python3.11 VENV=.venv ARGS="of pytest or the demo"'
	@echo '           OPS=1 gives test-openmmlab the compiled ops, and mmdet'

setup:  ## make or complete the environment in .venv
	@bash tools/setup_env.sh

demo: setup  ## the whole method, small: pretrain, fine-tune, evaluate, picture
	@$(RUN) tools/demo.py $(ARGS)

# All of the tests, the quick ones first. Both parts run even if one fails.
test: setup  ## run all tests: the fast ones, then the slow ones
	@mkdir -p $(LOGS); status=0; SECONDS=0; \
	for part in fast slow; do \
		[ $$part = fast ] && marked='not slow' || marked=slow; \
		echo "== $$part tests (pytest -m '$$marked')"; \
		$(PYTEST) -m "$$marked" --durations=5 $(ARGS) 2>&1 | \
			tee $(LOGS)/$$part.log; \
		[ $${PIPESTATUS[0]} -eq 0 ] || status=1; \
	done; \
	echo; echo "Tests done in $$((SECONDS / 60)) min $$((SECONDS % 60)) s."; \
	for part in fast slow; do \
		echo "  $$part      $$(grep -aE '^[0-9].* in [0-9.]+s' \
			$(LOGS)/$$part.log | tail -n 1)"; \
	done; \
	echo "  logs      $(LOGS)/fast.log, $(LOGS)/slow.log"; \
	if [ $$status -eq 0 ]; then \
		echo '  next      make demo, or tools/train.py on your own images'; \
	else \
		echo '  next      SOME FAILED: look for FAILED in the logs, then run'; \
		echo '            one alone: $(RUN) -m pytest tests/PATH::NAME'; \
	fi; exit $$status

test-fast: setup  ## run the fast tests only
	@$(PYTEST) -m 'not slow' $(ARGS)

test-openmmlab: VENV = .venv-openmmlab
test-openmmlab:  ## run what applies beside the original OpenMMLab packages
	@FAMILY=openmmlab bash tools/setup_env.sh
	@$(PYTEST) -rsfE $(ARGS)

# Their licence (AGPL) keeps them out of what this package needs. The rest is
# found in the environment of `make setup`.
PURELIB := -c "import sysconfig; print(sysconfig.get_path('purelib'))"
test-interop: setup  ## fine-tune by Ultralytics from a published file
	@$(RUN) -m venv .venv-interop
	@$(RUN) $(PURELIB) > "$$(.venv-interop/bin/python $(PURELIB))/setup.pth"
	@.venv-interop/bin/python -m pip install --quiet \
		-r requirements/interop.txt
	@OMP_NUM_THREADS=1 .venv-interop/bin/python -m pytest -q -s \
		tests/test_interop.py $(ARGS)

gpu-check: setup  ## check a machine with a GPU: right, how fast, fed by what
	@$(RUN) tools/benchmarks/gpu_check.py $(ARGS)

lint: setup  ## check style (ruff), types (mypy) and spelling (codespell)
	$(RUN) -m ruff check $(SOURCES)
	$(RUN) -m mypy
	$(RUN) -m codespell_lib $(SOURCES) $(TEXTS)

docs: setup  ## build the pages of docs/ into work_dirs/docs
	@$(RUN) -m sphinx --fail-on-warning --keep-going --quiet docs work_dirs/docs
	@echo 'Wrote work_dirs/docs/index.html'

dist: setup  ## build a source package and, from it, a wheel into dist/
	@rm -rf build dist
	@$(RUN) setup.py --quiet sdist
	@$(RUN) -m pip wheel --quiet --use-pep517 --no-deps -w dist dist/*.tar.gz
	@ls -l dist

clean:  ## remove what builds, tests and tools leave behind
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache \
		.hypothesis $(LOGS)
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## clean, and remove the environment (work_dirs/ stays)
	rm -rf $(VENV) .venv-openmmlab .venv-interop cyborgs_plugin/.mim
