"""The best checkpoint by any metric that is logged, through the real configs."""

import csv

import pytest
import torch
from lightning import Callback

from beacon_lit.callbacks import BestCheckpoint, best_checkpoint
from beacon_lit.cli import resolvers
from beacon_lit.cli.train import train
from beacon_lit.loggers import log_metrics
from tests.callbacks.tiny import fit
from tests.configs import composed, small_run

resolvers.register()


def best(inputs, folder, monitor, *overrides):
    """The step of the best checkpoint of a run of six steps, and the metric's curve by step."""
    overrides = ["callbacks=[default,best]", f"callbacks.best.monitor={monitor}", "trainer.max_steps=6", *overrides]
    train(composed("train", *small_run(*inputs, folder), "logger=csv", "optimizer.lr=0.1", *overrides))
    with (folder / "csv" / "metrics.csv").open() as file:
        curve = {int(row["step"]): float(row[monitor]) for row in csv.DictReader(file) if row.get(monitor)}
    (file,) = (folder / "checkpoints").glob("best-*.ckpt")
    assert (folder / "checkpoints" / "last.ckpt").is_file()
    return torch.load(file, weights_only=True)["global_step"], curve


@pytest.mark.parametrize(
    ("monitor", "mode"), [("eval/perplexity/ratio_4", "min"), ("more_eval/perplexity/ratio_2/window_1", "max")]
)
def test_by_an_evaluation_on_the_way(inputs, tmp_path, monitor, mode):
    step, curve = best(inputs, tmp_path, monitor, "callbacks.evaluation.every_n_steps=2", f"callbacks.best.mode={mode}")
    del curve[0]  # nothing has been trained
    assert list(curve) == [2, 4, 6]
    assert curve[step] == (min if mode == "min" else max)(curve.values())


def test_by_the_validation_loss_on_the_weights_that_it_was_measured_on(inputs, tmp_path):
    validate = ["trainer.val_check_interval=2", "trainer.limit_val_batches=2", "~callbacks.evaluation"]
    step, curve = best(inputs, tmp_path, "val/loss", *validate)
    assert len(curve) == 3
    logged = sorted(curve, key=lambda at: curve[at])[0]
    assert step in (2, 4, 6) and step == logged + 1  # Lightning counts logged steps from 0


def test_by_the_training_loss_now_and_then(inputs, tmp_path):
    step, curve = best(inputs, tmp_path, "train/loss", "~callbacks.evaluation", "callbacks.best.every_n_train_steps=3")
    looked = {at + 1: value for at, value in curve.items() if (at + 1) % 3 == 0}
    assert curve and step == min(looked, key=lambda at: looked[at])


@pytest.mark.parametrize(
    ("monitor", "message"),
    [
        ("eval/perplexity/ratio8", r"monitor='eval/perplexity/ratio8' is not measured; allowed: .*ratio_4.*train/loss"),
        ("train/los", "monitor='train/los' is not measured; allowed: .*train/loss"),
        ("val/loss", "monitor='val/loss' is not measured: validation is off"),
    ],
)
def test_a_metric_that_is_not_measured_is_an_error(inputs, tmp_path, monitor, message):
    with pytest.raises(ValueError, match=message):
        best(inputs, tmp_path, monitor)


def test_a_monitor_has_to_be_given(inputs, tmp_path):
    with pytest.raises(Exception, match="monitor"):
        train(composed("train", *small_run(*inputs, tmp_path), "callbacks=[default,best]"))


class Scores(Callback):
    """Measures "eval/score" at every other step, and leaves it as it is in between."""

    every_n_steps = 2

    def __init__(self, scores):
        self.scores = scores

    def on_train_batch_end(self, trainer, pl_module, *args):
        if trainer.global_step % 2 == 0:
            log_metrics(trainer, {"eval/score": self.scores[trainer.global_step // 2 - 1]})


@pytest.mark.parametrize(("mode", "steps"), [("min", {4, 6}), ("max", {2, 6})])
def test_the_best_two_of_three(tmp_path, mode, steps):
    keeper = BestCheckpoint("eval/score", mode, save_top_k=2, dirpath=tmp_path, filename="{step}")
    fit(tmp_path, [Scores([3.0, 1.0, 2.0]), keeper], enable_checkpointing=True)
    found = {torch.load(file, weights_only=True)["global_step"] for file in tmp_path.glob("*.ckpt")}
    assert found == steps


def test_without_the_metric_until_the_end(tmp_path):
    class Slow(Scores):
        every_n_steps = 100

        def on_train_batch_end(self, trainer, pl_module, *args):
            pass

    with pytest.raises(ValueError, match="monitor='eval/score' is not measured"):
        fit(tmp_path, [Slow([]), BestCheckpoint("eval/score", dirpath=tmp_path)], enable_checkpointing=True)


def test_ranks_are_asked_only_for_what_is_new(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(best_checkpoint, "over_ranks", lambda value: asked.append(float(value)) or value)
    fit(tmp_path, [Scores([3.0, 1.0, 2.0]), BestCheckpoint("eval/score", dirpath=tmp_path)], enable_checkpointing=True)
    assert asked == [3.0, 1.0, 2.0]
