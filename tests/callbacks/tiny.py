"""A Lightning module and data around the fake model, enough for callbacks."""

from pathlib import Path

import lightning
import torch
from torch.utils.data import DataLoader

from tests.evaluation.fakes import FakeLM, byte_tokenizer


class TinyModule(lightning.LightningModule):
    """The loss is NaN at the step `nan_at` (from 1)."""

    def __init__(self, nan_at: int | None = None) -> None:
        super().__init__()
        self.lm = FakeLM(penalty=1.0)
        self.tokenizer = byte_tokenizer()
        self.nan_at = nan_at

    def training_step(self, batch, batch_idx):
        assert self.lm.training and self.lm.backbone.training
        loss = self.lm.penalty**2 * batch["attention_mask"].sum() / batch["attention_mask"].numel()
        return loss * float("nan") if self.global_step + 1 == self.nan_at else loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.lm.beacon_parameters(), lr=0.1)


class TinyData(lightning.LightningDataModule):
    def train_dataloader(self):
        batches = [
            {
                "input_ids": torch.zeros(1, 10, dtype=torch.int64),
                "attention_mask": torch.tensor([[1] * 8 + [0] * 2]),
                "labels": torch.zeros(1, 10, dtype=torch.int64),
                "index": [f"sample-{i}"],
            }
            for i in range(12)
        ]
        return DataLoader(batches, batch_size=None)

    def validation_documents(self):
        return [("a", list(range(100))), ("b", list(range(100, 160)))]


def fit(folder: Path, callbacks, *, nan_at=None, resume=None, module=None, data=None, **trainer):
    """Train a module, by default the tiny one; returns trainer and module."""
    module = module or TinyModule(nan_at)
    options = dict(accelerator="cpu", max_steps=6, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer = lightning.Trainer(
        default_root_dir=folder,
        callbacks=callbacks,
        enable_model_summary=False,
        log_every_n_steps=1,
        **{**options, **trainer},
    )
    trainer.fit(module, datamodule=data or TinyData(), ckpt_path=resume)
    return trainer, module
