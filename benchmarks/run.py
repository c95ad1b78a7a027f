"""Time train.py itself beside the bare step: what a run gets of what the model can do.

train.py runs as typed, in a process of its own, with all its callbacks and loggers and the waits for data. Its pauses
for evaluation and checkpoints are left out, as in `train/tokens_per_second`; those for validation count. The bare step
then trains on the same batches, which are on the device already: forward, backward and optimizer step, without
Lightning. Of both, the first quarter of the steps warms up.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from lightning import Callback, LightningModule, Trainer
from omegaconf import DictConfig

from beacon_lit.arch import Draw
from beacon_lit.callbacks.stopwatch import Stopwatch
from beacon_lit.callbacks.throughput import WAITS
from beacon_lit.cli.command import conf_folder
from beacon_lit.cli.threads import limit_threads

ROOT = Path(__file__).parents[1]


class Timed(NamedTuple):
    """Tokens without padding, the seconds that they took, and the seconds of these that were spent waiting for data."""

    tokens: int
    seconds: float
    waited: float = 0.0

    @property
    def speed(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds


def report(overrides: Sequence[str]) -> str:
    """Run train.py and the bare step, on one device, and describe the speed of both.

    Args:
        overrides: of train.py, `trainer.max_steps` included.
    """
    with tempfile.TemporaryDirectory() as folder:
        whole = run(overrides, Path(folder))
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            cfg = compose("train", [*overrides, f"run_folder={folder}"])
    limit_threads(cfg)
    bare = Timed(*bare_steps(cfg))
    return (
        f"{'':>10} {'tokens/s':>10} {'waiting for data':>18}\n"
        f"{'train.py':>10} {whole.speed:10,.0f} {whole.waited / whole.seconds:17.1%}\n"
        f"{'bare step':>10} {bare.speed:10,.0f}\n"
        f"{'ratio':>10} {whole.speed / bare.speed:10.2f}"
    )


def run(overrides: Sequence[str], folder: Path) -> Timed:
    """Run train.py with a clock."""
    clock = [f"+callbacks.clock._target_={__name__}.Clock", f"+callbacks.clock.file={folder}/timed.json"]
    line = [sys.executable, ROOT / "train.py", *overrides, *clock, f"hydra.run.dir={folder}", f"run_folder={folder}"]
    subprocess.run(line, check=True)
    return Timed(*json.loads((folder / "timed.json").read_text()))


class Clock(Callback):
    """Times the steps of training behind the first quarter, without pauses, and writes them to `file`."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)
        self.tokens = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Watch the waits for data, and the pauses."""
        self.watch = trainer.profiler = Stopwatch(trainer.profiler, WAITS)  # type: ignore[attr-defined]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Count the tokens of a batch."""
        self.tokens += int(batch["attention_mask"].sum())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Start the clock, and stop it in the end."""
        steps = trainer.fit_loop.epoch_loop.batch_progress.total.completed + 1  # batches
        if steps == warm_up(_batches(trainer)):
            synchronize(pl_module.device)
            self.tokens = 0
            self.watch.seconds.clear()
            self.start = perf_counter()
        if steps == _batches(trainer):
            synchronize(pl_module.device)
            seconds = perf_counter() - self.start - self.watch.seconds["pause"]
            self.file.write_text(json.dumps(Timed(self.tokens, seconds, self.watch.seconds["data"])))


def _batches(trainer: Trainer) -> int:
    return trainer.max_steps * trainer.accumulate_grad_batches


def bare_steps(cfg: DictConfig) -> tuple[int, float]:
    """Train on the batches of `cfg`, and return the tokens and seconds of those behind the first quarter."""
    tokenizer = instantiate(cfg.model.tokenizer)
    data = instantiate(cfg.data, tokenizer=tokenizer)
    trainer = instantiate(cfg.trainer, callbacks=[], logger=False, enable_progress_bar=False)
    module = instantiate(
        cfg.module, build=lambda shard: instantiate(cfg.model.backbone, shard=shard), tokenizer=data.tokenizer
    )
    module.trainer = trainer
    module.configure_model()
    device = trainer.strategy.root_device
    module.lm.to(device).draw = Draw(cfg.seed, 0, 0)
    optimizer = module.optimizer(module.tuning.groups(module.lm))
    batches = list(islice(_endless(data), _batches(trainer)))
    on_device = [module.transfer_batch_to_device(batch, device, 0) for batch in batches]
    first = warm_up(len(batches))
    context = trainer.precision_plugin.forward_context
    for number, batch in enumerate(on_device):
        if number == first:
            synchronize(device)
            start = perf_counter()
        with context():
            token_loss = module.objective(module.lm, batch, None)[0]
        ((token_loss * batch["weights"]).sum() / batch["step_weight"].float()).backward()
        if (number + 1) % trainer.accumulate_grad_batches == 0:
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, cfg.trainer.gradient_clip_val)
            optimizer.step()
            optimizer.zero_grad()
    synchronize(device)
    seconds = perf_counter() - start
    return sum(int(batch["attention_mask"].sum()) for batch in batches[first:]), seconds


def _endless(data: Any) -> Iterator[dict[str, Any]]:
    while True:
        yield from data.train_dataloader()


def warm_up(batches: int) -> int:
    """Return how many batches are not timed."""
    return max(1, batches // 4)


def synchronize(device: torch.device) -> None:
    """Wait for the work on a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
