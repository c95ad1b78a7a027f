"""Measure answers whose question ends on a window's border, for tiny models with and without an overlap.

    python -m benchmarks.border
    python -m benchmarks.border --overlaps 0 2 8 --seed 1 --out outputs/border-1

The models are trained from scratch on the same rows, with all weights, and tested at every length modulo the window.
"""

import argparse
import json
import multiprocessing
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from beacon_lit import BeaconLM
from beacon_lit.files import check_new
from benchmarks.recall import METHODS, Accuracy, Study, measure, train

Results = Mapping[int, Mapping[str, Accuracy]]  # overlap -> method -> accuracy


def run(study: Study, out: Path, overlap: int) -> dict[str, Accuracy]:
    """Train one model, save it to `out/overlap-N` in half precision, and measure what was saved."""
    torch.set_num_threads(1)  # tiny models gain nothing from more, and every model has a process
    folder = out / f"overlap-{overlap}"
    train(study, overlap).half().save_pretrained(folder, beacon_only=False)
    lm = BeaconLM.from_pretrained(str(folder), dtype=torch.float32).to(study.device)
    return {method: measure(lm, study.task, method, study.shortest, study.samples, study.seed) for method in METHODS}


def table(study: Study, results: Results) -> str:
    """Format the accuracy by length modulo the window; a star marks borders between a question and its answer."""
    parted = study.task.parted(study.window)
    columns = {f"overlap {overlap}, {method}": results[overlap][method] for overlap in results for method in METHODS}
    rows = {
        f"{remainder} {'*' if remainder in parted else ' '}": [curve.complete[remainder] for curve in columns.values()]
        for remainder in range(study.window)
    }
    rows["mean of *"] = [curve.at(parted) for curve in columns.values()]
    rows["mean of the others"] = [curve.besides(parted) for curve in columns.values()]
    lines = [f"{name:>18}" + "".join(f"{value:22.3f}" for value in values) for name, values in rows.items()]
    return "\n".join([f"{'length mod window':>18}" + "".join(f"{name:>22}" for name in columns), *lines])


def figure(study: Study, results: Results) -> Figure:
    """Draw one line per overlap and method over the position where the question ends, with the border in the middle."""
    drawn = Figure(figsize=(8, 4), layout="constrained")
    FigureCanvasAgg(drawn)
    axes = drawn.subplots()
    axes.axvspan(1.5 - study.task.answer, 0.5, color="#eeeeee", zorder=0, label="border between question and answer")
    places = range(-(study.window // 2), study.window - study.window // 2)
    for i, (overlap, curves) in enumerate(results.items()):
        for method, style in zip(METHODS, ("o-", "x--"), strict=True):
            values = [curves[method].complete[place] for place in places]
            axes.plot(places, values, style, color=f"C{i}", markersize=5, label=f"overlap {overlap}, {method}")
    axes.set_ylim(0, 1.03)
    axes.set_xlabel("end of the question, tokens after a window's border")
    axes.set_ylabel(f"share of correct answers ({study.task.answer} tokens)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9)
    return drawn


def prepare(out: Path) -> None:
    """Make the folder; raise a ValueError if something in it would be overwritten."""
    check_new("out", out)
    out.mkdir(parents=True, exist_ok=True)


def main() -> None:
    """Train, measure and print; write `border.json`, `border.png` and a folder for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/border"), help="folder (default: %(default)s)")
    parser.add_argument("--overlaps", type=int, nargs="+", default=Study.overlaps, help="one model each")
    for name in ("steps", "seed", "samples", "ratio", "layers", "hidden"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Study, name), help="default: %(default)s")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = vars(parser.parse_args())
    out = options.pop("out")
    study = Study(**options | {"overlaps": tuple(options["overlaps"])})
    prepare(out)
    with ProcessPoolExecutor(len(study.overlaps), multiprocessing.get_context("spawn")) as pool:
        results = dict(zip(study.overlaps, pool.map(partial(run, study, out), study.overlaps), strict=True))
    print(table(study, results))
    accuracy = {overlap: {method: asdict(curve) for method, curve in each.items()} for overlap, each in results.items()}
    (out / "border.json").write_text(json.dumps({"study": asdict(study), "accuracy": accuracy}, indent=1) + "\n")
    figure(study, results).savefig(out / "border.png", dpi=120)


if __name__ == "__main__":
    main()
