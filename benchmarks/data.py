"""Measure tokens per second of the data stage, compared with plain `datasets` and the tokenizer.

    python -m benchmarks.data books.jsonl.gz
    python -m benchmarks.data books.jsonl.gz --tokenizer Qwen/Qwen2-7B --workers 2

tokenise  From JSON lines to tokens on disk: ours checks records, cuts documents into samples of random lengths, ends
          them with EOS and keeps loss weights; `datasets` maps the tokenizer over the file.
read      From tokens on disk to shuffled batches of up to `--max-tokens` tokens: ours packs samples, pads rows and
          makes ids, labels, mask and weights; `datasets` reads a shuffled data set, one document per batch, with ids
          alone as numpy arrays.
both      From the file to the batches of the first epoch.

Both tokenise with the same number of threads. Each part runs `--repeats` times, alternating between the two; the
fastest run counts.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import disable_caching, disable_progress_bars, load_dataset
from transformers import AutoTokenizer

from beacon_lit.datamodule import BeaconDataModule
from beacon_lit.demo import smollm2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="JSON lines with `text`, plain or .gz")
    parser.add_argument("--tokenizer", help="default: SmolLM2's")
    parser.add_argument("--max-tokens", type=int, default=32768)
    parser.add_argument("--max-length", type=int, default=8192)
    parser.add_argument("--workers", type=int, default=0, help="processes that read batches")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    if not args.file.is_file():
        parser.error(f"file={args.file}: no such file")
    disable_caching()
    disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer or smollm2())
    tokenizer.model_max_length = 10**9  # suppresses a warning about long texts
    folder = Path(tempfile.mkdtemp())
    try:
        print(f"{os.cpu_count()} CPU cores, {args.file.name}, {tokenizer.name_or_path}\n")
        print(f"{'part':>10} {'ours, tokens/s':>16} {'datasets, tokens/s':>20} {'ours / datasets':>17}")
        seconds = {"ours": 0.0, "datasets": 0.0}
        for part in (tokenise, read):
            steps = part(args, tokenizer, folder)
            rates: dict[str, float] = {}
            for _ in range(args.repeats):
                for name, step in steps.items():
                    start = time.perf_counter()
                    tokens = step()
                    rates[name] = max(rates.get(name, 0.0), tokens / (time.perf_counter() - start))
            seconds = {name: seconds[name] + 1 / rate for name, rate in rates.items()}
            show(part.__name__, rates)
        show("both", {name: 1 / value for name, value in seconds.items()})
    finally:
        shutil.rmtree(folder)


def show(part: str, rates: dict[str, float]) -> None:
    """Print a row of the table."""
    ours, theirs = rates["ours"], rates["datasets"]
    print(f"{part:>10} {ours:16,.0f} {theirs:20,.0f} {ours / theirs:17.2f}", flush=True)


def tokenise(args: argparse.Namespace, tokenizer: Any, folder: Path) -> dict[str, Callable[[], int]]:
    """Return both ways from the file to tokens on disk."""

    def ours() -> int:
        shutil.rmtree(folder / "ours", ignore_errors=True)
        return sum(int(part.sum()) for part in data_module(args, tokenizer, folder).train_samples.lengths)

    def theirs() -> int:
        shutil.rmtree(folder / "theirs", ignore_errors=True)
        saved = plain(args, tokenizer, folder)
        saved.save_to_disk(str(folder / "theirs"))
        return sum(saved["length"])

    return {"ours": ours, "datasets": theirs}


def read(args: argparse.Namespace, tokenizer: Any, folder: Path) -> dict[str, Callable[[], int]]:
    """Return both ways from tokens on disk to batches."""
    data, other = data_module(args, tokenizer, folder), plain(args, tokenizer, folder)
    order = data.train_dataloader()

    def ours() -> int:
        return sum(int(batch["attention_mask"].sum()) for batch in order)

    def theirs() -> int:
        return sum(len(row["input_ids"]) for row in other.shuffle(seed=0).with_format("numpy"))

    return {"ours": ours, "datasets": theirs}


def data_module(args: argparse.Namespace, tokenizer: Any, folder: Path) -> BeaconDataModule:
    """Make our data module over the file."""
    return BeaconDataModule(
        tokenizer, [str(args.file)], [], window=1024, min_length=1025, max_length=args.max_length,
        max_tokens=args.max_tokens, num_workers=args.workers, cache=folder / "ours",
    )  # fmt: skip


def plain(args: argparse.Namespace, tokenizer: Any, folder: Path) -> Any:
    """Map the tokenizer over the file with `datasets`."""

    def encode(batch: dict[str, list]) -> dict[str, list]:
        ids = tokenizer(batch["text"])["input_ids"]
        return {"input_ids": ids, "length": [len(row) for row in ids]}

    rows = load_dataset("json", data_files=str(args.file), split="train", cache_dir=str(folder / "json"))
    return rows.map(encode, batched=True, batch_size=256, remove_columns=rows.column_names)


if __name__ == "__main__":
    main()
