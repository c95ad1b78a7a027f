"""Record the output of chosen layers in a pass, for objectives that compare more than predictions."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from beacon_lit.arch.nn.decoder import DecoderLayers


@dataclass(frozen=True)
class Observe:
    """A request to record what layers compute for raw tokens. Layers are counted from 0.

    Attributes:
        hidden: layers to record the hidden states of, (B, L, D) each: the layer's output, before the final norm.
        attention: layers to record the attention output of, (B, L, D) each, after the output projection.
    """

    hidden: tuple[int, ...] = ()
    attention: tuple[int, ...] = ()

    def check(self, layers: int) -> None:
        """Raise a ValueError unless a model of this number of layers has all of these layers."""
        for kind in ("hidden", "attention"):
            for index in getattr(self, kind):
                if not 0 <= index < layers:
                    raise ValueError(f"observe.{kind} has layer {index}; allowed: 0 to {layers - 1}")


@contextmanager
def observing(layers: DecoderLayers, observe: Observe | None) -> Iterator[dict[str, Tensor]]:
    """Record the pass that runs within this context, as (P, D) tensors in stream order by "KIND.LAYER".

    Gradients flow through the tensors. With activation checkpointing the forward pass is recorded, and the second
    computation in the backward pass is not.

    Raises:
        ValueError: the model does not have a layer.
    """
    seen: dict[str, Tensor] = {}
    if observe is None:
        yield seen
        return
    observe.check(len(layers))

    def into(name: str) -> Callable[..., None]:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            seen[name] = (output[0] if isinstance(output, tuple) else output)[0]

        return look

    hooks = [layers[i].register_forward_hook(into(f"hidden.{i}")) for i in observe.hidden]
    hooks += [layers[i].self_attn.register_forward_hook(into(f"attention.{i}")) for i in observe.attention]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
