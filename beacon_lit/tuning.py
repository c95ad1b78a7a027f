"""What is trained besides the beacons: nothing, a LoRA adapter, or the backbone itself; and how fast."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch.optim import Optimizer

from beacon_lit.arch import BeaconLM
from beacon_lit.arch.checkpoint import adapter, is_adapter, is_beacon, size
from beacon_lit.arch.checkpoint.quantized import is_quantized

Groups = list[dict[str, Any]]


@dataclass(frozen=True)
class Tuning:
    """The beacons alone, or what of the model requires gradients as it is given.

    Attributes:
        lr: learning rate of what is trained besides the beacons; None: theirs, the optimizer's.

    Raises:
        ValueError: `lr` is not positive.
    """

    lr: float | None = None
    name: ClassVar[str] = "backbone"  # of what is trained besides the beacons
    trains_backbone: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.lr is not None and not self.lr > 0:
            raise ValueError(f"tuning.lr={self.lr} is not allowed; allowed: above 0, or null for optimizer.lr")

    def prepare(self, lm: BeaconLM) -> None:
        """Make `lm` ready, once, before it is trained."""

    def groups(self, lm: BeaconLM) -> Groups:
        """The optimizer's groups of parameters: one, or the beacons and the rest."""
        trained = [(name, parameter) for name, parameter in lm.named_parameters() if parameter.requires_grad]
        beacons = [parameter for name, parameter in trained if is_beacon(name)]
        others = [parameter for name, parameter in trained if not is_beacon(name)]
        if not others:
            return [{"params": beacons}]
        own = {} if self.lr is None else {"lr": self.lr}
        return [{"params": beacons, "name": "beacons"}, {"params": others, "name": self.name, **own}]


@dataclass(frozen=True)
class Lora(Tuning):
    """A LoRA adapter (arXiv 2106.09685) on the backbone's projections. Needs peft.

    Attributes:
        config: fields of `peft.LoraConfig`: those in `adapter.SETTINGS`.

    Raises:
        ValueError: peft is not installed, or another field.
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
        """The fields side by side, as a config has them."""
        return cls(lr, config)

    def prepare(self, lm: BeaconLM) -> None:
        """Put the adapter on the backbone, or go on with one of the same settings that came with the beacons."""
        adapter.ensure(lm, self.config, "tuning=lora")
        for name, parameter in lm.named_parameters():
            if is_adapter(name):
                parameter.requires_grad_(True)


@dataclass(frozen=True)
class Full(Tuning):
    """The backbone.

    Attributes:
        frozen: modules of the backbone that stay as they are, by the last part of their names: embed_tokens, lm_head,
            mlp, ...
    """

    frozen: tuple[str, ...] = ()
    trains_backbone: ClassVar[bool] = True

    def prepare(self, lm: BeaconLM) -> None:
        """Let all but `frozen` be trained.

        Raises:
            ValueError: a packed backbone, one with an adapter, or no module of a name in `frozen`.
        """
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
                raise ValueError(f"tuning.frozen={name} is not allowed, the backbone has no such module")
            for module in chosen:
                module.requires_grad_(False)
        for parameter in lm.beacon_parameters():
            parameter.requires_grad_(True)


def check_dtypes(groups: Groups) -> None:
    """ValueError if a parameter is trained in half precision, where small steps are rounded away."""
    for parameter in (parameter for group in groups for parameter in group["params"]):
        if parameter.dtype in (torch.bfloat16, torch.float16):
            raise ValueError(
                f"what is trained is {parameter.dtype}, in which small steps are lost; allowed: float32, as "
                "trainer.precision=32-true or bf16-mixed, model.backbone.beacon_dtype=float32 and, with tuning=full, "
                "model.backbone.dtype=float32 have it"
            )


def summary(optimizer: Optimizer) -> str:
    """What is trained: name, number of parameters and learning rate of every group."""
    return "; ".join(
        f"{group.get('name', 'beacons')}: {count(group['params']):,} trained at learning rate {group['lr']:g}"
        for group in optimizer.param_groups
    )


def count(parameters: Iterable[torch.nn.Parameter]) -> int:
    """Elements of parameters, those on other ranks among them."""
    return sum(map(size, parameters))
