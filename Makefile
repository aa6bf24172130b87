.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-kill check format lint types contracts bench constraints clean

# An active virtual environment is used as it is; otherwise one is made in .venv.
VENV := $(or $(VIRTUAL_ENV),.venv)
PYTHON ?= python3
BIN := $(VENV)/bin
# A file at a time on each core; more threads than cores would wait for each other.
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile
INSTALL := $(BIN)/python -m pip install --constraint constraints.txt --editable

demo: $(VENV)/.plugformer ## install, and train the default experiment (handwritten digits, about a minute)
	$(BIN)/plugformer train experiment=digits

test: $(VENV)/.plugformer-dev ## install, and run the tests
	$(TESTS) -m "not slow"

test-all: $(VENV)/.plugformer-dev ## all tests, the slow ones too
	$(TESTS)

test-kill: $(VENV)/.plugformer-dev ## kill training at twenty random moments: does it go on bit for bit?
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_kill.py

check: format lint types contracts test ## everything that must hold before a commit

format: $(VENV)/.plugformer-dev ## is everything formatted? (`ruff format` does it)
	$(BIN)/ruff format --check .

lint: $(VENV)/.plugformer-dev ## ruff
	$(BIN)/ruff check .

types: $(VENV)/.plugformer-dev ## mypy
	$(BIN)/mypy

contracts: $(VENV)/.plugformer-dev ## which part may import which
	$(BIN)/lint-imports

bench: $(VENV)/.plugformer-dev ## the figures of docs/benchmarks.md; run nothing else meanwhile
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/training_loop.py
	$(BIN)/python benchmarks/language_models.py
	$(BIN)/python benchmarks/cross_entropy.py
	$(BIN)/python benchmarks/front_end.py
	$(BIN)/python benchmarks/audio_baselines.py
	$(BIN)/python benchmarks/text_baselines.py
	$(BIN)/python benchmarks/translation_baselines.py gettext 'packages=[django]' language=ko --seeds 10
	$(BIN)/python benchmarks/ngram.py python_docs
	$(BIN)/python benchmarks/ngram.py python_source
	$(INSTALL) '.[peers]'
	$(BIN)/python benchmarks/attention.py
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore benchmarks/generation.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/seq2seq_beam.py

constraints: $(VENV)/.plugformer-dev ## write the installed versions down as the tested ones
	$(BIN)/python -m pip freeze --exclude-editable | grep -v ' @ ' > constraints.txt

clean: ## remove what was built, not what was trained
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.plugformer: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) .
	@touch $@

$(VENV)/.plugformer-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) '.[dev]'
	@touch $@ $(VENV)/.plugformer
