# Needs Python 3.10-3.12 (PYTHON=python3.11 make ...); everything else is installed into .venv from PyPI wheels.
PYTHON ?= python3
BIN = .venv/bin
INSTALLED = .venv/.installed
DEMO = --dataset synthetic --quick --epochs 4 --workers 2 --no-tensorboard

.PHONY: demo test bench lint install clean

install: $(INSTALLED)

$(INSTALLED): requirements.txt requirements-extra.txt requirements-test.txt
	$(PYTHON) -c "import sys; sys.exit(0 if (3, 10) <= sys.version_info < (3, 13) else 'Python 3.10-3.12 is needed, this is ' + sys.version.split()[0] + ': run make PYTHON=python3.11 ...')"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements.txt -r requirements-test.txt
	$(BIN)/python -m pip install --quiet --no-deps -r requirements-extra.txt
	touch $@

demo: $(INSTALLED)
	$(BIN)/python train_me_loso.py $(DEMO)
	$(BIN)/python train_me_loso_composite_3d.py $(DEMO)
	$(BIN)/python train_me_loso_casme_3d_dual.py $(DEMO)
	$(BIN)/python get_result_log.py

test: $(INSTALLED)
	$(BIN)/python -m pytest --cov --cov-report=term

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks

lint: $(INSTALLED)
	$(BIN)/ruff check .

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis .coverage*
