# Python 3.11 or later with venv is all that `make train` and `make test` need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# More of setup.cfg's extras: make venv EXTRAS=bench,beam,tpu
EXTRAS ?=
comma := ,

# Installed again when what is to be installed has changed.
PINS := setup.cfg requirements.txt requirements-pinned.txt

.PHONY: train test report chaos parity test-tpu test-gpu-compile test-onnx test-browser lint format bench venv clean

train: $(VENV)/.base
	$(BIN)/python -m alexnet_jax.main --config=configs/digits.py
	@# The last step, not the best: choosing by the test error would flatter.
	$(BIN)/python -m alexnet_jax.main --config=configs/digits.py --mode=eval \
	  --config.eval.step=latest

test: $(VENV)/.test
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --durations=10

# The paper on one page, report/index.html, from the committed runs; README.md's
# tables of them too.
report: $(VENV)/.base
	$(BIN)/python -m alexnet_jax.report results --out=report --readme=README.md

# What a run survives, in full: about 26 minutes on two cores. It ends at the
# first fault that is not survived; the table is for README.md.
chaos: $(VENV)/.test
	$(BIN)/python tests/chaos.py

# Each network against PyTorch's arithmetic, as docs/networks.md has it.
parity: $(VENV)/.test
	$(BIN)/python tests/parity.py

# Preflight for slices of TPUs that are not here: installs libtpu, takes some ten
# minutes on two cores. The table is for README.md.
test-tpu: $(VENV)/.test $(VENV)/.tpu
	$(BIN)/python -m pytest -q -s tests/tpu_compile.py

$(VENV)/.tpu: $(VENV)/.base
	$(BIN)/pip install -q -c requirements-pinned.txt -e '.[tpu]'
	touch $@

# The same for GPUs, in an environment of its own: its packages are 5 GB.
test-gpu-compile: .venv-gpu
	.venv-gpu/bin/python -m pytest -q -s --noconftest tests/gpu_compile.py

.venv-gpu: $(PINS)
	test -x $@/bin/python || $(PYTHON) -m venv $@
	$@/bin/pip install -q -c requirements-pinned.txt -e '.[cuda]' pytest
	touch $@

# ONNX, in an environment of its own: its packages clash with ours.
test-onnx: .venv-onnx $(VENV)/.base
	MAIN_PYTHON=$(BIN)/python .venv-onnx/bin/python -m pytest -q -s \
	  --noconftest -W default tests/onnx_export.py

.venv-onnx: requirements-onnx.txt
	test -x $@/bin/python || $(PYTHON) -m venv $@
	$@/bin/pip install -q -r requirements-onnx.txt
	$@/bin/pip install -q --no-deps -e .
	touch $@

# That page in a browser: needs Chromium (Debian: apt-get install chromium).
test-browser: $(VENV)/.test $(VENV)/.browser
	$(BIN)/python -m pytest -q -s tests/browser.py

$(VENV)/.browser: $(VENV)/.base
	$(BIN)/pip install -q -c requirements-pinned.txt -e '.[browser]'
	touch $@

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Some 25 minutes on two cores that do nothing else; writes docs/benchmarks.md.
# With ImageNet's files the input too: make bench DATA_DIR=DIR
bench: $(VENV)/.bench
	$(BIN)/python benchmarks/run_all.py $(if $(DATA_DIR),--data_dir=$(DATA_DIR))

$(VENV)/.bench: $(VENV)/.base
	$(BIN)/pip install -q -c requirements-pinned.txt -e '.[bench,tpu]'
	touch $@

venv: $(VENV)/.base
	$(if $(EXTRAS),$(BIN)/pip install -q -c requirements-pinned.txt -e '.[$(EXTRAS)]')

$(VENV)/.base: $(PINS)
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or later is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c requirements-pinned.txt -e .
	touch $@

$(VENV)/.test: $(VENV)/.base
	$(BIN)/pip install -q -c requirements-pinned.txt -e '.[test]'
	touch $@

clean:
	rm -rf $(VENV) .venv-onnx .venv-gpu build *.egg-info .pytest_cache .mypy_cache .ruff_cache
