"""Log what a run trains on: the first samples with their loss weights, and the statistics of the mixture."""

from lightning import Callback, LightningModule, Trainer

from beacon_lit.data.checks import check_int
from beacon_lit.data.show import markdown
from beacon_lit.data.statistics import markdown_table
from beacon_lit.loggers import log_text


class SamplesCallback(Callback):
    """Log samples and statistics as text when training starts.

    Args:
        count: number of samples to show, the first in training order.

    Raises:
        ValueError: `count` below 0.
    """

    def __init__(self, count: int = 3) -> None:
        check_int("count", count, 0)
        self.count = count

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log once per run."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not (trainer.is_global_zero and trainer.loggers and hasattr(data, "first_samples")):
            return
        samples = [markdown(sample, data.tokenizer) for sample in data.first_samples(self.count)]
        texts = {"data/mixture": markdown_table(data.train_statistics())}
        texts |= {f"data/sample_{number}": text for number, text in enumerate(samples)}
        for logger in trainer.loggers:
            for name, text in texts.items():
                log_text(logger, name, text, trainer.global_step)
