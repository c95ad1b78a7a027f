"""The parts that the decoders of all families have in common and that this package uses."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeAlias

from torch import Tensor, nn

from beacon_lit.arch.nn.attention import BeaconAttention, Step


class DecoderLayer(Protocol):
    """A layer whose attention is a `BeaconAttention`."""

    self_attn: BeaconAttention
    mlp: Any
    gradient_checkpointing: bool

    def children(self) -> Iterator[nn.Module]: ...

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]: ...

    def __call__(self, hidden: Tensor, **options: Any) -> Tensor:
        """Run the layer: (1, P, D) -> (1, P, D)."""


class DecoderLayers(Protocol):
    """The layers: an `nn.ModuleList`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> Any: ...

    def __iter__(self) -> Iterator[DecoderLayer]: ...


class Decoder(Protocol):
    """The decoder, with a beacon embedding added."""

    embed_tokens: nn.Embedding
    beacon_embed_tokens: nn.Embedding
    layers: DecoderLayers
    norm: nn.Module
    rotary_emb: nn.Module

    def __call__(self, **options: Any) -> Any: ...


RunLayer: TypeAlias = Callable[[DecoderLayer, Tensor, Step], Tensor]


def run_layer(layer: DecoderLayer, hidden: Tensor, step: Step) -> Tensor:
    """Run one layer with its step: (1, P, D) -> (1, P, D)."""
    return layer(hidden, attention_mask=None, position_embeddings=None, beacon=step)
