# The two commands of the README: `make run` and `make test`. `make test-live` works on a real Google account, and only
# when asked for: HYBRID_LIVE=1 make test-live ARGS="--workspace DIR --mb 2000" (docs/unverified.md).
# PYTHON=python3.12 chooses the Python; HYBRID_TORCH=cpu|cuda|none the build of torch (see hybrid_tui/bootstrap.py).

PYTHON ?= python3
VENV ?= .venv

.PHONY: run test test-live

run: $(VENV)/.ready-run
	@if [ -t 0 ] && [ -t 1 ]; then exec $(VENV)/bin/hybrid-tui --workspace assets/example; \
	else exec $(VENV)/bin/hybrid-tui --workspace assets/example --run demo; fi

test: $(VENV)/.ready-test
	$(VENV)/bin/python -m pytest -n 2

test-live: $(if $(filter 1,$(HYBRID_LIVE)),$(VENV)/.ready-test)
	@if [ "$(HYBRID_LIVE)" = 1 ]; then exec $(VENV)/bin/python -m tests.drive.live $(ARGS); \
	else echo 'It makes, fills and trashes a folder of a real account. To let it: HYBRID_LIVE=1 make test-live' >&2; exit 2; fi

$(VENV)/.ready-run: pyproject.toml hybrid_tui/bootstrap.py
	@$(PYTHON) -I hybrid_tui/bootstrap.py $(VENV) run

$(VENV)/.ready-test: pyproject.toml hybrid_tui/bootstrap.py
	@$(PYTHON) -I hybrid_tui/bootstrap.py $(VENV) test
