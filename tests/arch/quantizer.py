"""A quantisation that runs on a CPU: 8-bit rows, packed as bitsandbytes packs, under Hugging Face's own machinery.

`RowsConfig()` is passed as `quantization_config`. Projections get a weight of another shape and of integers, and a
buffer of scales, as with any method that packs. With `everything=True` it takes subclasses of nn.Linear, too.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.core_model_loading import ConversionOps
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.quantizers.quantizers_utils import get_module_from_name
from transformers.utils.quantization_config import QuantizationConfigMixin

METHOD = "rows"


def pack(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(out, in) -> (out * in, 1) int8, and the (out, 1) float32 steps of the rows."""
    steps = weight.float().abs().amax(1, keepdim=True) / 127
    return (weight.float() / steps).round().to(torch.int8).reshape(-1, 1), steps


class RowsLinear(nn.Linear):
    """A projection whose weight is packed."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__(plain.in_features, plain.out_features, plain.bias is not None, "meta", plain.weight.dtype)
        self.weight.requires_grad_(False)  # a float until it is packed: values are cast to its dtype as they are read
        self.register_buffer("steps", torch.empty(plain.out_features, 1, device="meta"))

    def values(self) -> Tensor:
        """The (out, in) float32 values that the packed weight stands for."""
        return self.weight.view(self.out_features, self.in_features).float() * self.steps

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.values().to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


@register_quantization_config(METHOD)
class RowsConfig(QuantizationConfigMixin):
    def __init__(self, everything: bool = False, **_: Any) -> None:
        self.quant_method = METHOD
        self.everything = everything


class _Pack(ConversionOps):
    def __init__(self, quantizer: "RowsQuantizer") -> None:
        self.quantizer = quantizer

    def convert(self, input_dict: dict[str, Any], model: Any = None, **_: Any) -> dict[str, Tensor]:
        result = {}
        for name, value in input_dict.items():
            packed, steps = pack(value[0] if isinstance(value, list) else value)
            result[name] = nn.Parameter(packed, requires_grad=False)
            result[name.removesuffix("weight") + "steps"] = steps
        return result


@register_quantizer(METHOD)
class RowsQuantizer(HfQuantizer):
    def param_needs_quantization(self, model: Any, param_name: str, **_: Any) -> bool:
        module, name = get_module_from_name(model, param_name)
        return isinstance(module, RowsLinear) and name == "weight"

    def _process_model_before_weight_loading(self, model: Any, **_: Any) -> None:
        for name, module in list(model.named_modules()):
            chosen = isinstance(module, nn.Linear) if self.quantization_config.everything else type(module) is nn.Linear
            if chosen and name != "lm_head":
                model.set_submodule(name, RowsLinear(module))

    def get_quantize_ops(self) -> ConversionOps:
        return _Pack(self)

    @property
    def is_trainable(self) -> bool:
        return True

    def is_serializable(self) -> bool:
        return True
