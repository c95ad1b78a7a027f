"""Estimate training on many GPUs from what was measured on one and two: speed, memory, network, and GPU-hours.

    python -m benchmarks.scale

No GPU is needed. FLOPs are counted as in training (`arch/flops.py`), on the real shape. Computation runs
at the share of the peak that the 7B shape reached on one H100, times what the strategy reached of twice a single GPU
on two (`Measured`). Layers are gathered one ahead of the computation: a layer takes the longer of its computation and
the gathering of the next one. GPUs of a node gather over NVLink; nodes receive what they lack through one network
adapter per GPU, at the same time.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

import torch
from rich.console import Console
from rich.table import Table

from beacon_lit import BeaconConfig
from beacon_lit.arch.flops import head_flops, load, training_flops
from beacon_lit.arch.plan.call import plan_call
from benchmarks.shapes import build

GB = 1e9
GIB = 2**30
FORWARD = 1 / 3  # of a frozen layer's time: forward, forward again, gradient of the activations


@dataclass(frozen=True)
class Cluster:
    """The hardware; the defaults are a DGX H100 per node, with rates that its NCCL collectives reach.

    Attributes:
        peak: FLOPs per second of a GPU, bf16, dense.
        node: GPUs of a node.
        nvlink: bytes per second that a GPU receives within a node.
        adapter: bytes per second of the network adapter of each GPU (400 Gb/s at 80 %).
    """

    peak: float = 989e12
    node: int = 8
    nvlink: float = 300 * GB
    adapter: float = 40 * GB

    def from_others(self, gpus: int) -> float:
        """Share of what is spread over `gpus` GPUs that a node receives from other nodes."""
        return 1 - 1 / -(-gpus // self.node)


@dataclass(frozen=True)
class Measured:
    """Measurements on H100s (docs/distributed.md): 7B, ratio 8, window 2,048, one row of 20,480 tokens per GPU.

    Attributes:
        seconds: s per step on one GPU.
        efficiency: strategy -> tokens/s on two GPUs of a node, as a share of twice one GPU.
        peak: GiB of each of two GPUs under fsdp2.
    """

    seconds: float = 2.255
    efficiency: Mapping[str, float] = field(default_factory=lambda: {"fsdp2": 0.946, "deepspeed_stage3": 0.934})
    peak: float = 21.2


@dataclass(frozen=True)
class Work:
    """A step of one GPU on one shape.

    Attributes:
        flops: FLOPs per step.
        layers: number of layers.
        layer, root: bytes to gather for a layer, and for the embedding, the norm and the language head.
        trained: number of trained parameters.
        parameters: bytes of all parameters.
        states: bytes of the hidden states that recomputation starts from.
        inner: size of the widest activation of a layer in numbers, tokens x intermediate size.
        tokens: raw tokens.
    """

    flops: float
    layers: int
    layer: float
    root: float
    trained: int
    parameters: float
    states: float
    inner: int
    tokens: int


@dataclass(frozen=True)
class Estimate:
    """An estimated step.

    Attributes:
        seconds: s per step.
        exposed: of these, s in which GPUs wait for weights.
        received: GB that a node receives in a step.
        adapter: Gb/s into each GPU from other nodes, below which every layer waits; 0 on one node.
        memory: GiB of a GPU.
        speed: tokens/s of all GPUs together.
    """

    seconds: float
    exposed: float
    received: float
    adapter: float
    memory: float
    speed: float

    def gpu_hours(self, gpus: int, tokens: float = 1e9) -> float:
        """GPU-hours for a number of tokens."""
        return tokens / self.speed * gpus / 3600


@cache
def work(shape: str, tokens: int = 20480, ratio: int = 8, window: int = 2048) -> Work:
    """Count the work of one row of `tokens` tokens on a shape of `SHAPES`."""
    beacon = BeaconConfig(
        window=window, ratios=(ratio,), sink=4, overlap=64, placement="interleave", params=("q", "k", "v")
    )
    lm = build(shape, beacon, torch.device("meta"), torch.bfloat16)
    call = plan_call(beacon, beacon.limits(lm.positions), [tokens], None, "raw", ratio, None)
    packed = tokens + sum(window.beacons for row in call.rows for window in row.windows)
    layers, config = lm.model.layers, lm.config
    layer = sum(value.nbytes for value in layers.parameters()) / len(layers)
    everything = sum(value.nbytes for value in lm.parameters())
    return Work(
        flops=training_flops(lm, load(call.rows, beacon, lm.groups.reaches)) + head_flops(lm) * (tokens - 1),
        layers=len(layers),
        layer=layer,
        root=everything - layer * len(layers),
        trained=sum(value.numel() for value in lm.beacon_parameters()),
        parameters=everything,
        states=2 * len(layers) * packed * config.hidden_size,
        inner=packed * config.intermediate_size,
        tokens=tokens,
    )


def gather_seconds(size: float, gpus: int, cluster: Cluster) -> float:
    """Seconds until `size` bytes that are spread over `gpus` GPUs are on all of them."""
    within = size * (1 - 1 / gpus) / cluster.nvlink
    return max(within, size * cluster.from_others(gpus) / (cluster.adapter * cluster.node))


def step_seconds(of: Work, gpus: int, mfu: float, cluster: Cluster) -> tuple[float, float]:
    """Seconds of a step, and the part of these in which nothing is computed."""
    compute = of.flops / (mfu * cluster.peak)
    gather = gather_seconds(of.layer, gpus, cluster)
    root = gather_seconds(of.root, gpus, cluster)
    gradients = gather_seconds(4 * of.trained, gpus, cluster) / of.layers  # reduced while the next layer is gathered
    forward, backward = (share * compute / of.layers for share in (FORWARD, 1 - FORWARD))
    total = root + gather + of.layers * (max(forward, gather) + max(backward, gather + gradients))
    return total, total - compute


def estimate(of: Work, anchor: Work, gpus: int, strategy: str, cluster: Cluster, measured: Measured) -> Estimate:
    """Estimate a step on `gpus` GPUs.

    Args:
        of: the work of the shape.
        anchor: the work of the shape that was measured, 7B.
        gpus: how many GPUs share the model.
        strategy: "fsdp2" or "deepspeed_stage3".
        cluster, measured: hardware and measurements.
    """
    mfu = anchor.flops / (measured.seconds * cluster.peak) * measured.efficiency[strategy]
    seconds, exposed = step_seconds(of, gpus, mfu, cluster)
    from_others = cluster.from_others(gpus)
    gathered = of.root + 2 * of.layers * of.layer + 4 * of.trained
    rest = measured.peak * GIB - _held(anchor, 2)  # activations inside a layer, and what the allocator adds
    memory = _held(of, gpus) + rest * of.inner / anchor.inner
    forward = FORWARD * of.flops / (mfu * cluster.peak) / of.layers
    return Estimate(
        seconds=seconds,
        exposed=exposed,
        received=gathered * from_others / GB,
        adapter=8 * of.layer * from_others / cluster.node / forward / GB,
        memory=memory / GIB,
        speed=of.tokens * gpus / seconds,
    )


def _held(of: Work, gpus: int) -> float:
    """Bytes on a GPU: its shard, gradients and AdamW's moments, the root and two layers, and states of all layers."""
    return (of.parameters + 12 * of.trained) / gpus + of.root + 2 * of.layer + of.states


def table(shapes: list[str], sizes: list[int], cluster: Cluster, measured: Measured) -> Table:
    """Make the table of all shapes, numbers of GPUs and strategies."""
    found = Table("shape", "GPUs", "strategy", "s/step", "waits, s", "GB into a node", "needs, Gb/s a GPU", "GiB a GPU")
    for name in ("tokens/s", "GPU-hours, 1B tokens"):
        found.add_column(name)
    anchor = work("7B")
    for shape in shapes:
        of = work(shape)
        for gpus in sizes:
            for strategy in measured.efficiency:
                one = estimate(of, anchor, gpus, strategy, cluster, measured)
                cells = (f"{one.seconds:.2f}", f"{one.exposed:.2f}", f"{one.received:.0f}")
                cells += (f"{one.adapter:.0f}", f"{one.memory:.0f}")
                found.add_row(shape, str(gpus), strategy, *cells, f"{one.speed:,.0f}", f"{one.gpu_hours(gpus):,.0f}")
    return found


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["7B", "32B", "72B"])
    parser.add_argument("--gpus", nargs="+", type=int, default=[8, 64, 256])
    parser.add_argument(
        "--adapter", type=float, default=Cluster.adapter / GB, help="GB/s into each GPU from other nodes"
    )
    given = parser.parse_args()
    cluster = Cluster(adapter=given.adapter * GB)
    Console(width=140).print(table(given.shapes, given.gpus, cluster, Measured()))


if __name__ == "__main__":
    main()
