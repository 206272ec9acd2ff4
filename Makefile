PYTHON ?= python3
export PORT ?= 8080

.PHONY: help serve check test test-all mutants hooks architecture fuzz bench chaos fit tools wheel bundle infra openapi format \
  train pins clean

serve: .venv/ready  ## run the service on PORT
	@exec .venv/bin/python -m infra.serve

help:  ## this list
	@sed -nE 's/^([a-z-]+):.*  ## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

# What starts hundreds of times is byte-compiled before the tests, whatever was edited since.
# Tests wait as long as they compute: two workers for each processor.
WORKERS ?= $(shell echo $$(( $$(nproc) * 2 )))
PYTEST = .venv-dev/bin/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
define STATIC
	.venv-dev/bin/ruff format --check .
	.venv-dev/bin/ruff check .
	.venv-dev/bin/mypy
endef

check: .venv-dev/ready  ## format, lint, types, and tests that start nothing: under a minute
	$(STATIC)
	$(PYTEST) --fast --hypothesis-profile=fast -m "not slow"

test: .venv/ready .venv-dev/ready .venv-lint/ready .venv-wheel/ready  ## format, lint, types, all tests but the slow ones
	$(STATIC)
	@PYTHONDONTWRITEBYTECODE= .venv/bin/python -m compileall -q functions infra layers/model
	$(PYTEST) -m "not slow"

test-all: test  ## make test, and then the slow tests, as CI runs both
	$(PYTEST) -m slow

mutants: .venv-dev/ready  ## mutation testing of inference and memory; make mutants SECONDS=600
	.venv-dev/bin/python bench/mutants.py --seconds $(or $(SECONDS),600)

hooks: .venv-dev/ready  ## run format, lint, types and imports before each commit
	.venv-dev/bin/pre-commit install

fuzz: .venv-dev/ready  ## look for input that breaks the service, for minutes
	.venv-dev/bin/pytest tests/macule/routes/test_fuzz.py --hypothesis-profile=fuzz

bench: .venv/ready .venv-dev/ready .venv-bench/ready  ## beside what macule replaces; half an hour
	.venv-dev/bin/python bench/side_by_side.py
	.venv-dev/bin/python bench/your_model.py

chaos: .venv-dev/ready  ## an hour of faults under load; make chaos SECONDS=60 SEED=2
	.venv-dev/bin/python bench/chaos --seconds $(or $(SECONDS),3600) --seed $(or $(SEED),1)

fit: .venv/ready .venv-dev/ready  ## the smallest instance that holds; make fit MODEL=folder
	.venv-dev/bin/python bench/fit.py $(if $(MODEL),--model $(MODEL))

tools: .venv-dev/ready  ## what converts, checks and trains models: .venv-dev/bin/macule

wheel: .venv-wheel/ready  ## the wheel and its source distribution, into dist/
	cd layers/model && ../../.venv-wheel/bin/python -m hatchling build --clean -d $(abspath $(or $(DIST),dist))

bundle: .venv/ready  ## what is uploaded: build/<platform>/<function>
	.venv/bin/python -m infra.bundle

infra: .venv-dev/ready  ## the templates of all platforms from infra/limits.toml
	.venv-dev/bin/python -m infra.generate

architecture: .venv-dev/ready  ## the diagram in docs/architecture.md, from the imports
	.venv-dev/bin/python -m infra.architecture

openapi: .venv/ready .venv-dev/ready  ## the examples of the specification, from real answers
	@PYTHONPATH=tests .venv-dev/bin/python tests/support/api_examples.py

format: .venv-dev/ready
	.venv-dev/bin/ruff format .
	.venv-dev/bin/ruff check --fix .

train: .venv-dev/ready  ## make train DATA=folder [CLINICAL=folder] [OUT=folder]: the default model from a labels.csv
	.venv-dev/bin/pip -q install --no-deps --require-hashes -r requirements/train.txt
	.venv-dev/bin/python -m macule.train $(DATA) $(if $(CLINICAL),--clinical $(CLINICAL)) \
	  --out $(or $(OUT),layers/model/macule/weights) \
	  --work $(or $(WORK),build/train) --page $(or $(PAGE),docs/model-card.md)

PINS ?= serve health queue dev redis otel heic dicom s3 gs parquet convert all wheel lint bench
pins:  ## resolve requirements/*.in anew; needs uv
	for set in $(PINS); do uv pip compile --quiet --universal --python-version 3.11 \
	  --generate-hashes --no-annotate --override requirements/overrides.txt \
	  --custom-compile-command "make pins" requirements/$$set.in -o requirements/$$set.txt; done

clean:
	rm -rf .venv .venv-dev .venv-lint .venv-wheel .venv-bench build dist

# An environment is made once, and anew only when its pins or the package's metadata change.
.venv/ready: requirements/serve.txt layers/model/pyproject.toml
.venv-dev/ready: requirements/dev.txt layers/model/pyproject.toml
.venv-bench/ready: requirements/bench.txt layers/model/pyproject.toml

# Linters, whose pins do not go with those of .venv-dev, and what builds the wheel; neither sees a
# package of ours.
.venv-lint/ready: requirements/lint.txt
.venv-wheel/ready: requirements/wheel.txt
.venv-lint/ready .venv-wheel/ready:
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/pip --disable-pip-version-check -q install --no-compile --no-deps --require-hashes -r $<
	@touch $@

.venv/ready .venv-dev/ready: NEWEST = 14  # TensorFlow has no wheel for it: .venv-dev goes without
.venv-bench/ready: NEWEST = 13

.venv/ready .venv-dev/ready .venv-bench/ready:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, $(NEWEST)))' || \
	  { echo "$(@D) needs Python 3.11 to 3.$(strip $(NEWEST)); set PYTHON=python3.x" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/pip --disable-pip-version-check -q install --no-deps --require-hashes -r $<
	$(@D)/bin/pip --disable-pip-version-check -q install --no-deps -e layers/model
	@PYTHONDONTWRITEBYTECODE= $(@D)/bin/python -m compileall -q functions infra layers/model
	@touch $@
