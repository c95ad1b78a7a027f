"""The attention module of a backbone's layer, with own projections for beacon tokens."""

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from torch import Tensor

from beacon_lit.arch.nn.own_maps import as_beacons, project
from beacon_lit.arch.nn.rope import rotate

Own: TypeAlias = tuple[Tensor, Tensor] | None

# The mixin comes before a family's attention class; telling mypy so keeps `super()` typed.
if TYPE_CHECKING:
    from transformers.models.llama.modeling_llama import LlamaAttention as _Attention
else:
    _Attention = object


class BeaconAttention(_Attention):
    """A mixin for a family's attention class, put on instances. Called without a `Step`, it is the family's class."""

    rotation = staticmethod(rotate)

    @property
    def cap(self) -> float | None:
        """Soft cap of scores, by the name that it has in the family's class (Gemma 2); None: there is none."""
        return getattr(self, "attn_logit_softcapping", None)

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Apply this layer's RoPE: (tokens, heads, H), cos and sin (tokens, H or less) -> (tokens, heads, H)."""
        return self.rotation(x, cos, sin)

    def normalize(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Normalise (P, heads, H) queries and keys before RoPE, if the family does so (Qwen3)."""
        return q, k

    def heads(self, x: Tensor) -> Tensor:
        """Split a projection into heads: (P, heads x H) -> (P, heads, H)."""
        return x.unflatten(-1, (-1, self.head_dim))

    def forward(self, hidden_states: Tensor, *args: Any, beacon: "Step | None" = None, **kwargs: Any) -> Any:
        """Run the family's forward; with `beacon` attend over windows: (1, P, D) in stream order -> (1, P, D)."""
        if beacon is None:
            return super().forward(hidden_states, *args, **kwargs)
        stream = hidden_states[0]
        projected = project(self, "qkv", stream, beacon.raw)
        q, k, v = map(self.heads, projected)
        q, k = self.normalize(q, k)
        own = None
        if beacon.selects:
            own_k, own_v = (
                self.heads(as_beacons(self, name, stream, shared))
                for name, shared in zip("kv", projected[1:], strict=True)
            )
            own = self.normalize(q[:0], own_k)[1], own_v
        out = beacon.attend(self, q, k, v, own)
        return project(self, "o", out.flatten(1), beacon.raw)[0][None], None


class Step(Protocol):
    """How queries see keys; all layers of one kind share a step in a pass.

    Attributes:
        raw: R; stream positions from R on are beacons.
        selects: whether beacons are selected among raw tokens, in this pass or in a later one.
    """

    @property
    def raw(self) -> int:
        """See `Step`."""

    @property
    def selects(self) -> bool:
        """See `Step`."""

    def attend(self, attention: BeaconAttention, q: Tensor, k: Tensor, v: Tensor, own: Own) -> Tensor:
        """Attend in one layer.

        Args:
            attention: the layer's attention module.
            q: (Q, N, H), before RoPE, in stream order.
            k, v: (P, K, H), keys before RoPE, in stream order; (R, K, H) where beacons are selected.
            own: keys before RoPE and values (R, K, H) that the beacons' maps make of raw tokens, where beacons are
                selected; else None.

        Returns:
            (Q, N, H), in stream order.
        """
