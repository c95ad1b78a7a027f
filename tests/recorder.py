"""A callback that notes which samples a run trains on."""

import json
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer


class Recorder(Callback):
    """Writes the samples of every batch as a line of JSON to `folder`/rank-R.jsonl; raises in batch `fail_at`."""

    def __init__(self, folder: str, fail_at: int | None = None) -> None:
        self.folder, self.fail_at = Path(folder), fail_at

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.fail_at:
            raise RuntimeError("pulled the plug")
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"rank-{trainer.global_rank}.jsonl").open("a") as out:
            out.write(json.dumps(batch["index"]) + "\n")


def recorded(folder: Path, rank: int = 0) -> list[list[str]]:
    """What a rank trained on, batch by batch."""
    return [json.loads(line) for line in (folder / f"rank-{rank}.jsonl").read_text().splitlines()]
