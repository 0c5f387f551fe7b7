# The two commands of the README: `make run` and `make test`.
# PYTHON=python3.12 chooses the Python; HYBRID_TORCH=cpu|cuda|none the build of torch (see hybrid_tui/bootstrap.py).

PYTHON ?= python3
VENV ?= .venv

.PHONY: run test

run: $(VENV)/.ready-run
	@if [ -t 0 ] && [ -t 1 ]; then exec $(VENV)/bin/hybrid-tui --workspace assets/example; \
	else exec $(VENV)/bin/hybrid-tui --workspace assets/example --run demo; fi

test: $(VENV)/.ready-test
	$(VENV)/bin/python -m pytest -n 2

$(VENV)/.ready-run: pyproject.toml hybrid_tui/bootstrap.py
	@$(PYTHON) -I hybrid_tui/bootstrap.py $(VENV) run

$(VENV)/.ready-test: pyproject.toml hybrid_tui/bootstrap.py
	@$(PYTHON) -I hybrid_tui/bootstrap.py $(VENV) test
