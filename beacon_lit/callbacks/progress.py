"""Show how training goes on a progress bar."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

SHOWN = {  # the bar's name of a logged metric, and its unit
    "loss": ("train/loss", 1),
    "ktok/s": ("train/tokens_per_second", 1000),
    "mfu": ("train/mfu", 1),
    "GiB": ("train/peak_memory_gib", 1),
}


class ProgressBar(TQDMProgressBar):
    """Lightning's progress bar with the loss and the main figures of `ThroughputCallback`.

    The figures are read when the bar is drawn, every `refresh_rate` batches. What a module logs with `prog_bar=True`
    Lightning reads from the GPU in every step, which makes the host wait for the whole step.
    """

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return what is shown, by name."""
        logged = trainer.callback_metrics
        own = {name: float(logged[metric]) / unit for name, (metric, unit) in SHOWN.items() if metric in logged}
        return {**super().get_metrics(trainer, pl_module), **own}
