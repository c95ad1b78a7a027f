"""Train with FSDP2, PyTorch's own way to spread parameters, gradients and optimizer state over ranks."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from beacon_lit.arch import BeaconLM
from beacon_lit.arch.checkpoint.sharded import collect, spread_like
from beacon_lit.strategies.gathered import GatheredCheckpoints

# Methods besides `forward` at which a computation on a model may begin.
ENTRIES = ("dense", "dense_token_loss", "read")


class FSDP2Strategy(GatheredCheckpoints, ModelParallelStrategy):
    """Run fully sharded data parallel (arXiv 2304.11277, `torch.distributed.fsdp.fully_shard`) over all ranks.

    A layer's parameters are released after its forward pass and gathered again for its backward pass.

    Args:
        options: `timeout` and `process_group_backend`; see Lightning's ModelParallelStrategy.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(tensor_parallel_size=1, **options)

    def setup_environment(self) -> None:
        """Form one data-parallel group of all ranks."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def shard(self, module: nn.Module) -> None:
        """Spread a module over ranks: the sharding function, see `checkpoint.Sharder`."""
        fully_shard(module, mesh=self.device_mesh["data_parallel"], reshard_after_forward=True)
        if isinstance(module, BeaconLM):
            for name in ENTRIES:
                register_fsdp_forward_method(module, name)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the whole state; see `GatheredCheckpoints`."""
        if isinstance(optimizer, LightningOptimizer):
            optimizer = optimizer.optimizer
        saved = optimizer.state_dict()
        state = {index: self._collect(values) for index, values in saved["state"].items()}
        return {**saved, "state": state if self.is_global_zero else {}}

    def _collect(self, values: Mapping[str, Any]) -> dict[str, Any]:
        tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        return {**values, **collect(tensors, self.is_global_zero)}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Restore the state; see `GatheredCheckpoints`."""
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            state = {
                index: {name: _like(parameters[index], value) for name, value in values.items()}
                for index, values in saved["state"].items()
            }
            optimizer.load_state_dict({**saved, "state": state})


def _like(parameter: Tensor, value: object) -> object:
    """Spread a value of an optimizer's state like its parameter if both have one shape; else return it unchanged."""
    if isinstance(value, Tensor) and value.shape == parameter.shape and isinstance(parameter, DTensor):
        return spread_like(parameter, value)
    return value
