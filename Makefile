# `make` lists the commands. Needed: python3 >= 3.11 with venv, make, and a package index for pip.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
READY  := $(VENV)/.ready
ARGS   ?=
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# One notebook or test a core, each on one thread: two threads do not halve its time.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help figures results sweep list report test check notebooks site bench train lab lock licences clean

help: ## list the commands
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /|/' | while IFS='|' read -r name text; do printf 'make %-10s %s\n' "$$name" "$$text"; done

figures: $(READY) ## run every notebook that changed and publish figures/ (ARGS=04 for one)
	@$(BIN)/python -m workflow figures $(ARGS)

results: $(READY) ## make the tables that notebooks read from data/results (ARGS=04 for one)
	@$(BIN)/python -m workflow results $(ARGS)

sweep: $(READY) ## run a notebook at other parameters (ARGS="03 sigma=0.5,1 lam=10,100", or a FILE.yml)
	@$(BIN)/python -m workflow sweep $(ARGS)

list: $(READY) ## list the parameters of the notebooks (ARGS=03 for one)
	@$(BIN)/python -m workflow list $(ARGS)

report: $(READY) ## one HTML page of finished runs, to read offline (ARGS=03, or the words of a sweep)
	@$(BIN)/python -m workflow report $(ARGS)

# The second line holds the shapes in lib's signatures against what its examples pass.
test: $(READY) ## the fast tests: mathematics, models, data, bad input, small notebooks
	@$(BIN)/python -m pytest $(if $(filter tests/%,$(ARGS)),,tests) --ignore=tests/checks -n 2 --dist loadscope --no-loadscope-reorder $(ARGS)
	@$(BIN)/python -m pytest --doctest-modules --jaxtyping-packages=lib,beartype.beartype lib tests/test_metrics.py

check: $(READY) ## after make figures: notebooks compared, site, browser, JupyterLab, a killed sweep
	@$(BIN)/python -m pytest notebooks tests/checks $(ARGS)

notebooks: $(READY) ## give the committed notebooks the outputs of their runs (ARGS=03 for one)
	@$(BIN)/python -m workflow refresh $(ARGS)

site: $(READY) ## build the read-along site; open build/site/index.html
	@$(BIN)/python -m sphinx -W --keep-going -q -d build/site-doctrees site build/site $(ARGS)

bench: $(READY) ## run the benchmark against peers
	@$(BIN)/python -m benchmarks.run $(ARGS)

train: $(READY) ## train a bundled model again, into build/models (ARGS="hands --device cuda")
	@$(BIN)/python -m experiments.training $(or $(ARGS),rotated-mnist)

# .jupyter: no news and no look for updates or extensions elsewhere. A person's own settings stay in force.
lab: $(READY) ## open JupyterLab in notebooks/ (ARGS="--no-browser --port 9999")
	@JUPYTER_CONFIG_PATH="$(CURDIR)/.jupyter$${JUPYTER_CONFIG_PATH:+:$$JUPYTER_CONFIG_PATH}" $(BIN)/python -m jupyterlab notebooks $(ARGS)

lock: ## remake requirements.txt, with hashes, from the pins in pyproject.toml
	@$(PYTHON) -m venv build/lock && build/lock/bin/python -m pip install -q uv
	@cp requirements.txt build/lock/locked.txt
	@build/lock/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--no-emit-index-url pyproject.toml --group repository -o build/lock/locked.txt
	@{ grep '^#' requirements.txt; grep -v '^#' build/lock/locked.txt; } > build/lock/new.txt
	@mv build/lock/new.txt requirements.txt && echo "requirements.txt: $$(grep -c '^[a-z].*==' requirements.txt) pins"

licences: $(READY) ## remake the table of packages in LICENCES.md from what is installed
	@sed -i.old '/^| *Name /,$$d' LICENCES.md && rm LICENCES.md.old
	@$(BIN)/pip-licenses --python $(BIN)/python --with-system --from=mixed --format=markdown --ignore-packages score-geodesics >> LICENCES.md
	@echo "LICENCES.md: $$(grep -c '^| ' LICENCES.md) rows"

clean: ## delete what was built: build/ and caches; figures/ and the environment stay
	@rm -rf build .pytest_cache .ruff_cache *.egg-info
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# The stamp is written last: an environment without it was cut short and is made anew.
$(READY): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or later is needed, and '$(PYTHON)' is none (make PYTHON=/path/to/python3.11)"; exit 1; }
	@test -e $(READY) || $(PYTHON) -m venv --clear $(VENV)
	@rm -f $(READY)
	@echo "installing the environment into $(VENV): about 6 GB, some five minutes, no further output if all is well"
	@$(BIN)/python -m pip install -q --progress-bar off -r requirements.txt
	@$(BIN)/python -c 'import pathlib, sysconfig; pathlib.Path(sysconfig.get_path("purelib"), "repository.pth").write_text("$(CURDIR)\n")'
	@touch $(READY)
