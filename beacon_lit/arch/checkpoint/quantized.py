"""Handle quantised backbones: keep beacons plain, tell which weights are packed, and dequantise projections."""

import copy
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.quantizers import AutoQuantizationConfig

from beacon_lit.arch.checkpoint.sharded import shape
from beacon_lit.arch.core import BeaconModel
from beacon_lit.arch.nn.fused import part
from beacon_lit.arch.nn.packed import is_packed

# Packed weights of torchao whose products never make the host wait for the device; others have not been tried.
_ASYNCHRONOUS = ("Float8Tensor", "Int4Tensor", "Int4TilePackedTo4dTensor", "Int8Tensor")
_OWN_MAPS = r".*\.beacon_\w+"  # as Hugging Face matches names of modules


def is_plain(module: nn.Module) -> bool:
    """Whether a module's weight holds plain values, as opposed to packed, scaled or 8-bit ones."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    linear = isinstance(module, nn.Linear)
    return is_wide(weight) and not (linear and shape(weight) != (module.out_features, module.in_features))


def is_wide(tensor: Tensor) -> bool:
    """Whether a tensor has floating-point values of 16 bits or more, as trainable parameters need."""
    return tensor.is_floating_point() and tensor.element_size() >= 2 and not is_packed(tensor)


def is_quantized(model: nn.Module) -> bool:
    """Whether a model was loaded with a `quantization_config`, its own or one that was passed, or quantised since."""
    return getattr(model, "hf_quantizer", None) is not None or any(map(is_packed, model.parameters()))


def quantization(model: Any) -> str:
    """Return the quantisation method of a quantised model, e.g. "bitsandbytes"."""
    config = getattr(model.config, "quantization_config", None)
    if config is None:  # `torchao.quantization.quantize_` packs the weights of a model that is loaded
        return "torchao"
    return getattr(config.quant_method, "value", config.quant_method)


def synchronises(model: nn.Module) -> bool:
    """Whether products with a model's weights may make the host wait for the device, which no CUDA graph can capture.

    8-bit products of bitsandbytes do, and those of torchao with 8-bit activations, which it prints to recognise fakes.
    """
    if is_quantized(model) and quantization(model) != "torchao":
        return True
    weights: list[Any] = [weight for weight in model.parameters() if is_packed(weight)]
    dynamic = any(type(weight).__name__ == "Int8Tensor" and weight.act_quant_kwargs is not None for weight in weights)
    return dynamic or any(type(weight).__name__ not in _ASYNCHRONOUS for weight in weights)


def sparing_beacons(config: Any) -> Any:
    """Return a copy of a `quantization_config` that leaves the head and the beacons' own maps plain.

    Only methods with `modules_to_not_convert` need this: they also pack subclasses of nn.Linear, such as own maps.
    torchao's methods leave the process's settings of `torch.compile` alone, too: with those that they prefer, all that
    is compiled is tuned, for minutes.
    """
    config = AutoQuantizationConfig.from_dict(config) if isinstance(config, dict) else copy.copy(config)
    if hasattr(config, "modules_to_not_convert"):
        config.modules_to_not_convert = [*(config.modules_to_not_convert or ()), "lm_head", _OWN_MAPS]
    if hasattr(getattr(config, "quant_type", None), "set_inductor_config"):
        config.quant_type = dataclasses.replace(config.quant_type, set_inductor_config=False)
    return config


@contextmanager
def dequantized_projections(model: BeaconModel) -> Iterator[None]:
    """Replace packed projections that beacons start from by dequantised ones within this context."""
    owns = [own.name for own in model.beacon.own_maps if own.rank is None]
    bases = [part(layer.self_attn, name) for layer in model.model.layers for name in owns]
    needed = {base[0] for base in bases if base is not None}
    packed = {name: module for name, module in model.named_modules() if module in needed and not is_plain(module)}
    dtype = model.model.embed_tokens.weight.dtype
    for name, module in packed.items():
        model.set_submodule(name, dequantize(module, dtype))
    try:
        yield
    finally:
        for name, module in packed.items():
            model.set_submodule(name, module)


@torch.no_grad()
def dequantize(module: Any, dtype: torch.dtype) -> nn.Linear:
    """Convert a projection of any quantisation method to a plain one, by applying the projection to unit vectors.

    The weights differ from the method's own dequantised weights by the rounding of one product.

    Args:
        module: the quantised projection, with `in_features`, `out_features`, `weight` and `bias`.
        dtype: dtype of the plain projection.
    """
    unit = torch.eye(module.in_features, dtype=dtype, device=module.weight.device)
    bias, module.bias = module.bias, None  # adding and subtracting the bias would round
    try:
        weight = module(unit).T.contiguous()
    finally:
        module.bias = bias
    plain = nn.Linear(module.in_features, module.out_features, bias is not None, weight.device, dtype)
    plain.weight.copy_(weight)
    if bias is not None:
        plain.bias.copy_(bias)
    return plain
