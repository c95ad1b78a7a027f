"""The dense backbone as transformers alone would run it, on the weights of the beacon model that it is part of."""

import inspect
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from beacon_lit.arch.lockstep import check_alike, drawing_alike

_Model: Any = object  # the model's own methods are in `BeaconLM`, which comes after this class


class PlainBackbone(_Model):
    """The part of `BeaconLM` that generates with the dense backbone."""

    @torch.no_grad()
    def dense_generate(self, input_ids: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Any:
        """Hugging Face's `generate` of the backbone, without beacons, windows and an adapter.

        Args:
            input_ids: (B, L) int64.
            attention_mask: (B, L) of 0 and 1, padding on the left.
            options: Hugging Face's generation options; with `past_key_values`, which goes on, `input_ids` are all that
                there are, those that it has read among them.

        Raises:
            ValueError: where the model is spread over ranks, other prompts on one rank than on another.
        """
        check_alike(self, "what dense_generate was given", input_ids, attention_mask)
        with drawing_alike(self):
            plain = self._plain()
            plain.generation_config = self.generation_config  # which may be another one by now
            return plain.generate(input_ids, attention_mask=attention_mask, **options)

    def dense_cache_bytes(self, tokens: int) -> int:
        """Bytes of the keys and values that the backbone keeps of so many tokens."""
        config = self.config
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return tokens * config.num_hidden_layers * 2 * config.num_key_value_heads * head * self.dtype.itemsize

    def _plain(self) -> PreTrainedModel:
        """The family's own class around this model's modules; only its `generate` is wanted."""
        known = self.__dict__.get("_plain_model")  # not an attribute, which would make it a module of this one
        if known is not None:
            return known
        family: Any = next(
            base
            for base in type(self).__mro__
            if issubclass(base, PreTrainedModel) and not issubclass(base, PlainBackbone)
        )
        with torch.device("meta"):
            plain = family(self.config)
        plain.model, plain.lm_head = self.model, self.lm_head
        # `generate` looks at the names of forward's arguments.
        plain.forward = wraps(family.forward)(lambda *args, **kwargs: self.dense(*args, **kwargs))
        plain.forward.__signature__ = _without_self(family.forward)
        self.__dict__["_plain_model"] = plain
        return plain


def _without_self(function: Any) -> inspect.Signature:
    signature = inspect.signature(function)
    return signature.replace(parameters=list(signature.parameters.values())[1:])
