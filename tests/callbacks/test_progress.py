"""The progress bar shows the newest figures, and reads them from the device only when it is drawn."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.trainer.connectors.logger_connector import result

from beacon_lit.callbacks import ProgressBar, ThroughputCallback
from beacon_lit.cli import resolvers
from beacon_lit.cli.train import train
from tests.callbacks.tiny import TinyModule, fit
from tests.configs import composed, small_run

resolvers.register()


class Logging(TinyModule):
    """Logs a loss that tells the step."""

    def __init__(self, prog_bar: bool = False) -> None:
        super().__init__()
        self.prog_bar = prog_bar

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        self.log("train/loss", torch.tensor(100.0 + batch_idx), prog_bar=self.prog_bar)
        return super().training_step(batch, batch_idx)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What Lightning reads for a progress bar."""
    found: list[object] = []
    monkeypatch.setattr(result, "convert_tensors_to_scalars", lambda value: found.append(value) or float(value))
    return found


def test_figures(tmp_path: Path, reads: list[object], capsys: pytest.CaptureFixture) -> None:
    callbacks = [ThroughputCallback(1, peak_tflops=1.0), ProgressBar(refresh_rate=2)]
    fit(tmp_path, callbacks, module=Logging(), enable_progress_bar=True)
    shown = capsys.readouterr().out
    assert {float(loss) for loss in re.findall(r"loss=(\d+\.\d+)", shown)} == {101.0, 103.0, 105.0}
    assert re.search(r"6/6 .* loss=105\.0, ktok/s=\d[\d.e+-]*, mfu=0[\d.]*, GiB=\d[\d.]*\]", shown)
    assert not reads


def test_what_a_module_logs_for_the_bar_is_read_in_every_step(tmp_path: Path, reads: list[object]) -> None:
    fit(tmp_path, [ProgressBar(refresh_rate=2)], module=Logging(prog_bar=True), enable_progress_bar=True)
    assert len(reads) >= 6


class Strict(Callback):
    """Makes waiting for the GPU an error in some steps, counted from 1."""

    def __init__(self, steps: Sequence[int]) -> None:
        self.steps = steps

    def on_train_batch_start(self, trainer: Trainer, *args: object) -> None:
        """Go over to the next step."""
        torch.cuda.set_sync_debug_mode("error" if trainer.global_step + 1 in self.steps else "default")


@pytest.mark.gpu
@pytest.mark.parametrize("beacon", ["default", "select"])
def test_the_host_waits_for_the_gpu_in_steps_that_log_or_draw_alone(
    inputs: tuple[Path, Path], tmp_path: Path, beacon: str
) -> None:
    def run(steps: str) -> None:
        seldom = [f"callbacks.{name}.every_n_steps=8" for name in ("throughput", "ratio_loss")]
        seldom += ["trainer.log_every_n_steps=8", "callbacks.progress.refresh_rate=8", "trainer.max_steps=9"]
        strict = f"+callbacks.strict={{_target_: {__name__}.Strict, steps: {steps}}}"
        overrides = [f"beacon={beacon}", *small_run(*inputs, tmp_path), "trainer=gpu", "callbacks.evaluation=null"]
        train(composed("train", *overrides, "objective=distill", *seldom, strict))

    try:
        run("[4, 5, 6]")
        with pytest.raises(RuntimeError, match="synchronizing"):
            run("[8]")
    finally:
        torch.cuda.set_sync_debug_mode("default")
