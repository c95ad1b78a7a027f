"""What a finished run leaves: its last checkpoint, and what it has trained, to be used."""

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from beacon_lit.arch.checkpoint import is_backbone


class SaveAtEnd(Callback):
    """Write `checkpoints/last.ckpt` and `beacons/` after the last step.

    The latter holds the beacons, with the backbone's adapter if it has one, or the whole model and its tokenizer if the
    backbone was trained, too.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """While parameters are still where the strategy has them."""
        trainer.save_checkpoint(self.folder / "checkpoints" / "last.ckpt", weights_only=False)
        lm: Any = pl_module.lm
        beacon_only = not any(is_backbone(name) for name, value in lm.named_parameters() if value.requires_grad)
        write, folder = trainer.is_global_zero, self.folder / "beacons"
        lm.save_pretrained(folder, beacon_only=beacon_only, is_main_process=write)
        if write and not beacon_only:
            pl_module.tokenizer.save_pretrained(folder)  # type: ignore[operator, union-attr]
