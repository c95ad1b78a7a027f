"""Limit the threads of a command, before it starts any."""

import os
from collections.abc import Sized
from typing import Any

import torch
import torch._inductor.config as inductor
from omegaconf import DictConfig, OmegaConf

from beacon_lit.cores import Threads, local_processes, threads, usable_cores

# What the user has set; later the environment also has what `limit` sets, for the processes of a run.
_GIVEN = frozenset(os.environ)


def limit_threads(cfg: DictConfig) -> None:
    """Limit PyTorch, `torch.compile` and tokenizers to this process's share of the cores.

    The user's OMP_NUM_THREADS, TORCHINDUCTOR_COMPILE_THREADS and RAYON_NUM_THREADS stay.

    Args:
        cfg: the config of any command.
    """
    settings = cfg.get("trainer", cfg)
    on_gpu = settings.get("accelerator", "auto") != "cpu" and torch.cuda.is_available()
    processes = local_processes(
        os.environ, _count(settings.get("devices", 1), torch.cuda.device_count() if on_gpu else 1)
    )
    offloaded = OmegaConf.select(settings, "strategy.offload_optimizer", default=False)  # the optimizer runs on the CPU
    limit(threads(usable_cores(), processes, on_gpu and not offloaded))


def limit(counts: Threads) -> None:
    """Apply limits to this process and to those that it starts, except where the user has set others."""
    if "OMP_NUM_THREADS" not in _GIVEN:
        torch.set_num_threads(min(counts.compute, torch.get_num_threads()))
        os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    if "TORCHINDUCTOR_COMPILE_THREADS" not in _GIVEN:
        inductor.compile_threads = counts.compile  # read from the environment when torch was imported
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = str(counts.compile)
    if "RAYON_NUM_THREADS" not in _GIVEN:
        os.environ["RAYON_NUM_THREADS"] = str(counts.tokenize)


def _count(devices: Any, gpus: int) -> int:
    """Count devices as Lightning names them: a number, a list, or -1 or a word for all."""
    if isinstance(devices, int):
        return devices if devices > 0 else gpus
    return len(devices) if isinstance(devices, Sized) and not isinstance(devices, str) else gpus
