# Everything a person or CI does with this repository. `make` alone lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help
BIN := .venv/bin
WORKERS ?= 2

# Caches of compiled modules make every start of every process faster.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup run demo test test-packages lint stubs format bench bench-rows bench-serving soak screenshots clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | column -t -s "$$(printf '\t')"

setup:  ## make .venv from requirements.lock; does nothing when nothing changed
	@infra/setup/setup.sh

run: setup  ## the whole platform in the foreground; Ctrl-C stops it
	@exec $(BIN)/evergreen up

demo: setup  ## January to 10 July headless, in minutes; TO=2013-12-31 replays the year
	@$(BIN)/evergreen demo $(if $(TO),--to $(TO))

test: test-packages setup lint  ## Debian packages for tests where missing, lint, then every test
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-packages:
	@infra/setup/test_packages.sh

lint: setup  ## ruff, mypy, import-linter, deptry
	@$(BIN)/ruff check --no-cache .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/deptry .

stubs: setup  ## write the gRPC messages from their .proto
	@$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. serving/protocols/open_inference.proto

format: setup  ## let ruff write the code's form
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: setup  ## figures with their limits, as ratios side by side; fails over a limit
	@$(BIN)/python -m benchmarks

bench-rows: setup  ## features of 33 million rows; fails over a limit
	@$(BIN)/python -W ignore -m benchmarks.features --tiles 100

bench-serving: setup  ## the endpoint beside MLServer, BentoML, LitServe, FastAPI and mlflow
	@$(BIN)/python -W ignore -m benchmarks.serving $(ARGUMENTS)

soak: setup  ## ten minutes of load with releases, canaries, roll-backs, killed workers
	@$(BIN)/python -m benchmarks.soak

screenshots: setup  ## the pictures of README and docs, from real pages
	@$(BIN)/python -m tests.browser.screenshots

clean:  ## remove caches and the local platform's state, not .venv
	@rm -rf .evergreen .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
