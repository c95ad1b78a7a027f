"""Look at what chosen layers compute in a pass, for objectives that compare more than predictions."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from beacon_lit.arch.nn.decoder import DecoderLayers


@dataclass(frozen=True)
class Observe:
    """What of a pass is wanted besides predictions, for raw tokens.

    Attributes:
        hidden: layers whose output is wanted, hidden states (B, L, D).
        attention: layers whose attention output, after the output projection, is wanted, (B, L, D).
    """

    hidden: tuple[int, ...] = ()
    attention: tuple[int, ...] = ()

    def check(self, layers: int) -> None:
        """ValueError unless a model with so many layers has all of these."""
        for kind in ("hidden", "attention"):
            for index in getattr(self, kind):
                if not 0 <= index < layers:
                    raise ValueError(f"observe.{kind} has layer {index}; allowed: 0 to {layers - 1}")


@contextmanager
def observing(layers: DecoderLayers, observe: Observe | None) -> Iterator[dict[str, Tensor]]:
    """Within it, fill a dict with what is wanted of the pass that runs, (P, D) in stream order, by "KIND.LAYER".

    Gradients flow through what is observed. Activation checkpointing does not matter: what is computed a second time,
    in the backward pass, is not looked at.

    Raises:
        ValueError: a layer that the model does not have.
    """
    if observe is not None:
        observe.check(len(layers))
    seen: dict[str, Tensor] = {}

    def into(name: str) -> Callable[..., None]:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            seen[name] = (output[0] if isinstance(output, tuple) else output)[0]

        return look

    wanted = [] if observe is None else [("hidden", i) for i in observe.hidden]
    wanted += [] if observe is None else [("attention", i) for i in observe.attention]
    hooks = []
    for kind, index in wanted:
        module: Any = layers[index].self_attn if kind == "attention" else layers[index]
        hooks.append(module.register_forward_hook(into(f"{kind}.{index}")))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
