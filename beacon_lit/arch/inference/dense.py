"""Generate with the dense backbone as transformers alone does, on the weights of the beacon model."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from beacon_lit.arch.core import BeaconModel, plain_class
from beacon_lit.arch.inference.cache_names import named_for
from beacon_lit.arch.inference.lockstep import check_alike, drawing_alike


@torch.no_grad()
def dense_generate(
    lm: BeaconModel, dense: Callable[..., Any], input_ids: Tensor, attention_mask: Tensor | None, **options: Any
) -> Any:
    """Do what `BeaconLM.dense_generate` does. `dense` is the forward pass of the backbone."""
    check_alike(lm, "what dense_generate was given", input_ids, attention_mask)
    with drawing_alike(lm):
        plain = _plain(lm, dense)
        plain.generation_config = lm.generation_config  # it may have been replaced
        return plain.generate(
            input_ids, attention_mask=attention_mask, **named_for(plain_class(type(lm)).forward, options)
        )


def _plain(lm: BeaconModel, dense: Callable[..., Any]) -> PreTrainedModel:
    """Return an instance of the family's class around this model's modules, for its `generate` only."""
    known = lm.__dict__.get("_plain_model")  # not an attribute, which would make it a module of this one
    if known is not None:
        return known
    family: Any = plain_class(type(lm))
    with torch.device("meta"):
        plain = family(lm.config)
    plain.model, plain.lm_head = lm.model, lm.lm_head
    # `generate` looks at the names of forward's arguments.
    plain.forward = wraps(family.forward)(lambda *args, **kwargs: dense(*args, **kwargs))
    plain.forward.__signature__ = _without_self(family.forward)
    lm.__dict__["_plain_model"] = plain
    return plain


def _without_self(function: Callable[..., Any]) -> inspect.Signature:
    signature = inspect.signature(function)
    return signature.replace(parameters=list(signature.parameters.values())[1:])
