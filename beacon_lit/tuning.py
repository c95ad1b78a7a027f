"""Choose what is trained besides the beacons (nothing, a LoRA adapter or the backbone), and its learning rate."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from beacon_lit.arch import BeaconLM
from beacon_lit.arch.checkpoint import adapter, check_listed, is_adapter, is_beacon, size
from beacon_lit.arch.checkpoint.quantized import is_quantized

Groups = list[dict[str, Any]]


@dataclass(frozen=True)
class Tuning:
    """Train the parameters that require gradients in the model as given: by default the beacons alone.

    Attributes:
        lr: learning rate of other parameters than the beacons'; None: the optimizer's rate, as for the beacons.

    Raises:
        ValueError: `lr` is not positive.
    """

    lr: float | None = None
    name: ClassVar[str] = "backbone"  # name of the group of other parameters
    trains_backbone: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.lr is not None and not self.lr > 0:
            raise ValueError(f"tuning.lr={self.lr} is not allowed; allowed: above 0, or null for optimizer.lr")

    def prepare(self, lm: BeaconLM) -> None:
        """Prepare `lm` once, before training."""

    def groups(self, lm: BeaconLM) -> Groups:
        """Return the optimizer's groups of parameters: the beacons, and a second group if other parameters train."""
        trained = [(name, parameter) for name, parameter in lm.named_parameters() if parameter.requires_grad]
        beacons = [parameter for name, parameter in trained if is_beacon(name)]
        others = [parameter for name, parameter in trained if not is_beacon(name)]
        if not others:
            return [{"params": beacons}]
        own = {} if self.lr is None else {"lr": self.lr}
        return [{"params": beacons, "name": "beacons"}, {"params": others, "name": self.name, **own}]


@dataclass(frozen=True)
class Lora(Tuning):
    """Train a LoRA adapter (arXiv 2106.09685) on the backbone's projections, which needs the package peft.

    Attributes:
        config: fields of `peft.LoraConfig`; `adapter.SETTINGS` lists the allowed ones.

    Raises:
        ValueError: peft is not installed, or a field is not allowed.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    name: ClassVar[str] = "lora"

    def __post_init__(self) -> None:
        super().__post_init__()
        adapter.check_peft("tuning=lora")
        for name, value in self.config.items():
            if name not in adapter.SETTINGS:
                raise ValueError(f"tuning.{name}={value} is not allowed; allowed: {', '.join(adapter.SETTINGS)}")

    @classmethod
    def of(cls, lr: float | None = None, **config: Any) -> "Lora":
        """Make the tuning from fields side by side, as a config lists them."""
        return cls(lr, config)

    def prepare(self, lm: BeaconLM) -> None:
        """Put an adapter on the backbone, or keep one with the same settings that was loaded with the beacons."""
        adapter.ensure(lm, self.config, "tuning=lora")
        for name, parameter in lm.named_parameters():
            if is_adapter(name):
                parameter.requires_grad_(True)


@dataclass(frozen=True)
class Full(Tuning):
    """Train the backbone.

    Attributes:
        frozen: modules of the backbone that are not trained, by the last part of their names: embed_tokens, lm_head,
            mlp, ...
    """

    frozen: tuple[str, ...] = ()
    trains_backbone: ClassVar[bool] = True

    def prepare(self, lm: BeaconLM) -> None:
        """Mark all parameters but those of `frozen` modules as trained.

        Raises:
            ValueError: an unlisted architecture, a quantised backbone, a backbone with an adapter, or an unknown module
                in `frozen`.
        """
        check_listed(lm, "tuning=full")
        if is_quantized(lm):
            raise ValueError("tuning=full is not allowed for a quantised backbone; allowed: beacons, lora")
        if adapter.settings(lm) is not None:
            raise ValueError(
                "tuning=full is not allowed for a backbone with an adapter; merge it first: beacon-convert --to full"
            )
        lm.requires_grad_(True)
        modules = [(name.rpartition(".")[2], module) for name, module in lm.named_modules()]
        for name in self.frozen:
            chosen = [module for own, module in modules if own == name]
            if not chosen:
                raise ValueError(f"tuning.frozen={name} is not allowed: the backbone has no module of this name")
            for module in chosen:
                module.requires_grad_(False)
        for parameter in lm.beacon_parameters():
            parameter.requires_grad_(True)


def check_dtypes(groups: Groups) -> None:
    """Raise a ValueError if a trained parameter is in half precision, where small steps are rounded away."""
    for parameter in (parameter for group in groups for parameter in group["params"]):
        if parameter.dtype in (torch.bfloat16, torch.float16):
            raise ValueError(
                f"trained parameters are {parameter.dtype}, in which small steps are lost; allowed: float32 "
                "(trainer.precision=32-true or bf16-mixed, model.backbone.beacon_dtype=float32, and with tuning=full "
                "also model.backbone.dtype=float32)"
            )


def set_hyperparameters(groups: Groups, asked: Groups, schedules: Sequence[LRScheduler]) -> None:
    """Give an optimizer and its schedule the hyperparameters of the settings, also after loading a checkpoint.

    The schedule keeps its step; a learning rate is what the schedule makes of the new rate at this step.

    Args:
        groups: the optimizer's groups of parameters, which are changed.
        asked: their hyperparameters, without parameters.
        schedules: the optimizer's schedule, or none.

    Raises:
        ValueError: another learning rate, and a schedule that does not compute its rates from the step alone.
    """
    for group, own in zip(groups, asked, strict=True):
        group.update(own)
    for schedule in schedules:
        rates = [own["lr"] for own in asked]
        if isinstance(schedule, LambdaLR):
            schedule.base_lrs = rates
            now = [rate * factor(schedule.last_epoch) for rate, factor in zip(rates, schedule.lr_lambdas, strict=True)]
        elif list(getattr(schedule, "base_lrs", rates)) == rates:
            now = schedule.get_last_lr()
        else:
            raise ValueError(
                f"optimizer.lr={rates[0]} differs from the checkpoint's {schedule.base_lrs[0]}; allowed with "
                f"{type(schedule).__name__}: the same"
            )
        for group, rate, current in zip(groups, rates, now, strict=True):
            group.update(initial_lr=rate, lr=current)


def summary(optimizer: Optimizer) -> str:
    """Describe what is trained: name, number of parameters and learning rate of every group."""
    return "; ".join(
        f"{group.get('name', 'beacons')}: {count(group['params']):,} trained at learning rate {group['lr']:g}"
        for group in optimizer.param_groups
    )


def count(parameters: Iterable[torch.nn.Parameter]) -> int:
    """Count the elements of parameters, including elements on other ranks."""
    return sum(map(size, parameters))
