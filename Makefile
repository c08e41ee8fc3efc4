# Every target installs what it needs into .venv, from Python 3.11 alone; pip runs again when pyproject.toml changes.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check
# benchmarks/litert_js.py is a part of runtime_exactness.py.
BENCHMARKS ?= $(filter-out benchmarks/litert_js.py,$(wildcard benchmarks/[a-z]*.py))

.PHONY: demo test lint format slow fuzz kill lowest further beam golden notebooks docs benchmark web web-demo android wheel release clean

demo: .venv/installed
	$(BIN)/tfcomp demo --out demo

# In as many processes as there are processors; see tests/conftest.py for what runs together. MARKED="slow" takes others.
PARALLEL := -n logical --maxprocesses 8 --dist loadgroup
test: .venv/installed
	$(BIN)/python -m pytest $(if $(MARKED),-m "$(MARKED)") $(PARALLEL)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

slow: .venv/installed
	$(BIN)/python -m pytest -m slow

# 100,000 damaged and forged files, then kills of commands: see fuzz/. An hour on two cores; `make further` runs 2,000 cases.
CASES ?= 100000
MOMENTS ?= 200
fuzz: .venv/installed
	$(BIN)/python fuzz/fuzz.py --cases $(CASES)

kill: .venv/installed
	$(BIN)/python fuzz/kill.py --moments $(MOMENTS)

# The tests of `make test` under the lowest versions that pyproject.toml allows; what these need is new, and warns of them.
lowest: .venv-lowest/installed
	.venv-lowest/bin/python -m pytest -W ignore::DeprecationWarning $(PARALLEL)

# Tests that take longer, and that CI runs all the same: notebooks and the documentation's examples, a browser, several
# workers, JAX, other processes, 2,000 damaged files.
further: .venv/installed-notebooks
	$(MAKE) test MARKED="further and not slow"

# tfcomp.beam and the examples for Dask and Ray, in .venv-beam: Beam sets upper bounds on protobuf, Pillow and pyarrow.
# It has no TensorFlow, so that the fixtures of the other tests are not there.
beam: .venv-beam/installed
	.venv-beam/bin/python -m pytest --noconftest -m 'slow or not slow' tests/test_beam.py tests/test_engines.py

# Rewrites tests/golden/: only after a deliberate change of a format, with its version number raised.
golden: .venv/installed
	$(BIN)/python -m pytest -k golden --rewrite-golden

# Runs the notebooks in place, with full settings: a quarter of an hour.
notebooks: .venv/installed-notebooks
	$(BIN)/python notebooks/execute.py

# The documentation's site, into build/site; `make further` runs the examples in it.
docs: .venv/installed-docs
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

benchmark: .venv/installed-benchmark
	set -e; for script in $(BENCHMARKS); do echo "== $$script"; $(BIN)/python $$script; done

# LiteRT.js and the driver of the browser's test, from npm; needs Node 20.
web:
	npm --prefix export/web ci --no-fund --no-audit

# The page with the codec that comes with the package, at http://localhost:8000/; PORT=8001 names another.
PORT ?= 8000
web-demo: web
	rm -rf export/web/artifact
	cp -r tfcomp/bundled/photographs export/web/artifact
	rm -f export/web/artifact/model.keras export/web/artifact/encoder_slope.tflite
	@echo "open http://localhost:$(PORT)/"
	$(PYTHON) -m http.server --bind 127.0.0.1 --directory export/web $(PORT)

# A Kotlin compiler for tests/test_android.py, from npm; it needs Java.
android:
	npm --prefix export/android ci --no-fund --no-audit

# Wheel and source archive, each installed alone in an empty environment and run there.
wheel: .venv/installed
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/*
	for file in dist/*; do \
	  rm -rf build/empty && $(PYTHON) -m venv build/empty && build/empty/bin/pip install -q "$$file" && \
	  (cd build/empty && bin/python -c "import numpy, tfcomp; c = tfcomp.Codec.load(); \
	    i = numpy.full((9, 9, 3), 99, 'uint8'); print(tfcomp.__version__, c.decompress(c.compress([i]))[0].mean())"); \
	done

# What a release asks for; CONTRIBUTING.md says what is done by hand.
release: lint test further docs slow wheel

clean:
	rm -rf .venv .venv-beam .venv-lowest .mypy_cache .pytest_cache .ruff_cache .hypothesis build demo dist

$(BIN)/python:
	$(PYTHON) -m venv .venv

.venv-lowest/installed: pyproject.toml
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip --quiet --disable-pip-version-check install uv
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct \
		--editable '.[train,fast,evaluate,bulk,serving,test]' 'bjontegaard>=1.3'
	@touch $@

.venv-beam/installed: pyproject.toml
	$(PYTHON) -m venv .venv-beam
	.venv-beam/bin/python -m pip --quiet --disable-pip-version-check install --editable '.[beam,bulk,test]' \
		'dask>=2025.1' 'ray>=2.40'
	@touch $@

.venv/installed: pyproject.toml | $(BIN)/python
	@echo "installing tfcomp[train,serving,dev] into .venv: some minutes the first time"
	$(PIP) install --editable '.[train,serving,dev]'
	@touch $@

.venv/installed-notebooks: .venv/installed
	$(PIP) install --editable '.[notebooks]'
	@touch $@

.venv/installed-docs: .venv/installed
	$(PIP) install --editable '.[docs]'
	@touch $@

.venv/installed-benchmark: .venv/installed
	$(PIP) install --editable '.[benchmark]'
	@touch $@
