"""Save complete training checkpoints, and the trained weights when a run is done."""

from pathlib import Path
from typing import cast

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from transformers import PreTrainedTokenizerBase

from beacon_lit.arch import BeaconLM
from beacon_lit.arch.checkpoint import is_backbone
from beacon_lit.callbacks.preemption import Preempted


class Checkpoint(ModelCheckpoint):
    """Save as Lightning's ModelCheckpoint does, but after an exception only if every rank takes part.

    Saving needs all ranks. A rank that fails alone must not wait for the others: it exits, which ends them as well.
    """

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save if there is a single rank, or if all ranks end together."""
        if trainer.world_size == 1 or isinstance(exception, Preempted):
            super().on_exception(trainer, pl_module, exception)


class SaveAtEnd(Callback):
    """Write `checkpoints/last.ckpt` and `beacons/` after the last step.

    `beacons/` holds the beacons, and the backbone's adapter if there is one; or, if the backbone was trained as well,
    the whole model. Beside them is the tokenizer of the training data, with its chat template.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save while the strategy still holds the parameters."""
        trainer.save_checkpoint(self.folder / "checkpoints" / "last.ckpt", weights_only=False)
        lm = cast(BeaconLM, pl_module.lm)
        beacon_only = not any(is_backbone(name) for name, value in lm.named_parameters() if value.requires_grad)
        write, folder = trainer.is_global_zero, self.folder / "beacons"
        if write:  # before the model, which puts the backbone's tokenizer into a folder without one
            cast(PreTrainedTokenizerBase, pl_module.tokenizer).save_pretrained(folder)
        lm.save_pretrained(folder, beacon_only=beacon_only, is_main_process=write)
