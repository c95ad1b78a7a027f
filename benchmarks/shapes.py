"""Build models of real shapes with random weights, and time them."""

import copy
import statistics
import time
from collections.abc import Callable

import torch
from transformers import Qwen2Config

from beacon_lit import BeaconConfig, BeaconLM

SHAPES = {
    "0.5B": Qwen2Config(
        hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2,
        vocab_size=151936, max_position_embeddings=32768, tie_word_embeddings=True, rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    ),
    "7B": Qwen2Config(
        hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4,
        vocab_size=152064, max_position_embeddings=32768, tie_word_embeddings=False, rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    ),
    "32B": Qwen2Config(
        hidden_size=5120, intermediate_size=27648, num_hidden_layers=64, num_attention_heads=40, num_key_value_heads=8,
        vocab_size=152064, max_position_embeddings=32768, tie_word_embeddings=False, rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    ),
    "72B": Qwen2Config(
        hidden_size=8192, intermediate_size=29568, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8,
        vocab_size=152064, max_position_embeddings=32768, tie_word_embeddings=False, rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    ),
    "tiny": Qwen2Config(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=1000, max_position_embeddings=32768, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    ),
}  # fmt: skip


def build(
    shape: str,
    beacon: BeaconConfig,
    device: torch.device,
    dtype: torch.dtype,
    beacon_dtype: torch.dtype = torch.float32,
    yarn: float = 1,
) -> BeaconLM:
    """Build a beacon model of one of `SHAPES` directly on the device.

    Args:
        beacon_dtype: dtype of the beacons' parameters; default: float32, as in training.
        yarn: factor by which YaRN extends the shape's positions; default: 1, the shape's own positions.
    """
    config = SHAPES[shape] if yarn == 1 else extended(SHAPES[shape], yarn)
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = BeaconLM.from_config(config, beacon)
    finally:  # also if memory runs out
        torch.set_default_dtype(torch.float32)
    for parameter in model.beacon_parameters():
        parameter.data = parameter.data.to(beacon_dtype)
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
