"""Quantise a random backbone with torchao, after the model is built."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from beacon_lit import BeaconLM
from beacon_lit.arch.checkpoint import is_beacon
from beacon_lit.arch.nn.int4 import adopt

METHODS = ("int8", "int4", "float8", "float8_dynamic")  # of weights alone; the last one of activations as well


def quantize(lm: BeaconLM, method: str) -> None:
    """Pack the linear layers of the backbone's layers; beacons, embedding and head stay plain, as in `from_pretrained`.

    Args:
        method: one of `METHODS`.

    Raises:
        ImportError: torchao is not installed, or the method needs a package that is not.
    """
    from torchao import quantization as ao

    configs: dict[str, Callable[..., Any]] = {
        "int8": ao.Int8WeightOnlyConfig,
        "int4": partial(ao.Int4WeightOnlyConfig, int4_packing_format="tile_packed_to_4d"),
        "float8": ao.Float8WeightOnlyConfig,
        "float8_dynamic": partial(ao.Float8DynamicActivationFloat8WeightConfig, granularity=ao.PerRow()),
    }
    ao.quantize_(lm, configs[method](set_inductor_config=False), _in_layers)
    adopt(lm)


def _in_layers(module: nn.Module, name: str) -> bool:
    return isinstance(module, nn.Linear) and name.startswith("model.layers.") and not is_beacon(name)
