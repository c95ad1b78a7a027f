"""The cache: what a model remembers of sequences, as a value that calls take and return and never change."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import DynamicCache

from beacon_lit.arch import cache_export, cache_files
from beacon_lit.arch.nn.state import LayerState
from beacon_lit.arch.plan.kinds import LayerKind, kind_of
from beacon_lit.arch.plan.state import RowState
from beacon_lit.checks import is_count


@dataclass(frozen=True, eq=False, repr=False)
class BeaconCache:
    """Memory and open window of a batch of sequences.

    Attributes:
        rows: state of each row.
        layers: keys and values of each layer; with head budgets of each group of heads in each layer. Layers with a
            sliding window have the raw tokens before the open window as memory, and no moving entries.
        hidden: (rows + open tokens, D) final hidden states, for each row `[last token before the open window | open
            window]`, raw tokens only. The last one scores the first label of the next call.
        unfinished: "raw" or "beacons": what the open window holds.
        interleaved: whether the placement inserts beacons among a window's raw tokens.
        selects: whether the placement selects beacons among a window's raw tokens.
        groups: for each entry of `layers`, its group of heads, see `HeadGroups`; () if there is one.
        reaches: for each group, how many raw tokens its sliding window has, None for memory; () if all have memory.
        fingerprint: identifies the model that made the cache, see `inference.fingerprint`.
    """

    rows: tuple[RowState, ...]
    layers: tuple[LayerState, ...]
    hidden: Tensor
    unfinished: str = "raw"
    interleaved: bool = True
    fingerprint: tuple[tuple[str, Any], ...] = ()
    groups: tuple[int, ...] = ()
    reaches: tuple[int | None, ...] = ()
    selects: bool = False

    is_compileable: ClassVar[bool] = False  # asked by `generate` of transformers 5.24

    def __repr__(self) -> str:
        kinds = ("sink", "beacon", "overlap", "window")
        slots = ", ".join(f"{kind}_slots={getattr(self, f'{kind}_slots')}" for kind in kinds)
        size = f"{self.nbytes / 2**20:.1f} MiB"
        return f"BeaconCache(rows={len(self.rows)}, seen_tokens={self.seen_tokens}, {slots}, {size})"

    @property
    def sink_slots(self) -> int:
        """Memory slots of sink tokens, 0 until the first window closes. All counts are the maximum over rows."""
        return max(row.sink_slots for row in self.rows)

    @property
    def beacon_slots(self) -> int:
        """Memory slots of beacons."""
        return max(row.beacon_slots for row in self.rows)

    @property
    def overlap_slots(self) -> int:
        """Slots of the previous window's last raw tokens, which the open window still sees."""
        return max(row.overlap_slots for row in self.rows)

    @property
    def window_slots(self) -> int:
        """Raw and beacon slots of the open window."""
        return max(row.window_slots for row in self.rows)

    @property
    def seen_tokens(self) -> int:
        """Raw tokens read."""
        return max(row.seen_tokens for row in self.rows)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Raw tokens read; Hugging Face's name for `seen_tokens`."""
        return self.seen_tokens

    @property
    def last_hidden(self) -> Tensor:
        """The final hidden state of each row's last raw token, (B, D)."""
        ends = torch.tensor(self._lengths["hidden"]).cumsum(0) - 1
        return self.hidden[ends.to(self.hidden.device)]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, including tensors shared with forks."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def visible(self) -> "BeaconCache":
        """What later tokens see, without what closes open windows of selected beacons. No call goes on from it."""
        return self._cut(replace(self, selects=False)) if self.selects else self

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors, those of the layers first."""
        return [*(tensor for layer in self.layers for tensor in vars(layer).values()), self.hidden]

    @property
    def room(self) -> int:
        """Raw tokens that every open window has left; the next one closes a window."""
        return min(row.capacity - len(row.open_ids) for row in self.rows)

    @property
    def has_open_beacons(self) -> bool:
        """Whether open windows hold beacons."""
        return self.unfinished == "beacons" and self.interleaved

    @property
    def _lengths(self) -> dict[str, list[int]]:
        """Number of entries of each row in the tensors of each kind: hidden, and of each group the others."""
        lengths = {"hidden": [1 + len(row.open_ids) for row in self.rows]}
        for group in {*self.groups} or {0}:
            kind = self._kind(group)
            entries = [kind.entries(row) for row in self.rows]
            moving = (self.selects or self.has_open_beacons) and kind.reach is None
            lengths[f"memory{group}"] = [row.memory for row in entries]
            lengths[f"open{group}"] = [row.open for row in entries]
            lengths[f"moving{group}"] = [row.overlap + (row.open if moving else 0) for row in entries]
            own = self.selects and kind.reach is None
            lengths[f"own{group}"] = lengths[f"moving{group}"] if own else [0] * len(entries)
        return lengths

    def _kind(self, group: int) -> LayerKind:
        """Return what the layers of a group of heads keep."""
        return kind_of(self.reaches[group] if self.reaches else None, group)

    def fork(self) -> "BeaconCache":
        """Return a second cache that can be continued independently. Both share storage, which is never written to."""
        return replace(self)

    def select(self, rows: Sequence[int]) -> "BeaconCache":
        """Return a cache of some rows, in any order and any number of times.

        Raises:
            ValueError: no rows, or a row index out of range.
        """
        if not rows:
            raise ValueError("rows=[] is not allowed; allowed: at least one row")
        self._check_rows(rows)
        if list(rows) == list(range(len(self.rows))):
            return self
        keep = {
            kind: _spans(lengths, [(row, 0, lengths[row]) for row in rows]) for kind, lengths in self._lengths.items()
        }
        return self._take(tuple(self.rows[row] for row in rows), keep)

    def _check_rows(self, rows: Sequence[int]) -> None:
        for row in rows:
            if not 0 <= row < len(self.rows):
                raise ValueError(f"row {row} is not allowed; allowed: 0 to {len(self.rows) - 1}")

    @staticmethod
    def stack(caches: Sequence["BeaconCache"]) -> "BeaconCache":
        """Return one cache of the rows of several caches, in order.

        Raises:
            ValueError: no caches, or caches of different models, open-window modes, dtypes or devices.
        """
        if not caches:
            raise ValueError("caches=[] is not allowed; allowed: at least one cache")
        _check_alike(caches)
        first = caches[0]
        if len(caches) == 1:
            return first
        layers = tuple(
            LayerState(**{name: torch.cat([getattr(layer, name) for layer in same]) for name in _TENSORS})
            for same in zip(*(cache.layers for cache in caches), strict=True)
        )
        rows = tuple(row for cache in caches for row in cache.rows)
        return replace(first, rows=rows, layers=layers, hidden=torch.cat([cache.hidden for cache in caches]))

    def put(self, rows: Sequence[int], cache: "BeaconCache") -> "BeaconCache":
        """Return a cache in which these rows are replaced by the rows of another cache.

        Raises:
            ValueError: a number of rows that differs from the other cache's, a row index out of range or given twice;
                see also `stack`.
        """
        if len(rows) != len(cache.rows):
            raise ValueError(f"the cache has {len(cache.rows)} rows, {len(rows)} are to be replaced; allowed: as many")
        if len(set(rows)) < len(rows):
            raise ValueError(f"rows={list(rows)} is not allowed; allowed: each row once")
        self._check_rows(rows)
        _check_alike([self, cache])
        rest = [row for row in range(len(self.rows)) if row not in rows]
        both = BeaconCache.stack([self.select(rest), cache]) if rest else cache
        order = {row: place for place, row in enumerate([*rest, *rows])}
        return both.select([order[row] for row in range(len(self.rows))])

    def rollback(self, tokens: int) -> "BeaconCache":
        """Return a cache without the last tokens read. To go back beyond the open window, keep a fork.

        Args:
            tokens: number of raw tokens to drop from every row.

        Raises:
            ValueError: a negative number, or more tokens than a row's open window has.
        """
        most = min(len(row.open_ids) for row in self.rows)
        if not is_count(tokens) or tokens > most:
            raise ValueError(f"tokens={tokens!r} is not allowed; allowed: 0 to {most}, what every open window has")
        rows = tuple(self._shortened(row, tokens) for row in self.rows)
        return self._cut(replace(self, rows=rows)) if tokens else self

    def _shortened(self, row: RowState, tokens: int) -> RowState:
        left = len(row.open_ids) - tokens
        inserted = left // row.ratio if self.has_open_beacons and isinstance(row.ratio, int) and row.ratio else 0
        return replace(
            row,
            seen_tokens=row.seen_tokens - tokens,
            open_ids=row.open_ids[:left],
            window_slots=left + inserted,
            ratios=tuple(given for given in row.ratios if given[0] < left),
        )

    def _cut(self, after: "BeaconCache") -> "BeaconCache":
        """Return the cache with as many entries of each row and kind as `after` counts, the first ones."""
        counts = after._lengths
        keep = {
            kind: _spans(lengths, [(row, 0, count) for row, count in enumerate(counts[kind])])
            for kind, lengths in self._lengths.items()
        }
        return replace(self._take(after.rows, keep), selects=after.selects)

    def _take(self, rows: tuple[RowState, ...], keep: dict[str, Tensor]) -> "BeaconCache":
        """Return a cache of these rows, with the entries at the places `keep` of each kind of tensor."""
        unchanged = {kind for kind, lengths in self._lengths.items() if _is_all(keep[kind], sum(lengths))}
        keep = {kind: places.to(self.hidden.device) for kind, places in keep.items()}

        def take(group: object, name: str, tensor: Tensor) -> Tensor:
            kind = f"{name.split('_')[0]}{group}"
            return tensor if kind in unchanged else tensor.index_select(0, keep[kind])

        groups = self.groups or (0,) * len(self.layers)
        layers = tuple(layer.map(partial(take, group)) for group, layer in zip(groups, self.layers, strict=True))
        return replace(self, rows=rows, layers=layers, hidden=take("", "hidden", self.hidden))

    def to(self, target: torch.device | torch.dtype | str) -> "BeaconCache":
        """Return the cache on another device or in another dtype."""
        layers = tuple(layer.map(lambda _, tensor: tensor.to(target)) for layer in self.layers)
        return replace(self, layers=layers, hidden=self.hidden.to(target))  # type: ignore[call-overload]

    def to_transformers(self, tokens: int = 0) -> DynamicCache:
        """Return a Hugging Face cache, with which the plain backbone goes on as this model would.

        Its entries are rotated keys and values at the slots `[sink | beacons | overlap | open window]`. The model goes
        on at position `get_seq_length()`, the number of slots, and equals this one to rounding as long as the open
        window stays open. Beyond that the plain model keeps all it reads, where this one would compress.

            past = cache.to_transformers()
            mask = torch.ones(len(ids), past.get_seq_length() + ids.shape[1])
            plain.generate(ids, attention_mask=mask, past_key_values=past)  # ids: the question alone

        The plain model adds its own keys and values to the cache: make one for every question.

        Args:
            tokens: most tokens that the model will read from here, to be checked: those of the question, and of the
                answer all but the last one.

        Raises:
            ValueError: rows that use different numbers of slots, heads that keep different numbers of tokens, open
                windows with beacons, more tokens than the open window has room for, or fewer slots than a sliding
                window of the backbone has raw tokens.
        """
        slots = sorted({row.slots for row in self.rows})
        kinds = [self._kind(group) for group in self.groups or (0,) * len(self.layers)]
        if len({kind for kind in kinds if kind.reach is None}) > 1:
            raise ValueError(
                "a cache with head_budgets is not allowed: its heads keep different numbers of tokens, Hugging Face's "
                "caches one number; allowed: a cache of a model without head_budgets"
            )
        if self.has_open_beacons:
            raise ValueError(
                "unfinished='beacons' is not allowed: this model inserts beacons while it reads the answer, the plain "
                "backbone cannot; allowed: a cache that was read with unfinished='raw'"
            )
        if len(slots) > 1:
            raise ValueError(
                f"rows of {', '.join(map(str, slots))} slots are not allowed together: Hugging Face's caches have one "
                f"length; allowed: rows that use the same number of slots, such as those of cache.select([row])"
            )
        if not is_count(tokens) or tokens > self.room:
            raise ValueError(
                f"tokens={tokens!r} is not allowed: beyond the open window the plain backbone does not compress; "
                f"allowed: 0 to {self.room}, what the open window has room for"
            )
        return cache_export.dynamic_cache(self.rows, self.visible.layers, kinds, dict(self.fingerprint))

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, and its folder if need be. An older file stays until the new one is complete.

        Raises:
            ValueError: `path` is a folder.
        """
        layers = {f"{i}.{name}": tensor for i, layer in enumerate(self.layers) for name, tensor in vars(layer).items()}
        about = {name: getattr(self, name) for name in _SETTINGS} | {"rows": [asdict(row) for row in self.rows]}
        cache_files.write(Path(path), {"hidden": self.hidden, **layers}, about)

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> "BeaconCache":
        """Read what `save` wrote. Another model than the one that made the cache refuses it in its first call.

        Raises:
            ValueError: the file is missing, damaged or of another format.
        """
        tensors, about = cache_files.read(path, device)
        rows = tuple(RowState(**row) for row in about["rows"])
        count = sum(name.endswith(".memory_k") for name in tensors)
        none = {f"{i}.{name}": tensors[f"{i}.memory_k"][:0] for i in range(count) for name in _TENSORS}
        found = none | tensors  # an older file lacks some
        layers = tuple(LayerState(**{name: found[f"{i}.{name}"] for name in _TENSORS}) for i in range(count))
        return cls(rows, layers, tensors["hidden"], **{name: about[name] for name in _SETTINGS if name in about})


# What caches of one model and one open-window mode share.
_SETTINGS = ("fingerprint", "unfinished", "interleaved", "selects", "groups", "reaches")
_TENSORS = tuple(entry.name for entry in fields(LayerState))


def _check_alike(caches: Sequence[BeaconCache]) -> None:
    """Raise a ValueError unless the caches can be put into one."""
    first = caches[0]
    for cache in caches[1:]:
        for name in _SETTINGS:
            if getattr(cache, name) != getattr(first, name):
                raise ValueError(f"the caches differ in {name}; allowed: caches of one model and one open-window mode")
        for name in ("dtype", "device"):
            wanted, other = getattr(first.hidden, name), getattr(cache.hidden, name)
            if wanted != other:
                raise ValueError(f"the caches have {name} {wanted} and {other}; allowed: one {name}")


def _spans(lengths: Sequence[int], spans: Sequence[tuple[int, int, int]]) -> Tensor:
    """Return the places of spans (row, start, end) among rows of these lengths end to end."""
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    return torch.cat([torch.arange(starts[row] + start, starts[row] + end) for row, start, end in spans])


def _is_all(places: Tensor, count: int) -> bool:
    return len(places) == count and bool((places == torch.arange(count)).all())
