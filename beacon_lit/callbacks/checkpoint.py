"""Training checkpoints that are whole, whenever a run ends."""

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from beacon_lit.callbacks.preemption import Preempted


class Checkpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, which on an exception saves only where that can be done.

    A checkpoint takes all ranks. One that fails alone must not wait for the others: it ends, and so do they.
    """

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save if there is one rank, or all ranks end together."""
        if trainer.world_size == 1 or isinstance(exception, Preempted):
            super().on_exception(trainer, pl_module, exception)
