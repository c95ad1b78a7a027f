"""Training checkpoints that are the same whatever wrote them: one file of all that is trained, whole."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.strategies import Strategy
from torch import nn
from torch.optim import Optimizer

from beacon_lit.arch.checkpoint import collect, put


class GatheredCheckpoints(Strategy):
    """Mixin for a strategy that spreads parameters over ranks.

    A checkpoint holds the trained parameters and the state of their optimizer as a single device would write them, so
    that any strategy on any number of devices can go on with it. Rank zero gathers them in its memory, one at a time:
    12 bytes for each trained parameter with Adam. The frozen backbone is never gathered.
    """

    restore_checkpoint_after_setup = True  # once parameters are where they belong
    lightning_restore_optimizer = True

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """What is trained, by its name in the LightningModule."""
        assert self.lightning_module is not None
        return {name: value for name, value in self.lightning_module.named_parameters() if value.requires_grad}

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Trained parameters as a whole on rank zero, none elsewhere."""
        return collect(self.trained, self.is_global_zero)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Set the trained parameters. What is missing is found by the LightningModule's `on_load_checkpoint`."""
        for name, parameter in self.trained.items():
            put(parameter, checkpoint["state_dict"][name])

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """What `optimizer.state_dict()` is on a single device; on rank zero, elsewhere without its tensors."""
        raise NotImplementedError

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Put what `optimizer_state` gave into the optimizers."""
        raise NotImplementedError

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        """Rank zero writes."""
        Strategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Every rank reads."""
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)
