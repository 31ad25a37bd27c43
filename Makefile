# make demo runs the main job, make test the tests; all set up .venv first where it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint bench-training bench-inference reproduce-student clean

demo: $(INSTALLED)
	$(BIN)/medkd demo --out demo

test: $(INSTALLED)
	$(BIN)/pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/mypy medkd

# Half an hour on two cores; writes docs/results/training_*.json and docs/performance.md.
bench-training: $(INSTALLED)
	$(BIN)/python benchmarks/training.py steps
	$(BIN)/python benchmarks/training.py choices
	$(BIN)/python benchmarks/training.py growth
	$(BIN)/python benchmarks/training.py report

# A quarter of an hour on two cores; writes docs/results/inference_*.json and docs/inference_speed.md.
bench-inference: $(INSTALLED)
	$(BIN)/python benchmarks/inference.py backends
	$(BIN)/python benchmarks/inference.py growth
	$(BIN)/python benchmarks/inference.py report

# Two minutes; measures the weights that the bundles ship on the test volumes and compares with what is stored.
reproduce-student: $(INSTALLED)
	$(BIN)/python benchmarks/student.py reproduce --data $(MEDKD_DATA)/btcv_spleen

# torch comes first and pinned, so that no dependency chooses another build.
$(INSTALLED): setup.cfg constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "medkd needs Python 3.10 to 3.13; choose one with make PYTHON=python3.12 ..." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info demo
