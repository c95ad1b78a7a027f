"""Two processes that see different data: what they decide together, and what they log together."""

import csv

import lightning
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from beacon_lit.callbacks import NanGuard, RatioLossCallback, SpikeSkip, ThroughputCallback
from tests.callbacks.models import BEACON, Batches, batch, beacon_module

LONG, SHORT = (37, 30), (6, 5)  # several windows, and none that is condensed


def fit(folder, callbacks, batches, module=None):
    """Rank 0 gets the batches of even numbers, rank 1 the others. Returns the rows of metrics.csv."""
    trainer = lightning.Trainer(
        accelerator="cpu", devices=2, strategy="ddp_fork", max_epochs=1, callbacks=callbacks, log_every_n_steps=1,
        logger=CSVLogger(folder, name="csv", version=0), enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module or beacon_module(), datamodule=Batches(batches))
    with (folder / "csv" / "version_0" / "metrics.csv").open() as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def test_losses_by_ratio_and_throughput_are_of_all_ranks(tmp_path):
    """Rank 1 never has a token of any ratio; both ranks' tokens count."""
    batches = [batch(0, LONG), batch(1, SHORT), batch(2, LONG), batch(3, SHORT)]
    callbacks = [RatioLossCallback(1), ThroughputCallback(2, peak_tflops=1.0)]
    rows = fit(tmp_path, callbacks, batches, beacon_module(lr=0.0))
    losses = [row for row in rows if "train/loss_no_memory" in row]
    assert [row["step"] for row in losses] == [1, 2]
    assert all("train/loss_ratio_2" in row or "train/loss_ratio_4" in row for row in losses)
    lm = beacon_module().lm
    total = weight = 0.0
    with torch.no_grad():
        for one in batches[:2]:
            out = lm(one["input_ids"], one["attention_mask"], labels=one["labels"], ratios=2)
            first = slice(1, BEACON.window + 1)
            total += float((out.token_loss * one["weights"])[:, first].sum())
            weight += float(one["weights"][:, first].sum())
    assert losses[0]["train/loss_no_memory"] == pytest.approx(total / weight, rel=1e-5)
    (speed,) = [row for row in rows if "train/mfu" in row]
    assert speed["train/mfu"] == pytest.approx(speed["train/tflops_per_device"])
    assert speed["train/tokens_per_second"] > 0 and 0 <= speed["train/data_wait"] <= 1


class Poisoned(type(beacon_module())):
    """The loss of one batch is changed."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return self.change(loss) if batch["index"][0].startswith(f"{self.number}-") else loss


def poisoned(number, change):
    module = beacon_module()
    module.__class__, module.number, module.change = Poisoned, number, change
    return module


def test_a_loss_that_is_no_number_on_one_rank_stops_both(tmp_path):
    batches = [batch(i, LONG) for i in range(4)]
    with pytest.raises(Exception, match="loss is nan on rank 1 in training step 2"):
        fit(tmp_path, [NanGuard(tmp_path)], batches, poisoned(3, lambda loss: loss * float("nan")))
    (saved,) = tmp_path.glob("not-finite-*")
    assert saved.name == "not-finite-step-2-rank-1.pt"
    assert torch.load(saved)["index"] == ["3-0", "3-1"]


def test_a_spike_on_one_rank_skips_the_step_on_both(tmp_path):
    batches = [batch(i, LONG) for i in range(12)]
    module = poisoned(9, lambda loss: loss + 50)  # the gradients, which ranks share, are as usual
    rows = fit(tmp_path, [SpikeSkip(sigma=6.0, window=6), Same()], batches, module)
    skipped = [row["train/skipped_steps"] for row in rows if "train/skipped_steps" in row]
    assert skipped == [0, 0, 0, 0, 1, 1]  # the fifth step is batches 8 and 9


class Same(lightning.Callback):
    """Ranks have the same weights after every step."""

    def on_train_batch_end(self, trainer, pl_module, *args):
        weights = torch.cat([parameter.detach().flatten() for parameter in pl_module.lm.beacon_parameters()])
        both = trainer.strategy.all_gather(weights)
        assert torch.equal(both[0], both[1])
