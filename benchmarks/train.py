"""Measure training speed and memory of beacons and of the dense backbone, in one process.

    python -m benchmarks.train                     # 0.5B and 7B, ratios 2, 8, 32
    python -m benchmarks.train --shapes 0.5B --ratios 8 --profile profile.txt
    python -m benchmarks.train --ratios 8 --rows 2400 8192 3000 6888  # rows of a step; only the dense model pads them
    python -m benchmarks.train --ratios 8 --objective lm distill      # the cost of learning from the dense backbone
    python -m benchmarks.train --window 1024 --placements interleave select     # tokens that run, and selected ones
    python -m benchmarks.train --run experiment=qwen2_5_coder data.train.0.path=books-train.jsonl.gz \\
        'data.validation=[books-validation.jsonl.gz]' trainer.max_steps=200     # train.py itself, see benchmarks/run.py

One step is forward and backward of `--tokens` random tokens, in one row or in `--rows`, in bf16 with activation
checkpointing. Beacons train their float32 projections; the dense backbone trains its own q, k and v, which have as many
parameters, and computes its loss in the same chunks.
"""

import argparse
import gc
import itertools
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from beacon_lit import BeaconConfig, BeaconLM
from beacon_lit.arch.nn.kernels import KERNELS
from beacon_lit.objectives import Objective
from benchmarks.run import report
from benchmarks.shapes import SHAPES, build, measure

OBJECTIVES = Path(__file__).parents[1] / "conf" / "objective"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["0.5B", "7B"], choices=list(SHAPES))
    parser.add_argument("--ratios", nargs="+", type=int, default=[2, 8, 32])
    parser.add_argument("--tokens", type=int, default=20480)
    parser.add_argument("--window", type=int, default=2048)
    parser.add_argument("--overlap", type=int, default=0)
    parser.add_argument("--placements", nargs="+", default=["interleave"], help="see docs/beacons.md")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--checkpoint-layers", type=int, help="layers that recompute activations; default: all")
    parser.add_argument("--rows", type=int, nargs="+", help="lengths of the step's rows; default: one row")
    parser.add_argument(
        "--objective", nargs="+", default=["lm"], choices=sorted(file.stem for file in OBJECTIVES.glob("*.yaml"))
    )
    parser.add_argument("--compile", action="store_true", help="fuse pointwise operations, also of the dense model")
    parser.add_argument("--attn", default="auto", choices=["auto", *KERNELS], help="attention kernel")
    parser.add_argument("--profile", help="write the kernels of one step at the first ratio to this file")
    parser.add_argument(
        "--run",
        nargs=argparse.REMAINDER,
        help="time train.py with these settings beside the bare step, and nothing else",
    )
    args = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    if args.run is not None:
        print(f"{name}, torch {torch.__version__}, train.py {shlex.join(args.run)}\n")
        print(report(args.run))
        return
    print(f"{name}, torch {torch.__version__}, window {args.window}, {args.tokens} tokens a step\n")
    print(f"{'shape':>6} {'placement':>10} {'model':>16} {'s/step':>8} {'tokens/s':>9} {'GiB':>6}")
    for shape, placement in itertools.product(args.shapes, args.placements):
        torch.manual_seed(0)
        model = build(shape, beacon(args.window, args.overlap, placement), device, torch.bfloat16, attn=args.attn)
        model.train()
        model.checkpoint_activations(args.checkpoint_layers)
        if args.compile:
            model.compile_pointwise()
        rows = args.rows or [args.tokens]
        args.tokens = sum(rows)
        ids = torch.randint(model.config.vocab_size, (len(rows), max(rows)), device=device)
        mask = (torch.arange(max(rows)) < torch.tensor(rows)[:, None]).long()
        objectives = {name: instantiate(OmegaConf.load(OBJECTIVES / f"{name}.yaml")) for name in args.objective}
        for label, step in steps(model, ids, mask, args.ratios, objectives):
            seconds, peak = measure(step, device, args.repeats, args.warmup)
            print(
                f"{shape:>6} {placement:>10} {label:>16} {seconds:8.3f} {args.tokens / seconds:9.0f} {peak:6.1f}",
                flush=True,
            )
            if args.profile and label != "dense":
                profile(step, args.profile)
                args.profile = None
        del model, step
        gc.collect()
        torch.cuda.empty_cache()


def beacon(window: int, overlap: int, placement: str) -> BeaconConfig:
    """Return a config of all ratios."""
    return BeaconConfig(window=window, ratios=(2, 4, 8, 16, 32), overlap=overlap, placement=placement)


def steps(
    model: BeaconLM, ids: torch.Tensor, mask: torch.Tensor, ratios: list[int], objectives: dict[str, Objective]
) -> list[tuple[str, Callable[[], None]]]:
    """Return the beacon steps, one per ratio and objective, and the dense step, each with its trained parameters."""
    own = [layer.self_attn.get_submodule(f"{name}_proj") for layer in model.model.layers for name in "qkv"]

    def beacon_step(ratio: int, objective: Objective) -> None:
        model.freeze()
        model.zero_grad(set_to_none=True)
        objective(model, {"input_ids": ids, "attention_mask": mask, "labels": ids}, ratio)[0].mean().backward()

    def dense_step() -> None:
        model.requires_grad_(False)
        for projection in own:
            projection.requires_grad_(True)
        model.zero_grad(set_to_none=True)
        model.dense_token_loss(ids, mask.to(ids.device) if len(ids) > 1 else None, labels=ids).mean().backward()

    runs: list[tuple[str, Callable[[], None]]] = [
        (f"ratio {ratio}" + f" {name}" * (name != "lm"), partial(beacon_step, ratio, objective))
        for ratio in ratios
        for name, objective in objectives.items()
    ]
    return [*runs, ("dense", dense_step)]


def profile(step: Callable[[], None], file: str) -> None:
    """Write the step's kernels, longest first."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as prof:
        step()
    with open(file, "w") as out:
        out.write(prof.key_averages().table(sort_by="self_cuda_time_total", row_limit=60, max_name_column_width=90))


if __name__ == "__main__":
    main()
