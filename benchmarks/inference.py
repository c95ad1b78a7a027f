"""Reading and decoding, beacons beside the dense backbone on the same weights, in one process.

    python -m benchmarks.inference --figure docs/images/inference.png    # all; sized for 9 minutes on an H100
    python -m benchmarks.inference --parts read                          # the same in two commands
    python -m benchmarks.inference --parts decode batch
    python -m benchmarks.inference --shapes 7B --parts decode --lengths 65536 131072 --ratio 4 --compile
    python -m benchmarks.inference --shapes tiny                         # seconds on a CPU

read    A text is read once: beacons with `compress`, the dense backbone in one forward with a `DynamicCache`. Median of
        3; what takes longer than 2 seconds is measured once.
decode  One row goes on from a text through `generate`, timed from token to token: 50 steps to the border of a window,
        at which beacons read that window once more, and 50 beyond it. "border" is the slowest step around it, "worst"
        the slowest of all but the first, which sets up what the others use. "one window read" is what reading goes on
        at after the text, a window of it. "weights alone" is what no step can beat: bytes of the weights over the rate
        at which this device copies.
batch   As decode, many rows at once, 10 steps to the border and 10 beyond it. All rows reach it together: the most
        memory that they can need. Batches are doubled until memory runs out, then halved in between.

tokens/s of decoding counts the median step, and the border's with its share: one step in a window.

Random weights in bf16: neither speed nor memory depends on what they say. Both models have eight times the shape's
positions through YaRN, 262,144. With beacons a text of 1,048,576 tokens stays below that (131,072 slots at ratio 8).
The dense backbone goes beyond it: time and memory are what they would be, its text would make no sense.

OUT gets read.json, decode.json and batch.json, each written anew after every row of its table, and inference.png. What
does not fit the device is a row, "out of memory"; any other failure is one too, the rest goes on, and the command ends
with status 1. `python -m benchmarks.figures OUT/read.json FILE.png` draws the figure again.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path

import torch
import transformers

from beacon_lit import BeaconLM
from benchmarks.decoding import batch, decode
from benchmarks.device import attempt, free
from benchmarks.figures import save
from benchmarks.plan import PLANS, YARN, Plan
from benchmarks.reading import read
from benchmarks.report import Report
from benchmarks.shapes import build

# Reading comes last: it ends with what takes longest, the dense backbone at the largest length.
PARTS = {"decode": decode, "batch": batch, "read": read}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for.

    Returns:
        0; or 1 if something failed otherwise than for memory, or time ran out.

    Raises:
        ValueError: a setting that is not allowed.
    """
    start = time.perf_counter()
    args = parse(argv)
    plans = {shape: chosen_plan(shape, args) for shape in args.shapes}
    figure = args.figure or args.out / "inference.png"
    if figure.suffix != ".png":
        raise ValueError(f"figure={str(figure)!r} is not allowed; allowed: a name that ends in .png")
    if not args.minutes > 0:
        raise ValueError(f"minutes={args.minutes} is not allowed; allowed: more than 0")
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={args.device!r} is not allowed, torch finds no CUDA device; allowed: 'cpu'")
    transformers.utils.logging.set_verbosity_error()
    report = Report(args.out, environment(device, args.compile), start, args.minutes * 60)
    with torch.no_grad():
        for shape, plan in plans.items():
            measure_shape(shape, plan, args.compile, device, report)
            free()
    save(report.rows.get("read", []), report.environment["device"], figure)
    print(f"\n{report.elapsed():.0f} s in all; written to {args.out}")
    return 0 if report.complete else 1


def measure_shape(shape: str, plan: Plan, compiled: bool, device: torch.device, report: Report) -> None:
    """All parts of one shape, until time runs out."""
    if report.late():
        return
    beacon = plan.beacon
    settings = {
        "shape": shape, "window": plan.window, "ratio": plan.ratio, "sink": beacon.sink, "overlap": beacon.overlap,
    }  # fmt: skip
    lm, error = attempt(partial(model, shape, plan, compiled, device))
    for part in plan.lengths:
        report.begin(part, settings)
        rows = [{"model": "both", "error": error}] if lm is None else PARTS[part](lm, plan, device)
        for row in rows:
            report.add(part, {**settings, **row})
            if report.late():
                return


def model(shape: str, plan: Plan, compiled: bool, device: torch.device) -> BeaconLM:
    """A model to measure: random weights in bf16, those of the beacons too."""
    torch.manual_seed(0)
    lm = build(shape, plan.beacon, device, torch.bfloat16, torch.bfloat16, YARN).eval()
    if compiled:
        lm.compile_pointwise()
    return lm


def chosen_plan(shape: str, args: argparse.Namespace) -> Plan:
    """The shape's plan with the command line's settings; its errors are those of `Plan`."""
    own = PLANS[shape]
    lengths = {part: own.lengths[part] if args.lengths is None else args.lengths for part in args.parts}
    given = {name: getattr(args, name) for name in ("window", "rows", "most") if getattr(args, name) is not None}
    return replace(own, lengths={part: some for part, some in lengths.items() if some}, ratio=args.ratio, **given)


def environment(device: torch.device, compiled: bool) -> dict[str, str | bool]:
    """What the measurements depend on besides the code."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "compiled": compiled,
        "date": date.today().isoformat(),
    }


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["7B", "0.5B"], choices=list(PLANS))
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument(
        "--lengths", nargs="+", type=int, help="tokens of text, for all parts; default: those of plan.py"
    )
    parser.add_argument("--ratio", type=int, default=8)
    parser.add_argument("--window", type=int, help="default: 2048, of the shape tiny 128")
    parser.add_argument("--rows", type=int, help="the first batch that is tried; default: 16, of the shape tiny 2")
    parser.add_argument("--most", type=int, help="the largest batch that is tried; default: 512, of the shape tiny 4")
    parser.add_argument("--compile", action="store_true", help="fuse pointwise operations, of the dense model too")
    found = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=found, choices=["cuda", "cpu"], help=f"default: {found}")
    parser.add_argument("--minutes", type=float, default=6.5, help="begin no measurement after so long; default: 6.5")
    parser.add_argument("--out", type=Path, default=Path("outputs/inference"))
    parser.add_argument("--figure", type=Path, help="default: OUT/inference.png")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
