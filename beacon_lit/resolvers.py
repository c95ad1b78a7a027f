"""What the configs may ask for: `${cache:name}`, `${on_gpu:accelerator,yes,no}`, `${smollm2:}`, `${times:a,b}`."""

from typing import Any

import torch
from omegaconf import OmegaConf

from beacon_lit.arch.gguf import cache_folder
from beacon_lit.demo import smollm2


def register() -> None:
    """Make the resolvers known to OmegaConf."""
    OmegaConf.register_new_resolver("cache", lambda name: str(cache_folder() / name), replace=True)
    OmegaConf.register_new_resolver("on_gpu", _on_gpu, replace=True)
    OmegaConf.register_new_resolver("smollm2", lambda: str(smollm2()), replace=True, use_cache=True)
    OmegaConf.register_new_resolver("times", lambda a, b: round(a * b), replace=True)


def _on_gpu(accelerator: str, yes: Any, no: Any) -> Any:
    """`yes` where the trainer will use a GPU."""
    return yes if accelerator != "cpu" and torch.cuda.is_available() else no
