"""What goes to a run's loggers, in the same way to each of them."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from lightning import Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def log_metrics(trainer: Trainer, values: Mapping[str, float]) -> None:
    """Log numbers at the current step, and let every callback see them. Call it on all ranks, with the same values.

    `LightningModule.log` can be called in a few places only, and not with what is known before training starts.
    """
    for logger in trainer.loggers:
        logger.log_metrics(dict(values), step=trainer.global_step)
    trainer.callback_metrics.update({name: torch.tensor(float(value)) for name, value in values.items()})


def log_text(logger: Logger, name: str, markdown: str, step: int) -> None:
    """Show Markdown where the logger shows text; nothing where it shows none."""
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_text(name, markdown, step)
    elif isinstance(logger, WandbLogger):
        logger.log_text(name, columns=["text"], data=[[markdown]], step=step)


def log_figure(logger: Logger, name: str, figure: "Figure", step: int) -> None:
    """Show a figure where the logger shows images; nothing where it shows none."""
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_figure(name, figure, step)
    elif isinstance(logger, WandbLogger):
        logger.log_image(name, [figure], step=step)


def wandb_logger(**settings: Any) -> WandbLogger:
    """A logger to Weights & Biases; settings are `WandbLogger`'s. It ends the record of an earlier run of this process.

    Raises:
        ValueError: the package is not installed.
    """
    if find_spec("wandb") is None:
        raise ValueError("logger=wandb needs the package wandb: pip install 'beacon_lit[wandb]'")
    import wandb

    wandb.finish()
    return WandbLogger(**settings)
