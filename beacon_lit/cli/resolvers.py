"""The resolvers of the configs: `${cache:name}`, `${command:}`, `${given:yes,no,value,...}`,
`${on_gpu:accelerator,yes,no}`, `${smollm2:}`, `${times:a,b}`.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from beacon_lit.arch.checkpoint.gguf import cache_folder
from beacon_lit.demo import smollm2


def register() -> None:
    """Register the resolvers with OmegaConf."""
    OmegaConf.register_new_resolver("cache", lambda name: str(cache_folder() / name), replace=True)
    OmegaConf.register_new_resolver("command", _command, replace=True)
    OmegaConf.register_new_resolver("given", _given, replace=True)
    OmegaConf.register_new_resolver("on_gpu", _on_gpu, replace=True)
    OmegaConf.register_new_resolver("smollm2", lambda: str(smollm2()), replace=True, use_cache=True)
    OmegaConf.register_new_resolver("times", lambda a, b: round(a * b), replace=True)


def _command() -> str:
    """Return the command as the user typed it: "beacon-train", "python train.py", "python -m beacon_lit.cli.train"."""
    spec = sys.modules["__main__"].__spec__
    if spec is not None:
        return f"python -m {spec.name}"
    name = Path(sys.argv[0]).name
    return f"python {name}" if name.endswith(".py") else name


def _given(yes: Any, no: Any, *values: Any) -> Any:
    """Return `yes` where any of the values is not null, else `no`."""
    return no if all(value is None for value in values) else yes


def _on_gpu(accelerator: str, yes: Any, no: Any) -> Any:
    """Return `yes` where the trainer will use a GPU, else `no`."""
    return yes if accelerator != "cpu" and torch.cuda.is_available() else no
