"""Log a run's settings: all of them as text, chosen ones as hyperparameters."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from omegaconf import OmegaConf
from torch.utils.tensorboard.summary import hparams

from beacon_lit.loggers import log_text
from beacon_lit.record import flat_settings

_HYDRA = ("_target_", "_partial_", "_convert_")  # keys that say how Hydra makes an object


class SettingsCallback(Callback):
    """Log `config.yaml` of the run's folder when training starts.

    The whole file is logged as text. The chosen settings become the hyperparameters of every logger; TensorBoard's page
    of hyperparameters shows the settings that differ between runs first, beside the newest value of every scalar.

    Args:
        folder: the run's folder.
        hyperparameters: settings such as "optimizer.lr", or groups of settings such as "beacon"; settings that a run
            does not have are left out.

    Raises:
        ValueError: `config.yaml` is missing when training starts.
    """

    def __init__(self, folder: str | Path, hyperparameters: Sequence[str]) -> None:
        self.file = Path(folder) / "config.yaml"
        self.hyperparameters = tuple(hyperparameters)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log once per run."""
        if not (trainer.is_global_zero and trainer.loggers):
            return
        if not self.file.is_file():
            raise ValueError(f"folder={str(self.file.parent)!r} has no config.yaml; allowed: the run's folder")
        text = self.file.read_text()
        config = cast("dict[str, Any]", OmegaConf.to_container(OmegaConf.create(text)))
        chosen = choose(config, self.hyperparameters)
        for logger in trainer.loggers:
            log_text(logger, "config", f"```yaml\n{text}```", trainer.global_step)
            logger.log_hyperparams(chosen)
            _hparams_page(logger, chosen)


def choose(config: Mapping[str, Any], names: Sequence[str]) -> dict[str, object]:
    """Return the settings of a nested config that are named in `names` or belong to a group named there.

    Keys are dotted names; lists are written as text.
    """
    flat = flat_settings(config)
    return {
        setting: _shown(value)
        for name in names
        for setting, value in flat.items()
        if (setting == name or setting.startswith(f"{name}.")) and not setting.endswith(_HYDRA) and value != {}
    }


def _shown(value: object) -> object:
    if value is None or isinstance(value, list):
        return ", ".join(map(str, value)) if value else "none"
    return value


def _hparams_page(logger: Logger, chosen: dict[str, object]) -> None:
    """Write TensorBoard's page of hyperparameters without torch's list of columns, so that TensorBoard collects the
    columns of all runs itself."""
    if isinstance(logger, TensorBoardLogger):
        _, start, end = hparams(chosen, {})
        for summary in (start, end):
            logger.experiment._get_file_writer().add_summary(summary)
