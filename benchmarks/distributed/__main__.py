"""Measure speed and memory of `train.py` under every strategy, one after the other, and on a single GPU.

    python -m benchmarks.distributed                              # 7B, all GPUs of this machine
    python -m benchmarks.distributed --lengths 20480 12288        # ranks of unequal lengths
    python -m benchmarks.distributed --devices 2 --nodes 2        # memory only: two ranks share a GPU
    python -m benchmarks.distributed --shape tiny --devices 2 --accelerator cpu --lengths 400 --window 64

A backbone of the shape with random weights is written to a folder first, so that loading is measured as well. Every
batch is one document; the documents take the given lengths in turn.
"""

import argparse
import json
import os
import subprocess
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.distributed.inputs import write_backbone, write_text
from benchmarks.distributed.launch import torchrun

ROOT = Path(__file__).parents[2]
SINGLE = "gpu"
STRATEGIES = [SINGLE, "ddp", "deepspeed_stage2", "deepspeed_stage3", "fsdp2"]
COLUMNS = ["s/step", "slowest", "tokens/s", "of single x GPUs", "GiB", "GiB loading", "host GiB loading", "s loading"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="7B")
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES, help="options of conf/trainer")
    parser.add_argument("--devices", type=int, default=torch.cuda.device_count())
    parser.add_argument("--nodes", type=int, default=1, help="nodes, which share this machine's GPU")
    parser.add_argument("--accelerator", default="gpu", choices=["gpu", "cpu"])
    parser.add_argument("--lengths", type=int, nargs="+", default=[20480], help="tokens of the batches of a rank")
    parser.add_argument("--window", type=int, default=2048)
    parser.add_argument("--ratio", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--folder", type=Path, default=Path("outputs/benchmark"), help="for backbone and results")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one strategy")
    parser.add_argument("settings", nargs="*", help="further overrides of conf/train.yaml, e.g. module.compile=true")
    args = parser.parse_args()

    backbone = write_backbone(args.shape, args.folder / args.shape)
    text = write_text(args.lengths, args.folder / "text.jsonl")
    name = torch.cuda.get_device_name() if args.accelerator == "gpu" else "CPU"
    print(
        f"{name}, torch {torch.__version__}, {args.shape}, {args.lengths} tokens a batch and rank, ratio {args.ratio}"
    )
    rows = {}
    for strategy in args.strategies:
        devices = 1 if strategy == SINGLE else args.devices
        rows[strategy, devices] = run(strategy, devices, backbone, text, args)
        print(strategy, devices, json.dumps(rows[strategy, devices]), flush=True)
    Console(width=160).print(table(rows))


def run(strategy: str, devices: int, backbone: Path, text: Path, args: argparse.Namespace) -> dict[str, float]:
    """Measure one training run; print the reason and return {} if it fails."""
    folder = args.folder / f"{strategy}-{devices}"
    reports = folder / "reports"
    nodes = args.nodes if devices > 1 else 1
    command = [
        "train.py", f"trainer={strategy}", f"trainer.accelerator={args.accelerator}",
        f"trainer.devices={devices // nodes}", f"trainer.num_nodes={nodes}",
        f"trainer.max_steps={args.steps}", "model=qwen2", f"model.path={backbone}", f"ratio=[{args.ratio}]",
        f"beacon.window={args.window}", "beacon.overlap=0", "beacon.sink=0", "data=text", f"data.train=[{text}]",
        f"data.max_length={max(args.lengths)}", "data.validation=[]", "data.min_length=1",
        f"data.cache={folder}/tokens",
        "logger=csv", "callbacks=[]", "+callbacks.report._target_=benchmarks.distributed.report.Report",
        f"+callbacks.report.folder={reports}", f"run_folder={folder}", f"hydra.run.dir={folder}", *args.settings,
    ]  # fmt: skip
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"}
    for old in reports.glob("*.json"):
        old.unlink()
    try:
        done = torchrun(command, nodes, devices // nodes, ROOT, environment, args.timeout)
    except subprocess.TimeoutExpired as error:
        print(f"{strategy}: not finished after {args.timeout} s\n{(error.stderr or b'').decode()[-2000:]}")
        return {}
    found = [json.loads(file.read_text()) for file in sorted(reports.glob("*.json"))]
    if any(node.returncode for node in done) or len(found) != devices:
        for node in done:
            print(f"{strategy}: exit {node.returncode}\n{node.stdout[-2000:]}\n{node.stderr[-4000:]}")
        return {}
    seconds = sorted(max(step) for step in zip(*(report["seconds"] for report in found), strict=True))
    tokens = sum(sum(report["tokens"]) for report in found)
    return {
        "s/step": seconds[len(seconds) // 2],
        "slowest": seconds[-1],
        "tokens/s": tokens / sum(seconds),
        **{name: max(report[name] for report in found) for name in ("GiB", *COLUMNS[-3:])},
    }


def table(rows: dict[tuple[str, int], dict[str, float]]) -> Table:
    """Make a table of the strategies; memory and loading are those of the rank with the most."""
    single = next((row.get("tokens/s") for (strategy, _), row in rows.items() if strategy == SINGLE), None)
    shown = Table("strategy", "GPUs", *COLUMNS)
    for (strategy, devices), row in rows.items():
        if single and row:
            row = {**row, "of single x GPUs": row["tokens/s"] / single / devices}
        cells = [
            f"{row[name]:,.3f}" if name in row and row[name] < 100 else f"{row.get(name, float('nan')):,.0f}"
            for name in COLUMNS
        ]
        shown.add_row(strategy, str(devices), *cells)
    return shown


if __name__ == "__main__":
    main()
