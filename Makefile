# `make train` and `make test` need Python 3.11 to 3.13 with venv, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CHECK_PYTHON = $(PYTHON) -c 'import sys; (3, 11) <= sys.version_info < (3, 14) or sys.exit("alexnet_jax needs Python 3.11, 3.12 or 3.13 (TensorFlow has no wheel for later ones), this is " + sys.version.split()[0] + ": make PYTHON=python3.11 ...")'
# Extras of setup.cfg: make venv EXTRAS=bench,beam,tpu
EXTRAS ?=
comma := ,

# The environment is updated when one of these files changes.
PINS := setup.cfg requirements.txt requirements-pinned.txt

.PHONY: train test test-long report chaos chaos-gcs chaos-long fuzz parity test-latest test-tpu test-gpu-compile test-browser test-tour docs lint format bench venv clean

train: $(VENV)/.base
	$(BIN)/python -m alexnet_jax.main --config=configs/digits.py
	@# The last step: choosing the best by its test error would flatter it.
	$(BIN)/python -m alexnet_jax.main --mode=eval --workdir=runs/digits \
	  --config.eval.step=latest

test: $(VENV)/.test
	@# Files in the order of their names: by default short ones come last, and of
	@# those some take longest.
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder \
	  -m 'not long' --durations=10

# The tests that take longest: about twelve minutes on two cores.
test-long: $(VENV)/.test
	$(BIN)/python -m pytest -q -n 2 -m long

# The same tests as `make test` on Python 3.13 with the newest versions of
# everything, in a separate environment. Those that need PyTorch or Beam skip.
test-latest:
	tests/latest.sh $(PYTHON_LATEST)

# Writes report/index.html, docs/results.md and README.md's summary from results/.
report: $(VENV)/.base
	$(BIN)/python -m alexnet_jax.report results --out=report \
	  --readme=README.md --results=docs/results.md

# Fault injection: about 26 minutes on two cores. Stops at the first fault that a
# run does not survive. Prints the table of docs/survival.md.
chaos: $(VENV)/.test
	$(BIN)/python tests/chaos.py

# The same on a Cloud Storage server of its own, whose faults are injected too:
# about 40 minutes on two cores. Prints the table of docs/survival.md for gs://.
chaos-gcs: $(VENV)/.test
	$(BIN)/python tests/chaos_gcs.py

# A thousand kills, 700 calls of the system that fail, power cuts, and what may
# befall one of two processes: about two hours on two cores. Prints tables of
# docs/survival.md, and writes logs to build/chaos-long.
chaos-long: $(VENV)/.test
	$(BIN)/python tests/chaos_long.py
	$(BIN)/python tests/chaos_calls.py
	$(BIN)/python tests/chaos_processes.py

# Damaged files for every reader, ten minutes each: two and a half hours. It takes
# one core; what breaks a reader is kept in build/fuzz.
fuzz: $(VENV)/.test $(VENV)/.fuzz
	$(BIN)/python tests/fuzz.py

$(VENV)/.fuzz: $(VENV)/.base
	$(BIN)/pip install -q -c requirements-pinned.txt -e '.[fuzz]'
	touch $@

# Compares each network with PyTorch: about two minutes on two cores. Prints the
# table of docs/networks.md.
parity: $(VENV)/.test
	$(BIN)/python tests/parity.py

# Compiles for TPU slices without a TPU: installs libtpu and takes about twelve
# minutes on two cores. Prints two rows of docs/preflight.md's table.
test-tpu: $(VENV)/.test $(VENV)/.tpu
	$(BIN)/python -m pytest -q -s -m 'not long' tests/tpu_compile.py

$(VENV)/.tpu: $(VENV)/.base
	$(BIN)/pip install -q -c requirements-pinned.txt -e '.[tpu]'
	touch $@

# The same for GPUs, in a separate environment: its packages are 5 GB.
test-gpu-compile: .venv-gpu
	.venv-gpu/bin/python -m pytest -q -s --noconftest tests/gpu_compile.py

.venv-gpu: $(PINS)
	@test -x $@/bin/python || $(CHECK_PYTHON)
	test -x $@/bin/python || $(PYTHON) -m venv $@
	$@/bin/pip install -q -c requirements-pinned.txt -e '.[cuda]' pytest
	touch $@

# Opens the report in Chromium (Debian: apt-get install chromium).
test-browser: $(VENV)/.test $(VENV)/.browser
	$(BIN)/python -m pytest -q -s tests/browser.py

$(VENV)/.browser: $(VENV)/.base
	$(BIN)/pip install -q -c requirements-pinned.txt -e '.[browser]'
	touch $@

# Builds the site in build/site, and fails at a broken link, a reference to nothing,
# or a public name without a docstring. Takes ten seconds.
docs: $(VENV)/.test $(VENV)/.docs
	$(BIN)/ruff check -q --select D100,D101,D102,D103,D104 alexnet_jax
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo 'open build/site/index.html'

# Executes examples/paper_tour.ipynb: about three minutes on two cores.
test-tour: $(VENV)/.test $(VENV)/.docs
	$(BIN)/python -m pytest -q --noconftest tests/tour.py

$(VENV)/.docs: $(VENV)/.base
	$(BIN)/pip install -q -c requirements-pinned.txt -e '.[docs]'
	touch $@

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# About 25 minutes on two idle cores; writes docs/benchmarks.md. To include the
# input pipeline, give ImageNet's files: make bench DATA_DIR=DIR
bench: $(VENV)/.bench
	$(BIN)/python benchmarks/run_all.py $(if $(DATA_DIR),--data_dir=$(DATA_DIR))

$(VENV)/.bench: $(VENV)/.base
	$(BIN)/pip install -q -c requirements-pinned.txt -e '.[bench,tpu]'
	touch $@

venv: $(VENV)/.base
	$(if $(EXTRAS),$(BIN)/pip install -q -c requirements-pinned.txt -e '.[$(EXTRAS)]')

$(VENV)/.base: $(PINS)
	@test -x $(BIN)/python || $(CHECK_PYTHON)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c requirements-pinned.txt -e .
	touch $@

$(VENV)/.test: $(VENV)/.base
	$(BIN)/pip install -q -c requirements-pinned.txt -e '.[test]'
	touch $@

clean:
	rm -rf $(VENV) .venv-latest .venv-gpu build *.egg-info .pytest_cache .mypy_cache .ruff_cache
