"""A run's settings in its loggers: all of them as text, those that matter as hyperparameters."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from omegaconf import OmegaConf
from torch.utils.tensorboard.summary import hparams

from beacon_lit.loggers import log_text
from beacon_lit.record import flat_settings

_HYDRA = ("_target_", "_partial_", "_convert_")  # how a setting is made, not what it is


class SettingsCallback(Callback):
    """Log what `config.yaml` in the run's folder says when training starts.

    The whole file is shown as text. The chosen settings are the hyperparameters of every logger; TensorBoard's page of
    them shows those first in which runs differ, beside the newest value of every scalar.

    Args:
        folder: the run's folder.
        hyperparameters: settings such as "optimizer.lr", or groups of them such as "beacon"; what a run does not have
            is left out.

    Raises:
        ValueError: when training starts, there is no `config.yaml`.
    """

    def __init__(self, folder: str | Path, hyperparameters: Sequence[str]) -> None:
        self.file = Path(folder) / "config.yaml"
        self.hyperparameters = tuple(hyperparameters)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Once a run."""
        if not (trainer.is_global_zero and trainer.loggers):
            return
        if not self.file.is_file():
            raise ValueError(f"folder={str(self.file.parent)!r} has no config.yaml; allowed: the run's folder")
        text = self.file.read_text()
        chosen = choose(OmegaConf.to_container(OmegaConf.create(text)), self.hyperparameters)
        for logger in trainer.loggers:
            log_text(logger, "config", f"```yaml\n{text}```", trainer.global_step)
            logger.log_hyperparams(chosen)
            _hparams_page(logger, chosen)


def choose(config: Any, names: Sequence[str]) -> dict[str, Any]:
    """Those settings of a nested dict that are, or are below, one of `names`; by dotted name, lists as text."""
    flat = flat_settings(config)
    return {
        setting: _shown(value)
        for name in names
        for setting, value in flat.items()
        if (setting == name or setting.startswith(f"{name}.")) and not setting.endswith(_HYDRA) and value != {}
    }


def _shown(value: Any) -> Any:
    if value is None or isinstance(value, list):
        return ", ".join(map(str, value)) if value else "none"
    return value


def _hparams_page(logger: Logger, chosen: dict[str, Any]) -> None:
    """Leave out the list of columns that torch writes, too: without it TensorBoard finds them in all runs by itself."""
    if isinstance(logger, TensorBoardLogger):
        _, start, end = hparams(chosen, {})
        for summary in (start, end):
            logger.experiment._get_file_writer().add_summary(summary)
