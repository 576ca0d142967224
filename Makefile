# One virtual environment, one folder of models; every target sets up what it needs.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

VENV ?= .venv
BIN := $(VENV)/bin
PREFIX ?= /opt/edgecam
DESTDIR ?=
BOARD ?=
# A folder searched for model files before any download; none is needed.
MODELS_MIRROR ?= $(wildcard ../shared/models)
# `make test ARGS="-k vault"`
ARGS ?=

# onnxruntime 1.30 and later carry an uploader of usage data; the pins stay below, and this switches it off.
export ORT_DISABLE_TELEMETRY := 1

PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALLED := $(VENV)/.edgecam-installed
MODELS := $(VENV)/.edgecam-models
TRAIN := $(VENV)/.edgecam-train

.PHONY: help setup train models demo test coverage check slow bench clean install uninstall insightface system-deps test39 constraints sbom deb bundle arm64

help:
	@echo "make setup      virtual environment, system packages (as root), models"
	@echo "make train      also PyTorch, which the night's training needs (edgecam tune)"
	@echo "make demo       the main job on real video, from camera to MQTT client"
	@echo "make test       the tests (ARGS='-k ...' narrows)"
	@echo "make coverage   the same with branch coverage, which takes half as long again"
	@echo "make check      ruff, mypy, import-linter, codespell, constraints, systemd units"
	@echo "make slow       the long tests, Python 3.9, constraints resolved; writes docs/slow-last.txt"
	@echo "make bench      speed and memory on this machine"
	@echo "make insightface   the optional recogniser, without its own onnxruntime and cv2"
	@echo "make install / uninstall   as root: $(PREFIX), user and service edgecam (DESTDIR for a trial)"
	@echo "make deb        a Debian package for this release, in build/"
	@echo "make bundle BOARD=jp46   all of it in a folder, to install from without a network (jp5, jp6, arm64, x86_64)"
	@echo "make arm64      the program on an emulated ARM processor, with a TX2's versions"
	@echo "make sbom       what is installed, with licences: build/sbom.cdx.json, docs/licences.md"
	@echo "make clean      caches and build output (the environment: rm -r $(VENV))"

# --- set-up ---------------------------------------------------------------------------------------------------------

system-deps:
	@deploy/system-deps

$(VENV)/bin/python: | system-deps
	@python=$${PYTHON:-$$(deploy/find-python)}; echo "setup: $(VENV) from $$python" >&2; "$$python" -m venv $(VENV)

# Editable, so a changed file needs no new install; changed dependencies do.
$(INSTALLED): pyproject.toml $(wildcard deploy/constraints/*.txt) | $(VENV)/bin/python
	@constraints=$$(deploy/constraints-for $(BIN)/python); echo "setup: pip install with $$constraints" >&2; \
	$(PIP) install --progress-bar off -c "$$constraints" -e '.[cpu,dev]' | sed -u -n 's/^\(Collecting\|Installing\|Successfully\)/  \1/p' >&2
	@touch $@

# PyTorch, for the night alone; where a build without CUDA is offered, it is taken.
$(TRAIN): $(INSTALLED)
	@constraints=$$(deploy/constraints-for $(BIN)/python); echo "setup: PyTorch (the night's training)" >&2; \
	$(PIP) install --progress-bar off -c "$$constraints" -e '.[cpu,dev,train]' | sed -u -n 's/^\(Installing\|Successfully\)/  \1/p' >&2
	@touch $@

$(MODELS): models/manifest.toml $(INSTALLED)
	@$(MAKE) --no-print-directory models
	@touch $@

models: $(INSTALLED)
	$(BIN)/edgecam models pull $(if $(MODELS_MIRROR),--mirror $(MODELS_MIRROR))

setup: system-deps $(INSTALLED) $(MODELS)

insightface: $(INSTALLED)
	deploy/insightface $(BIN)/python

# --- use ------------------------------------------------------------------------------------------------------------

demo: setup
	$(BIN)/python -m edgecam.bench.demo $(ARGS)

bench: setup
	$(BIN)/edgecam bench $(ARGS)

# --- check ----------------------------------------------------------------------------------------------------------

train: $(TRAIN)

test: setup $(TRAIN)
	$(BIN)/python -m pytest -m "not slow" -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

coverage:
	@$(MAKE) --no-print-directory test ARGS="--cov --cov-report=term $(ARGS)"

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	@deploy/check-py39
	$(BIN)/python deploy/check_constraints.py
	@deploy/check-units

slow: setup $(TRAIN)
	@deploy/slow $(BIN)

test39:
	@deploy/test39 $(ARGS)

# `--table` knows only what is installed: with every extra, as in x86_64-py311.txt.
sbom: $(TRAIN)
	@mkdir -p build
	$(BIN)/python deploy/sbom.py >build/sbom.cdx.json
	$(BIN)/python deploy/sbom.py --table >docs/licences.md

# Resolve every board's constraints anew from pyproject.toml's bounds.
constraints: $(INSTALLED)
	$(BIN)/python deploy/check_constraints.py --write

# --- as a service ---------------------------------------------------------------------------------------------------

install:
	@$(if $(PYTHON),PYTHON='$(PYTHON)') PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' MODELS_MIRROR='$(MODELS_MIRROR)' deploy/install

deb:
	@deploy/deb

bundle: $(INSTALLED)
	@BOARD='$(BOARD)' MODELS_MIRROR='$(MODELS_MIRROR)' deploy/bundle $(BIN)

arm64: setup
	@deploy/arm64 $(BIN)

uninstall:
	@PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' deploy/uninstall

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage .coverage.*
	find edgecam tests deploy -name __pycache__ -type d -prune -exec rm -rf {} +
