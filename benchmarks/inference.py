"""Measure reading and decoding with beacons and with the dense backbone on the same weights, in one process.

    python -m benchmarks.inference --figure docs/images/inference.png    # everything; sized for 9 minutes on an H100
    python -m benchmarks.inference --parts read                          # the same in two commands
    python -m benchmarks.inference --parts decode batch
    python -m benchmarks.inference --shapes 7B --parts decode --lengths 65536 131072 --ratio 4 --compile
    python -m benchmarks.inference --shapes 7B --parts decode --compile --quantize int8    # the backbone of all models
    python -m benchmarks.inference --placement interleave                # inserted beacons, in place of selected tokens
    python -m benchmarks.inference --placement interleave --unfinished beacons    # which run as tokens come
    python -m benchmarks.inference --shapes tiny                         # seconds on a CPU

read    Read a text once: beacons with `compress`, the dense backbone in one forward with a `DynamicCache`. Median of 3;
        measurements longer than 2 seconds are not repeated.
decode  Continue one row after a text with `generate`, timed from token to token: 50 steps up to the border of a window,
        where beacons that have not run read that window once more, and 50 steps after it. "border" is the slowest step
        around the border, "worst" the slowest of all steps but the first, which includes set-up. "one window read" is
        the time to read one further window after the text. "weights alone" is the time to read the weights at the
        device's copy rate.
batch   Decode many rows at once, which continue one text that is read once: 10 steps up to the border and 10 after it.
        All rows reach the border together, which is the worst case of memory. Batches are doubled until memory runs
        out, then bisected.

"dense, static" is the backbone by our own machinery with nothing compressed: the text is read in the same windows,
and a step of decoding runs in a CUDA graph over static buffers and reads each key and value once (FlashDecoding in
Triton). "dense" is transformers' own, with FlashAttention-2 or torch's kernel, and a cache that grows.

"x floor" is the time over the least that the device allows: for decoding, weights and cache read once at the copy rate
of the device (measured, bytes read and written); for reading, the matrix products of all layers at the peak rate
(2 x weights x tokens, and 4 x layers x heads x head dim x visible pairs).

tokens/s of decoding weighs the border step with its share: one step per window.

Weights are random, in bf16 or quantised: neither speed nor memory depends on their values. Both models have eight times
the shape's positions through YaRN, 262,144. With beacons a text of 1,048,576 tokens stays within them (131,072 slots at
ratio 8). The dense backbone exceeds them: time and memory are still valid, but its text would make no sense. Our
machinery refuses such a text, so that "dense, static" has no row there.

OUT receives read.json, decode.json and batch.json, each rewritten after every row of its table, and inference.png. A
measurement that does not fit the device gives a row "out of memory". Any other failure gives a row as well, the rest
goes on, and the command ends with status 1. To draw the figure again: `python -m benchmarks.figures OUT/read.json
FILE.png`.
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
from beacon_lit.arch.config import UNFINISHED
from beacon_lit.arch.nn.kernels import KERNELS
from benchmarks.decoding import batch, decode
from benchmarks.device import attempt, free
from benchmarks.figures import save
from benchmarks.plan import PLANS, YARN, Plan
from benchmarks.quantizing import METHODS, quantize
from benchmarks.reading import read
from benchmarks.report import Report
from benchmarks.shapes import build

# Reading comes last, as it ends with the longest measurement: the dense backbone at the largest length.
PARTS = {"decode": decode, "batch": batch, "read": read}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for.

    Returns:
        0, or 1 if a measurement failed other than by running out of memory, or time ran out.

    Raises:
        ValueError: a setting out of range.
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
        raise ValueError(f"device={args.device!r} is not allowed: torch finds no CUDA device; allowed: 'cpu'")
    transformers.utils.logging.set_verbosity_error()
    report = Report(args.out, environment(device, args), start, args.minutes * 60)
    with torch.no_grad():
        for shape, plan in plans.items():
            measure_shape(shape, plan, args, device, report)
            free()
    save(report.rows.get("read", []), report.environment["device"], figure)
    print(f"\n{report.elapsed():.0f} s in total; written to {args.out}")
    return 0 if report.complete else 1


def measure_shape(shape: str, plan: Plan, args: argparse.Namespace, device: torch.device, report: Report) -> None:
    """Measure all parts of one shape, until time runs out."""
    if report.late():
        return
    beacon = plan.beacon
    settings = {
        "shape": shape, "placement": plan.placement, "unfinished": plan.unfinished, "window": plan.window,
        "ratio": plan.ratio, "sink": beacon.sink, "overlap": beacon.overlap,
    }  # fmt: skip
    lm, error = attempt(partial(model, shape, plan, args, device))
    for part in plan.lengths:
        report.begin(part, settings)
        rows = [{"model": "both", "error": error}] if lm is None else PARTS[part](lm, plan, device)
        for row in rows:
            report.add(part, {**settings, **row})
            if report.late():
                return


def model(shape: str, plan: Plan, args: argparse.Namespace, device: torch.device) -> BeaconLM:
    """Make a model with random weights in bf16, including the beacons', whose backbone may be quantised."""
    torch.manual_seed(0)
    lm = build(shape, plan.beacon, device, torch.bfloat16, torch.bfloat16, YARN, args.attn).eval()
    if args.quantize is not None:
        quantize(lm, args.quantize)
    if args.compile:
        lm.compile_pointwise()
    return lm


def chosen_plan(shape: str, args: argparse.Namespace) -> Plan:
    """Return the shape's plan with the command line's settings; for errors see `Plan`."""
    own = PLANS[shape]
    lengths = {part: own.lengths[part] if args.lengths is None else args.lengths for part in args.parts}
    names = ("window", "placement", "unfinished", "rows", "most")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return replace(own, lengths={part: some for part, some in lengths.items() if some}, ratio=args.ratio, **given)


def environment(device: torch.device, args: argparse.Namespace) -> dict[str, str | bool]:
    """Describe what the measurements depend on besides the code."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "compiled": args.compile,
        "attn": args.attn,
        "quantized": args.quantize or False,
        "date": date.today().isoformat(),
    }


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["7B", "0.5B"], choices=list(PLANS))
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument(
        "--lengths", nargs="+", type=int, help="tokens of text, for all parts; default: those of plan.py"
    )
    parser.add_argument("--ratio", type=int, default=8)
    parser.add_argument("--window", type=int, help="default: 2048; for the shape tiny 128")
    parser.add_argument("--placement", help="see docs/beacons.md; default: select")
    parser.add_argument("--unfinished", choices=UNFINISHED, help="what open windows hold; default: raw")
    parser.add_argument("--rows", type=int, help="the first batch to try; default: 16; for the shape tiny 2")
    parser.add_argument("--most", type=int, help="the largest batch to try; default: 512; for the shape tiny 4")
    parser.add_argument("--compile", action="store_true", help="fuse pointwise operations, also of the dense model")
    parser.add_argument("--attn", default="auto", choices=["auto", *KERNELS], help="attention kernel")
    parser.add_argument(
        "--quantize", choices=METHODS, help="quantise the backbone, also of the dense model, by torchao"
    )
    found = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=found, choices=["cuda", "cpu"], help=f"default: {found}")
    parser.add_argument("--minutes", type=float, default=6.5, help="start no measurement after this time; default: 6.5")
    parser.add_argument("--out", type=Path, default=Path("outputs/inference"))
    parser.add_argument("--figure", type=Path, help="default: OUT/inference.png")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
