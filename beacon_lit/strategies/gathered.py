"""Save and load training checkpoints in one format for all strategies: one file of whole trained parameters."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.strategies import Strategy
from torch import nn
from torch.optim import Optimizer

from beacon_lit.arch.checkpoint import collect, put


class GatheredCheckpoints(Strategy):
    """Gather parameters for checkpoints: a mixin for strategies that spread parameters over ranks.

    A checkpoint holds the trained parameters and their optimizer state as a single device would write them, so that any
    strategy on any number of devices can continue from it. Rank zero gathers them in its memory, one at a time: 12
    bytes per trained parameter with Adam. The frozen backbone is never gathered.
    """

    restore_checkpoint_after_setup = True  # the parameters must be spread first
    lightning_restore_optimizer = True

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """The trained parameters by their names in the LightningModule."""
        assert self.lightning_module is not None
        return {name: value for name, value in self.lightning_module.named_parameters() if value.requires_grad}

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the whole trained parameters on rank zero, and nothing on other ranks."""
        return collect(self.trained, self.is_global_zero)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Set the trained parameters. The LightningModule's `on_load_checkpoint` has checked that none is missing."""
        for name, parameter in self.trained.items():
            put(parameter, checkpoint["state_dict"][name])

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return `optimizer.state_dict()` as on a single device; on other ranks than zero without tensors."""
        raise NotImplementedError

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Restore in the optimizers what `optimizer_state` returned."""
        raise NotImplementedError

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write the file on rank zero."""
        Strategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Read the file on every rank."""
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)
