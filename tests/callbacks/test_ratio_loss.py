import copy
import csv

import lightning
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from beacon_lit import BeaconConfig
from beacon_lit.arch import Draw
from beacon_lit.arch.plan.rows import Rows
from beacon_lit.arch.plan.windows import plan
from beacon_lit.callbacks import RatioLossCallback
from beacon_lit.callbacks.ratio_loss import token_groups
from tests.callbacks.models import BEACON, Batches, batch, beacon_module


def curves(folder, callback, module, batches, **options):
    """The rows of metrics.csv that have losses by ratio: (step, {name: value})."""
    logger = CSVLogger(folder, name="csv", version=0)
    trainer = lightning.Trainer(
        accelerator="cpu", max_steps=options.pop("max_steps", len(batches)), logger=logger, callbacks=[callback],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
        default_root_dir=folder, **options,
    )  # fmt: skip
    trainer.fit(module, datamodule=Batches(batches))
    with (folder / "csv" / "version_0" / "metrics.csv").open() as file:
        rows = [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]
    return [(int(row["step"]), row) for row in rows if any("loss_" in name for name in row)]


@torch.no_grad()
def expected(module, batches, first_step=0):
    """{name: mean}, from each token's own loss and a walk through its row, with the same draws."""
    sums: dict[str, list[float]] = {}
    for number, one in enumerate(batches):
        draw = Draw(0, 0, first_step + number)
        module.lm.draw = draw
        out = module.lm(one["input_ids"], one["attention_mask"], labels=one["labels"], return_logits=False)
        for row, length in enumerate(one["attention_mask"].sum(1).tolist()):
            for t in range(1, length):
                window = (t - 1) // BEACON.window  # of the token that predicts it
                ratio = draw.pick(row, window - 1, BEACON.ratios) if window else None
                name = "train/loss_no_memory" if ratio is None else f"train/loss_ratio_{ratio}"
                weight = float(one["weights"][row, t])
                total = sums.setdefault(name, [0.0, 0.0])
                total[0] += weight * float(out.token_loss[row, t])
                total[1] += weight
    return {name: loss / weight for name, (loss, weight) in sums.items() if weight}


def frozen():
    """The optimizer does not move it, so that losses can be computed again afterwards."""
    return beacon_module(lr=0.0)


def test_every_token_counts_under_the_ratio_of_its_nearest_memory(tmp_path):
    module, batches = frozen(), [batch(i) for i in range(4)]
    found = curves(tmp_path, RatioLossCallback(2), module, batches)
    assert [step for step, _ in found] == [2, 4]
    for (_, row), part, first in zip(found, (batches[:2], batches[2:]), (0, 2), strict=True):
        wanted = expected(module, part, first)
        assert set(wanted) == {"train/loss_no_memory", "train/loss_ratio_2", "train/loss_ratio_4"}
        for name, value in wanted.items():
            assert float(row[name]) == pytest.approx(value, rel=1e-5)  # float32 sums in another order


def test_the_other_ratio_would_give_other_numbers(tmp_path):
    module, batches = frozen(), [batch(i) for i in range(2)]
    ((_, row),) = curves(tmp_path, RatioLossCallback(2), module, batches)
    wrong = expected(module, batches, first_step=5)  # another draw
    assert float(row["train/loss_ratio_2"]) != pytest.approx(wrong["train/loss_ratio_2"], rel=1e-5)


def test_accumulated_batches_are_one_step(tmp_path):
    module, batches = frozen(), [batch(i) for i in range(4)]
    found = curves(tmp_path, RatioLossCallback(1), module, batches, max_steps=2, accumulate_grad_batches=2)
    assert [step for step, _ in found] == [1, 2]
    assert float(found[0][1]["train/loss_ratio_4"]) == pytest.approx(
        expected(module, batches[:2])["train/loss_ratio_4"], rel=1e-5
    )


def test_one_ratio_and_no_memory_together_are_the_whole_loss(tmp_path):
    module = beacon_module(BeaconConfig(window=8, ratios=(4,), placement="interleave"))
    ((_, row),) = curves(tmp_path, RatioLossCallback(1), module, [batch(0)])
    assert "train/loss_ratio_2" not in row
    weights = batch(0)["weights"][:, 1:]
    memory = torch.arange(1, 37) > 8  # the first token of a window is predicted from the window before
    share = float(weights[:, memory].sum() / weights.sum())
    parts = share * float(row["train/loss_ratio_4"]) + (1 - share) * float(row["train/loss_no_memory"])
    logged = tmp_path / "csv" / "version_0" / "metrics.csv"
    with logged.open() as file:
        whole = next(float(line["train/loss"]) for line in csv.DictReader(file) if line["train/loss"])
    assert parts == pytest.approx(whole, rel=1e-5)


def test_a_ratio_that_no_token_had_is_left_out(tmp_path):
    ((_, row),) = curves(tmp_path, RatioLossCallback(1), frozen(), [batch(0, (6, 4))])
    assert "train/loss_no_memory" in row and not any("loss_ratio" in name for name in row)


def test_groups_by_hand():
    config = BeaconConfig(window=3, ratios=(1, 3), placement="interleave")
    rows = Rows((0, 2), (8, 6), 8)  # the second row has padding on the left
    planned = plan([8, 6], [[3, 1, 3], [1, 1]], config, "raw")
    assert token_groups(rows, planned, config.ratios).tolist() == [
        [0, 1, 1, 1, 3, 3, 3, 2],
        [0, 0, 0, 1, 1, 1, 2, 2],
    ]


def test_bad_setting_is_named():
    with pytest.raises(ValueError, match="every_n_steps=0 is not allowed; allowed: at least 1"):
        RatioLossCallback(0)


def test_the_callback_can_be_copied_between_steps_and_after_the_run(tmp_path):
    """A batch cannot."""
    copies = []

    class Copying(RatioLossCallback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            copies.append(copy.deepcopy(self))
            with pytest.raises(TypeError, match="mappingproxy"):
                copy.deepcopy(batch)

    callback = Copying(every_n_steps=2)
    curves(tmp_path, callback, beacon_module(BEACON), [batch(0), batch(1)])
    assert len(copies) == 2 and copy.deepcopy(callback).every_n_steps == 2
