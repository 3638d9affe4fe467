# Needs Python 3.11 or newer, make and git; everything else goes into .venv.
# Choose another Python with `make PYTHON=python3.12 …`; pass options on with `make test ARGS="-k psi"`.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet
BUILT := dist/.stamp
SOURCES := $(shell find src examples grafana -type f -not -path '*/__pycache__/*') pyproject.toml README.md LICENSE

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
export PIP_RETRIES := 10
unexport PYTHONPATH PYTHONHOME  # the tests must import the installed wheel, not the checkout

.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: demo stack test check bench soak pictures build clean

demo: $(VENV)/demo.stamp
	$(BIN)/modelwatch demo $(ARGS)

stack: $(VENV)/demo.stamp
	$(BIN)/modelwatch stack $(ARGS)

test: check $(VENV)/wheel.stamp $(VENV)/test.stamp $(VENV)/crd.stamp
	@tools/ensure_programs.sh
	$(BIN)/pytest -n 2 --dist loadfile --pyargs modelwatch tests/ $(ARGS)

check: $(VENV)/wheel.stamp $(VENV)/lint.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/wheel.stamp $(VENV)/bench.stamp
	$(BIN)/python benchmarks/run.py $(ARGS)

soak: $(VENV)/wheel.stamp $(VENV)/test.stamp
	@tools/ensure_programs.sh
	$(BIN)/pytest -m soak tests/ $(ARGS)

pictures: $(VENV)/wheel.stamp $(VENV)/test.stamp
	@tools/ensure_programs.sh
	$(BIN)/python tools/pictures/shoot.py $(ARGS)

build: $(BUILT)

clean:
	rm -rf $(VENV) dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/build.stamp: pyproject.toml tools/make_venv.sh
	@tools/make_venv.sh $(VENV) $(PYTHON)
	$(PIP) --group build
	@touch $@

# By way of the source archive: so the wheel holds nothing that git ignores.
$(BUILT): $(SOURCES) | $(VENV)/build.stamp
	@rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist . >/dev/null
	@touch $@

$(VENV)/wheel.stamp: $(BUILT)
	@$(BIN)/python -m pip uninstall --quiet --yes modelwatch 2>/dev/null
	$(PIP) dist/*.whl
	@touch $@

$(VENV)/demo.stamp: pyproject.toml | $(VENV)/wheel.stamp
	$(PIP) "$$(echo dist/*.whl)[demo]"
	@touch $@

# Without what it needs: that is there already. Not among the other packages: pyproject.toml says why.
$(VENV)/crd.stamp: pyproject.toml | $(VENV)/build.stamp
	@rm -rf $(VENV)/crd
	$(PIP) --no-deps --target $(VENV)/crd --group crd
	@touch $@

$(VENV)/%.stamp: pyproject.toml | $(VENV)/build.stamp
	$(PIP) --group $*
	@touch $@
