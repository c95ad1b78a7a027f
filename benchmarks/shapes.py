"""Build models of real shapes with random weights, and time them."""

import copy
import statistics
import time
from collections.abc import Callable

import torch
from transformers import Qwen2Config

from beacon_lit import BeaconConfig, BeaconLM
from beacon_lit.arch.nn.kernels import fastest


def _qwen2(
    hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, vocabulary: int, tied: bool = False
) -> Qwen2Config:
    return Qwen2Config(
        hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, vocab_size=vocabulary, max_position_embeddings=32768, tie_word_embeddings=tied,
        rms_norm_eps=1e-6, rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )  # fmt: skip


SHAPES = {
    "0.5B": _qwen2(896, 4864, 24, 14, 2, 151936, tied=True),
    "7B": _qwen2(3584, 18944, 28, 28, 4, 152064),
    "32B": _qwen2(5120, 27648, 64, 40, 8, 152064),
    "72B": _qwen2(8192, 29568, 80, 64, 8, 152064),
    "tiny": _qwen2(64, 128, 2, 4, 2, 1000, tied=True),
}

DENSE_KERNELS = {"flash_attn_4": "flash_attention_4", "flash_attn": "flash_attention_2"}  # names of transformers


def build(
    shape: str,
    beacon: BeaconConfig,
    device: torch.device,
    dtype: torch.dtype,
    beacon_dtype: torch.dtype = torch.float32,
    yarn: float = 1,
    attn: str = "auto",
) -> BeaconLM:
    """Build a beacon model of one of `SHAPES` directly on the device.

    Args:
        beacon_dtype: dtype of the beacons' parameters; default: float32, as in training.
        yarn: factor by which YaRN extends the shape's positions; default: 1, the shape's own positions.
        attn: attention kernel; the dense backbone gets the same where transformers has it.
    """
    config = SHAPES[shape] if yarn == 1 else extended(SHAPES[shape], yarn)
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = BeaconLM.from_config(config, beacon, attn=attn)
    finally:  # also if memory runs out
        torch.set_default_dtype(torch.float32)
    for parameter in model.beacon_parameters():
        parameter.data = parameter.data.to(beacon_dtype)
    kernel = fastest(device) if attn == "auto" and device.type == "cuda" else attn
    if kernel in DENSE_KERNELS:
        model.set_attn_implementation(DENSE_KERNELS[kernel])
    return model


def extended(config: Qwen2Config, factor: float) -> Qwen2Config:
    """Return the same shape with `factor` times the positions, through YaRN."""
    config, own = copy.deepcopy(config), config.max_position_embeddings
    yarn = {"rope_type": "yarn", "factor": float(factor), "original_max_position_embeddings": own}
    config.rope_parameters = {**config.rope_parameters, **yarn}
    config.max_position_embeddings = int(own * factor)
    return config


def measure(step: Callable[[], object], device: torch.device, repeats: int, warmup: int) -> tuple[float, float]:
    """Measure the median seconds of `step`, and the peak GiB of device memory (0 on a CPU)."""
    times = []
    for i in range(warmup + repeats):
        if i == warmup and device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        times.append(_seconds(step, device))
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    return statistics.median(times[warmup:]), peak


def _seconds(step: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        step()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    step()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000
