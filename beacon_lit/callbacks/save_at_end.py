"""What a finished run leaves: its last checkpoint, and what it has trained, to be used."""

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from beacon_lit.arch.checkpoint import is_beacon


class SaveAtEnd(Callback):
    """Write `checkpoints/last.ckpt` and `beacons/` (with the backbone, if that was trained, too) after the last step.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """While parameters are still where the strategy has them."""
        trainer.save_checkpoint(self.folder / "checkpoints" / "last.ckpt", weights_only=False)
        lm: Any = pl_module.lm
        beacon_only = all(is_beacon(name) for name, value in lm.named_parameters() if value.requires_grad)
        lm.save_pretrained(self.folder / "beacons", beacon_only=beacon_only, is_main_process=trainer.is_global_zero)
