"""The index tensors of one attention step: where every query and key comes from, and at which slot.

`build.build_layout` makes them. Shape legend: R raw tokens, P packed tokens (raw + beacon), Q queries, S keys,
W windows; of all rows together.

The hidden states travel through the model in *stream order*, `[raw tokens of all rows | beacons]`, so that the raw and
the beacon projections each run on one contiguous slice. Attention sees them in *window order*: each window is one
sequence of a variable-length attention call, its queries the window's tokens, its keys `[memory | overlap | window]`,
causal and aligned at the end. A window of 4 tokens at ratio 2, after another such window, with a sink of 1 and an
overlap of 1:

    queries           t4  t5  b2  t6  t7  b3
    keys   t0  b0  b1  t3  t4  t5  b2  t6  t7  b3
    slot    0   1   2   3   4   5   6   7   8   9
           sink memory  overlap   window

In layers with a sliding window (`sliding`), the sequences are rows in place of windows, without memory and overlap.
"""

from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from beacon_lit.arch.placements import Placement, Tokens
from beacon_lit.arch.plan.rows import move

T = TypeVar("T", "Layout", "Visibility", "Selection", "CachedLayout")


@dataclass(frozen=True, eq=False)
class Layout:
    """One attention step over all windows of all rows.

    Attributes:
        raw: R; stream positions from R on are beacons.
        beacons: P - R.
        q_index, q_slot: (Q,) int64, stream position and slot of each query, in window order. Q is P, or R where
            beacons do not run; more in layers with a sliding window, where queries stand in for others.
        k_index, k_slot: (S,) int64, stream position and slot of each key, in window order.
        stream_index: (P,) int64, the inverse of `q_index`: where each stream position is in window order; (R,) where
            beacons do not run.
        k_first: (P,) int64, the first place of each stream position among the keys.
        k_repeats: (n,) int64, all other places: keys that later windows see again.
        k_unread: (n,) int64, stream positions that are no key; their `k_first` means nothing.
        q_unread: (n,) int64, queries whose outputs nobody reads.
        cu_q, cu_k: (W + 1,) int32, cumulative lengths of the windows' queries and keys.
        lengths: (queries, keys) of each window.
        reach: how many keys a query sees, counted back from its own, in layers with a sliding window; None: all.
        visibility: the placement's rule, where it hides keys that causal attention would show; else None.
        selection: the raw tokens to select beacons from, where beacons do not run and windows close; else None.
        cached: how keys of a cache come in and how the next cache is made; None for a call without a cache.
    """

    raw: int
    beacons: int
    q_index: Tensor
    q_slot: Tensor
    k_index: Tensor
    k_slot: Tensor
    stream_index: Tensor
    k_first: Tensor
    k_repeats: Tensor
    k_unread: Tensor
    q_unread: Tensor
    cu_q: Tensor
    cu_k: Tensor
    lengths: tuple[tuple[int, int], ...]
    reach: int | None = None
    visibility: "Visibility | None" = None
    selection: "Selection | None" = None
    cached: "CachedLayout | None" = None

    @property
    def selects(self) -> bool:
        """Whether beacons are selected among the raw tokens, in this call or in a later one."""
        return self.selection is not None or (self.cached is not None and self.cached.own is not None)

    @property
    def max_q(self) -> int:
        """Queries of the window that has most."""
        return max(queries for queries, _ in self.lengths)

    @property
    def max_k(self) -> int:
        """Keys of the window that has most."""
        return max(keys for _, keys in self.lengths)

    def to(self, device: torch.device) -> "Layout":
        """Return the layout with its tensors on `device`."""
        if self.q_index.device == device:
            return self
        return replace(
            _moved(self, device),
            visibility=self.visibility and _moved(self.visibility, device),
            selection=self.selection and _moved(self.selection, device),
            cached=self.cached and _moved(self.cached, device),
        )


@dataclass(frozen=True, eq=False)
class Visibility:
    """Which keys a query sees by a placement's rule, see `placements.Tokens`.

    Attributes:
        placement: the rule.
        unit: (S,) int64, the unit of each key. The last keys of a window are its queries.
        beacon: (S,) bool, whether the key is a beacon of its window.
    """

    placement: Placement
    unit: Tensor
    beacon: Tensor

    def mask(self, queries: slice, keys: slice) -> Tensor:
        """Return (queries, keys) bool, whether a query sees a key; the causal rule applies as well.

        Args:
            queries: places among all S keys of a window's queries.
            keys: places of the window's keys.
        """
        query = Tokens(self.unit[queries, None], self.beacon[queries, None])
        return self.placement.sees(query, Tokens(self.unit[keys], self.beacon[keys]))


@dataclass(frozen=True, eq=False)
class Selection:
    """The raw tokens that beacons are selected from: C windows close, of w raw tokens each, with B beacons together.

    Attributes:
        tokens: (C, w) int64, each window's raw tokens, over `[raw tokens of the stream | moving]`.
        allowed: (C, w) bool, tokens that can be selected. Sink tokens cannot: memory holds them uncompressed.
        counts: (C,) int64, beacons of each window.
        most: the largest of `counts`.
        window: (B,) int64, index of each beacon's window among the C.
        place: (B,) int64, index of each beacon within its window.
    """

    tokens: Tensor
    allowed: Tensor
    counts: Tensor
    most: int
    window: Tensor
    place: Tensor


@dataclass(frozen=True, eq=False)
class CachedLayout:
    """How keys and values of a cache come in, and how the next cache is made.

    A cache holds *fixed* entries, `[memory | open windows]`, whose keys are rotated and stay as they are, and *moving*
    entries, whose keys are not rotated, since they will get another slot (`nn.state.LayerState`). Indices count over
    concatenations, in which `stream` is what this call computes, `rotated` are the keys that this call rotates for
    its own queries (`Layout.k_index`, `k_slot`), and `added` the entries that become fixed in this call.

    Attributes:
        keys: (S,) int64, over `[rotated | fixed]`.
        values: (S,) int64, over `[stream | moving | fixed]`.
        added_index, added_slot: (n,) int64, over `[stream | moving]`, and the slots to rotate the keys to.
        memory: (M,) int64, the next cache's memory over `[fixed | added]`; None: memory does not change.
        open: (T,) int64, the next cache's open windows over `[fixed | added]`.
        moving: (C,) int64, the next cache's moving entries over `[stream | moving]`.
        own: (C,) int64, the same entries over `[raw tokens of the stream | moving]`, where beacons are selected; else
            None.
        hidden: (rows + open tokens,) int64, the next cache's hidden states over `[stream | this cache's]`.
        new: (N,) int64, stream positions of the raw tokens that are new, as opposed to run again.
    """

    keys: Tensor
    values: Tensor
    added_index: Tensor
    added_slot: Tensor
    memory: Tensor | None
    open: Tensor
    moving: Tensor
    own: Tensor | None
    hidden: Tensor
    new: Tensor


def _moved(value: T, device: torch.device) -> T:
    """Copy a dataclass with its tensors on `device`."""
    tensors = {name: x for name, x in vars(value).items() if isinstance(x, Tensor)}
    moved: dict[str, Any] = {name: move(x, device) for name, x in tensors.items()}
    return replace(value, **moved)
