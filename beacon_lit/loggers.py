"""Write metrics, text and figures to all loggers of a run in the same way."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from lightning import Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def log_metrics(trainer: Trainer, values: Mapping[str, float]) -> None:
    """Log metrics at the current step and make them available to every callback. All ranks call with the same values.

    `LightningModule.log` works in a few hooks only, and cannot log values known before training starts.
    """
    for logger in trainer.loggers:
        logger.log_metrics(dict(values), step=trainer.global_step)
    trainer.callback_metrics.update({name: torch.tensor(float(value)) for name, value in values.items()})


def log_text(logger: Logger, name: str, markdown: str, step: int) -> None:
    """Log Markdown text; loggers that cannot log text are skipped."""
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_text(name, markdown, step)
    elif isinstance(logger, WandbLogger):
        logger.log_text(name, columns=["text"], data=[[markdown]], step=step)


def log_figure(logger: Logger, name: str, figure: "Figure", step: int) -> None:
    """Log a figure; loggers that cannot log images are skipped."""
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_figure(name, figure, step)
    elif isinstance(logger, WandbLogger):
        logger.log_image(name, [figure], step=step)


def wandb_logger(**settings: Any) -> WandbLogger:
    """Return a logger to Weights & Biases, and finish the record of an earlier run of this process.

    Args:
        settings: arguments of `WandbLogger`.

    Raises:
        ValueError: the package wandb is not installed.
    """
    if find_spec("wandb") is None:
        raise ValueError("logger=wandb needs the package wandb: pip install 'beacon_lit[wandb]'")
    import wandb

    wandb.finish()
    return WandbLogger(**settings)
