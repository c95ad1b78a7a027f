"""A tiny model, caches in files, and what our model answers: for tests that ask vLLM the same."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from beacon_lit import BeaconConfig, BeaconLM
from beacon_lit.tiny import byte_tokenizer
from beacon_lit.vllm import save_for_vllm
from tests.arch.tiny import tiny

# vLLM's own settings: GiB of keys and values, no binding to cores, no reports.
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # so that errors at the start reach the test
}


def compressing(seed: int = 0) -> BeaconLM:
    """A tiny Qwen2 with heads of 32, the smallest that vLLM's kernels have."""
    beacon = BeaconConfig(window=64, ratios=4, sink=1, overlap=3)
    sizes = {"hidden_size": 128, "head_dim": 32, "intermediate_size": 96, "vocab_size": 258}
    return tiny("qwen2", beacon, seed=seed, **sizes).eval()


def saved(folder: Path) -> Path:
    """The folder of its backbone, with a tokenizer."""
    compressing().save_backbone(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def transfer(folder: Path) -> dict[str, Any]:
    """vLLM's `kv_transfer_config`."""
    return {
        "kv_connector": "BeaconConnector",
        "kv_connector_module_path": "beacon_lit.vllm.connector",
        "kv_role": "kv_consumer",
        "kv_connector_extra_config": {"folder": str(folder)},
    }


def settings(folder: Path) -> dict[str, Any]:
    """Arguments of vLLM's `LLM`, beside the model: float32 as in our tests, and blocks for about 300 tokens."""
    return {
        "dtype": "float32",
        "enforce_eager": True,
        "gpu_memory_utilization": 0.1,  # of the machine's memory, which others use as well
        "max_model_len": 256,
        "block_size": 32,
        "num_gpu_blocks_override": 11,
        "enable_prefix_caching": False,
        "disable_log_stats": False,
        "kv_transfer_config": transfer(folder),
    }


@dataclass(frozen=True)
class Question:
    """A question about an exported cache, and our model's answer."""

    cache: str
    slots: int
    ids: list[int]
    answer: list[int]

    @property
    def prompt(self) -> list[int]:
        """Placeholders, then the question."""
        return [0] * self.slots + self.ids


def asked(lm: BeaconLM, folder: Path, name: str, document: Sequence[int], ids: Sequence[int], count: int) -> Question:
    """Read a document, export its cache and ask our model, whose window stays open."""
    cache = lm.compress(torch.tensor([list(document)]))
    file = save_for_vllm(cache, folder / name)
    assert len(ids) + count - 1 <= file.room and file.slots < file.tokens / 2
    options: dict[str, Any] = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    out = lm.generate(torch.tensor([list(ids)]), cache=cache, max_new_tokens=count, **options)
    return Question(name, file.slots, list(ids), out[0, len(ids) :].tolist())


@contextmanager
def environment() -> Iterator[None]:
    """Set vLLM's variables within this context."""
    before = dict(os.environ)
    os.environ.update(ENVIRONMENT)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
