"""Train tiny models from scratch to recall, in minutes on a CPU: settings, weights, training."""

import math
import random
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import LlamaConfig

from beacon_lit import BeaconConfig, BeaconLM
from benchmarks.recall.task import Recall, check_count

WARM_UP = 100  # steps
REPORT = 250  # steps between two lines of the log


@dataclass(frozen=True)
class Study:
    """Settings of models that differ only in their overlap.

    Args:
        overlaps: overlaps, with one model each.
        steps: training steps; the first eighth uses rows of one window, without memory.
        seed: seed of weights, rows and questions.
        samples: questions per length of the prompt.
        device: "cpu" or "cuda".
        ratio, window: raw tokens per beacon, and per window.
        layers, hidden: layers and hidden size of the model, which has 4 heads.
        rows: rows per step.
        longest: tokens of the longest row.
        rate: peak learning rate, after a warm-up and before half a cosine.
        task: the task.

    Raises:
        ValueError: a setting out of range, the same overlap twice, or an unavailable device.
    """

    overlaps: tuple[int, ...] = (0, 8)
    steps: int = 3000
    seed: int = 0
    samples: int = 256
    device: str = "cpu"
    ratio: int = 4
    window: int = 32
    layers: int = 2
    hidden: int = 64
    rows: int = 32
    longest: int = 136
    rate: float = 3e-3
    task: Recall = field(default_factory=Recall)

    def __post_init__(self) -> None:
        for name in ("steps", "samples", "layers", "rows"):
            check_count(name, getattr(self, name), 1)
        check_count("seed", self.seed, 0)
        check_count("window", self.window, self.task.least(2))
        check_count("longest", self.longest, self.shortest + self.window - 1 + self.task.answer)
        check_count("hidden", self.hidden, 8)
        if self.hidden % 8:
            raise ValueError(f"hidden={self.hidden!r} is not allowed; allowed: multiples of 8")
        if not self.rate > 0:
            raise ValueError(f"rate={self.rate!r} is not allowed; allowed: above 0")
        if not self.overlaps or len(set(self.overlaps)) != len(self.overlaps):
            raise ValueError(f"overlaps={self.overlaps!r} is not allowed; allowed: one or more, each only once")
        for overlap in self.overlaps:
            self.beacon(overlap)
        devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
        if self.device not in devices:
            raise ValueError(f"device={self.device!r} is not allowed; allowed here: {', '.join(devices)}")

    @property
    def shortest(self) -> int:
        """Tokens of the shortest measured prompt: one window more than all records need."""
        return (math.ceil(self.task.least(self.task.records) / self.window) + 1) * self.window

    def beacon(self, overlap: int) -> BeaconConfig:
        """Return the beacon settings of one model."""
        return BeaconConfig(window=self.window, ratios=self.ratio, overlap=overlap, placement="interleave")


def build(study: Study, overlap: int) -> BeaconLM:
    """Make a random model on the CPU, with the same weights for every overlap, all of them trainable."""
    torch.manual_seed(study.seed)
    config = LlamaConfig(
        vocab_size=study.task.vocabulary,
        hidden_size=study.hidden,
        intermediate_size=2 * study.hidden,
        num_hidden_layers=study.layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},  # few positions, short wavelengths
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=None,
        tie_word_embeddings=False,
    )
    return BeaconLM.from_config(config, study.beacon(overlap)).requires_grad_(True)


def train(study: Study, overlap: int) -> BeaconLM:
    """Train one model on rows of all lengths, so that questions and answers fall anywhere in a window."""
    lm = build(study, overlap).to(study.device).train()
    optimizer = torch.optim.AdamW(lm.parameters(), lr=study.rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * step / study.steps)) / 2
    )
    rng = random.Random(study.seed)
    total, start = 0.0, time.perf_counter()
    for step in range(1, study.steps + 1):
        ids, labels = (x.to(study.device) for x in draw(study, rng, step))
        loss = lm(ids, labels=labels, return_logits=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(lm.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        total += loss.item()
        if step % REPORT == 0:
            seconds = time.perf_counter() - start
            print(f"overlap {overlap}: step {step}, loss {total / REPORT:.3f}, {seconds:.0f} s", flush=True)
            total = 0.0
    return lm


def draw(study: Study, rng: random.Random, step: int) -> tuple[Tensor, Tensor]:
    """Draw ids and labels, (B, L), of a step, counted from 1; all rows have one length."""
    task = study.task
    if step <= study.steps // 8:
        return task.batch(rng, 4 * study.rows, rng.randint(task.least(2), study.window), 2)
    records = rng.randint(2, task.records)
    return task.batch(rng, study.rows, rng.randint(task.least(records), study.longest), records)
