"""The resolvers of the configs: `${cache:name}`, `${command:}`, `${first:a,b}`, `${on_gpu:accelerator,yes,no}`,
`${smollm2:}`, `${started:format}`, `${times:a,b}`.
"""

import os
import sys
from datetime import datetime
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
    OmegaConf.register_new_resolver("first", _first, replace=True)
    OmegaConf.register_new_resolver("on_gpu", _on_gpu, replace=True)
    OmegaConf.register_new_resolver("smollm2", lambda: str(smollm2()), replace=True, use_cache=True)
    OmegaConf.register_new_resolver("started", _started, replace=True, use_cache=True)
    OmegaConf.register_new_resolver("times", lambda a, b: round(a * b), replace=True)


def _command() -> str:
    """Return the command as the user typed it: "beacon-train", "python train.py", "python -m beacon_lit.cli.train"."""
    spec = sys.modules["__main__"].__spec__
    if spec is not None:
        return f"python -m {spec.name}"
    name = Path(sys.argv[0]).name
    return f"python {name}" if name.endswith(".py") else name


def _first(*values: Any) -> Any:
    """Return the first value that is not null."""
    return next((value for value in values if value is not None), None)


def _on_gpu(accelerator: str, yes: Any, no: Any) -> Any:
    """Return `yes` where the trainer will use a GPU, else `no`."""
    return yes if accelerator != "cpu" and torch.cuda.is_available() else no


def _started(form: str) -> str:
    """Format the time at which the run started, the same on all processes of one torchrun."""
    stat = Path(f"/proc/{os.getppid()}/stat")
    if "TORCHELASTIC_RUN_ID" not in os.environ or not stat.is_file():
        return datetime.now().strftime(form)
    ticks = int(stat.read_text().rpartition(")")[2].split()[19])  # from the boot until torchrun, the parent, started
    lines = Path("/proc/stat").read_text().splitlines()
    booted = next(line.split()[1] for line in lines if line.startswith("btime"))
    return datetime.fromtimestamp(int(booted) + ticks / os.sysconf("SC_CLK_TCK")).strftime(form)
