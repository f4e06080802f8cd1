# make demo: from a fresh clone to two answered questions.  make test: everything that must hold.
# The only network that either needs is the Python package registry.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := .demo
# What `make test` installs besides the program; .ci/run adds engines that are at hand.
EXTRAS ?= all,dev

# What the demo asks: the answers stand in examples/archive.
ASK_EN := How much water fits into the tank of the test bench?
ASK_RU := Какой тираж у наклейки?

.PHONY: demo test format clean

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "quietmind needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[llamacpp]'
	@touch $@

$(VENV)/.test: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[$(EXTRAS)]'
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo
	@mkdir -p $(DEMO)
	@$(call say,pull tiny)
	@$(call say,plan tiny --context 4096)
	@$(call say,index examples/archive)
	@$(call say,ask "$(ASK_EN)" --save $(DEMO)/answer.en.json)
	@$(call say,ask "$(ASK_RU)" --save $(DEMO)/answer.ru.json)

# Print the command as a person would type it, then run it in the demo's own workspace, without the person's settings.
define say
printf '\n$$ quietmind %s\n' '$(1)' && QUIETMIND_WORKSPACE=$(DEMO) QUIETMIND_SETTINGS=$(DEMO)/none.toml $(BIN)/quietmind $(1)
endef

test: $(VENV)/.test
	$(BIN)/quietmind pull tiny
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/pytest --numprocesses 2 --dist loadfile

format: $(VENV)/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(DEMO) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
