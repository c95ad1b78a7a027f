"""Train with DeepSpeed ZeRO, which spreads optimizer state, gradients and (in stage 3) parameters over ranks."""

import copy
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins.precision import DeepSpeedPrecision
from lightning.pytorch.strategies import DeepSpeedStrategy
from lightning.pytorch.utilities.types import LRSchedulerTypeUnion
from torch import Tensor, nn
from torch.optim import Optimizer

from beacon_lit.arch.checkpoint.sharded import put_master
from beacon_lit.strategies.gathered import GatheredCheckpoints


class ZeroStrategy(GatheredCheckpoints, DeepSpeedStrategy):
    """Run ZeRO (arXiv 1910.02054) of stage 1, 2 or 3 on a model of mixed dtypes.

    The backbone keeps the dtype of loading, and trained parameters stay in float32, as on a single device. In stage 3
    every layer is gathered once for a pass over all windows. The strategy also runs on CPUs, for tests.

    Args:
        stage: 1, 2 or 3.
        options: arguments of Lightning's DeepSpeedStrategy.

    Raises:
        ValueError: another stage, DeepSpeed is not installed, or a precision other than 32-true.
    """

    def __init__(self, stage: int = 3, **options: Any) -> None:
        if stage not in (1, 2, 3):
            raise ValueError(f"stage={stage!r} is not allowed; allowed: 1, 2, 3")
        if find_spec("deepspeed") is None:
            raise ValueError("trainer=deepspeed_* needs DeepSpeed: pip install 'beacon_lit[deepspeed]'")
        super().__init__(stage=stage, **options)
        assert isinstance(self.config, dict)
        self.config["zero_force_ds_cpu_optimizer"] = False  # use the config's optimizer even if it is offloaded
        # DeepSpeed's own linear function keeps the cast copy of a weight in place of the weight for the backward pass.
        self.config["zero_optimization"]["memory_efficient_linear"] = False
        self._groups: list[list[nn.Parameter]] = []

    @property
    def shard(self) -> Callable[[nn.Module], None] | None:
        """The sharding function (see `checkpoint.Sharder`), or None below stage 3, which keeps parameters whole."""
        return self._shard if self.zero_stage_3 else None

    def _shard(self, module: nn.Module) -> None:
        import deepspeed

        first = not any(hasattr(parameter, "ds_id") for parameter in module.parameters())
        deepspeed.zero.Init(module=module, config_dict_or_path=self.config)
        if first:
            deepspeed.utils.set_z3_leaf_module(
                module, True
            )  # gather the module as one, whichever code reads its weights

    @contextmanager
    def model_sharded_context(self) -> Iterator[None]:
        """Prepare the config only: the model is spread part by part while loading."""
        self._init_config_if_needed()
        yield

    def setup_environment(self) -> None:
        """Set up as for DDP, since Lightning's DeepSpeedStrategy refuses CPUs."""
        super(DeepSpeedStrategy, self).setup_environment()

    def setup_distributed(self) -> None:
        """Start the process group, on CPUs as well, which Lightning's own method does not support."""
        if self.root_device.type == "cuda":
            super().setup_distributed()
        else:
            self.set_world_ranks()
            self._init_deepspeed_distributed()

    def setup(self, trainer: Trainer) -> None:
        """Pass the model to DeepSpeed without changing dtypes."""
        if self.precision_plugin.precision != "32-true":
            raise ValueError(
                f"trainer.precision={self.precision_plugin.precision} is not allowed with DeepSpeed; allowed: 32-true "
                f"(the backbone computes in model.backbone.dtype all the same)"
            )
        self.precision_plugin = _AsLoaded("32-true")
        super().setup(trainer)

    def _setup_model_and_optimizer(
        self, model: nn.Module, optimizer: Optimizer | None, lr_scheduler: LRSchedulerTypeUnion | None = None
    ) -> tuple[Any, Optimizer]:
        """Replace Lightning's method, which does not support CPUs; keep parameters before DeepSpeed flattens them."""
        import deepspeed

        assert optimizer is not None
        self._groups = [list(group["params"]) for group in optimizer.param_groups]
        engine, wrapped, _, _ = deepspeed.initialize(
            args=Namespace(device_rank=self.local_rank),
            config=self.config,
            model=model,
            model_parameters=[parameter for group in self._groups for parameter in group],
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            dist_init_required=False,
        )
        return engine, wrapped

    def backward(self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any) -> Tensor:
        """Run the backward pass without dividing by the number of accumulated batches, which the module has done."""
        return super().backward(closure_loss, optimizer, *args, scale_wrt_gas=False, **kwargs)

    @property
    def gradient_norm(self) -> float | None:
        """The gradient norm of the last optimizer step, before clipping."""
        norm = self.deepspeed_engine.get_global_grad_norm()
        return None if norm is None else float(norm)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the whole state; see `GatheredCheckpoints`."""
        from deepspeed.utils import safe_get_full_optimizer_state

        inner = self._inner.optimizer
        flat: dict[str, Any] = next(iter(inner.state.values()), {})
        if flat and not self.zero_stage_3:  # DeepSpeed links states too early: as soon as the first group has some
            self._inner._hp_optimizer_states_linked = False
            self._inner._lazy_init_hp_params_optimizer_state()
        names = [name for name, value in flat.items() if isinstance(value, Tensor) and value.dim()]
        once = {name: value for name, value in flat.items() if name not in names}
        state: dict[int, dict[str, Any]] = {}
        parameters = [parameter for group in self._groups for parameter in group]
        for index, parameter in enumerate(parameters if flat else []):
            values = {name: safe_get_full_optimizer_state(parameter, name) for name in names}
            if self.is_global_zero:
                values = {name: value.cpu() for name, value in values.items()}
                state[index] = copy.deepcopy(once) | values  # every parameter gets a step counter of its own
        indices = iter(range(len(parameters)))
        groups = [
            {
                **{name: value for name, value in group.items() if name != "params"},
                "params": [next(indices) for _ in own],
            }
            for group, own in zip(inner.param_groups, self._groups, strict=True)
        ]
        return {"state": state, "param_groups": groups}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Restore the state; see `GatheredCheckpoints`."""
        (saved,) = checkpoint["optimizer_states"]
        inner = self._inner.optimizer
        for group, saved_group in zip(inner.param_groups, saved["param_groups"], strict=True):
            group.update({name: value for name, value in saved_group.items() if name != "params"})
        if not saved["state"]:
            return
        parameters = [parameter for group in self._groups for parameter in group]
        first = saved["state"][0]
        names = [name for name, value in first.items() if isinstance(value, Tensor) and value.dim()]
        for flat in self._flat:
            inner.state[flat] = {
                name: torch.zeros_like(flat) if name in names else copy.deepcopy(value) for name, value in first.items()
            }
        if not self.zero_stage_3:
            self._inner._lazy_init_hp_params_optimizer_state()
        for index, values in saved["state"].items():
            for name in names:
                put_master(parameters[index], values[name], name)

    @property
    def _inner(self) -> Any:
        """DeepSpeed's optimizer, which wraps the config's optimizer."""
        return self.optimizers[0]

    @property
    def _flat(self) -> list[Tensor]:
        """This rank's trained parameters as the config's optimizer sees them: concatenated to flat tensors."""
        name = "fp32_partitioned_groups_flat" if self.zero_stage_3 else "single_partition_of_fp32_groups"
        return getattr(self._inner, name)


class _AsLoaded(DeepSpeedPrecision):
    """Keep the dtypes of the module."""

    def convert_module(self, module: LightningModule) -> LightningModule:  # type: ignore[override]
        return module
