"""Reading text into a cache, a few windows at a time."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from beacon_lit.arch.cache import BeaconCache, RowState
from beacon_lit.arch.call import plan_call, totals
from beacon_lit.arch.config import is_count
from beacon_lit.arch.fingerprint import check_cache
from beacon_lit.arch.lockstep import check_alike
from beacon_lit.arch.ratio import Ratio, Ratios, passed_ratios
from beacon_lit.arch.rows import Rows, check_ids
from beacon_lit.arch.windows import sizes

_Model: Any = object  # the model's own methods are in `BeaconLM`, which comes after this class

CHUNK_WINDOWS = 8  # windows that are read at once, of all rows together
Progress = Callable[[BeaconCache, float], None]


class BeaconCompression(_Model):
    """The part of `BeaconLM` that reads into caches."""

    @torch.no_grad()
    def compress(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: BeaconCache | None = None,
        ratios: Ratios | None = None,
        skip: int = 0,
        total_length: int | Sequence[int] | None = None,
        progress: Progress | None = None,
    ) -> BeaconCache:
        """Read text into a cache, without logits, a few windows at a time; see `compress_iter`.

        `progress` is called with the cache so far and the share of the text that it has read, after every chunk. What
        interrupts the reading, an error or Ctrl-C, carries the cache so far in its attribute `cache`.
        """
        with _handing_over(lambda: cache):
            for reached, share in self.compress_iter(input_ids, attention_mask, cache, ratios, skip, total_length):
                cache = reached
                if progress is not None:
                    progress(cache, share)
        assert cache is not None
        return cache

    @torch.no_grad()
    def compress_iter(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: BeaconCache | None = None,
        ratios: Ratios | None = None,
        skip: int = 0,
        total_length: int | Sequence[int] | None = None,
    ) -> Iterator[tuple[BeaconCache, float]]:
        """Read text into a cache, without logits, a few windows at a time.

        Args:
            input_ids: (B, L) int64.
            attention_mask: (B, L) of 0 and 1.
            cache: continue that sequence.
            ratios: as for `forward`, for all windows that the text touches.
            skip: a head of the sequence of so many tokens that is kept uncompressed; windows count from its end.
            total_length: for the policy "adapt-N", of all rows or of each; default, and at least: what the sequence
                has at the end of this text.

        Yields:
            The cache so far, and the share of the text that it has read.

        Raises:
            ValueError: as `forward`; a negative `skip`, or one with a cache or beyond the text; texts of other lengths
                on one rank than on another, where the model is spread over them. What interrupts the reading carries
                the cache so far in its attribute `cache`.
        """
        if attention_mask is not None and cache is not None:
            attention_mask = attention_mask[:, -input_ids.shape[1] :]
        rows, window = Rows.of(input_ids, attention_mask), self.beacon.window
        if not is_count(skip) or skip > min(rows.lengths) or (skip and cache is not None):
            raise ValueError(
                f"skip={skip!r} is not allowed; allowed: 0 to the text's {min(rows.lengths)}, 0 with a cache"
            )
        if cache is None:
            cache = self._empty_cache(len(rows.lengths), skip or window)
            head = replace(cache.rows[0], ratios=((-1, 0),) if skip else ())
            cache = replace(cache, rows=(head,) * len(cache.rows))
        else:
            check_cache(cache, self)
        if len(cache.rows) != len(rows.lengths):
            raise ValueError(f"the cache has {len(cache.rows)} rows, input_ids {len(rows.lengths)}; allowed: the same")
        check_alike(self, "the length of the texts", rows.lengths, [state.seen_tokens for state in cache.rows])
        packed = rows.pack(input_ids).cpu()
        check_ids(packed, self.config.vocab_size, "input_ids")
        pairs = list(zip(cache.rows, rows.lengths, strict=True))
        given = None
        if ratios is not None:
            given = passed_ratios(ratios, [len(sizes(*pair, window)) for pair in pairs], window)
        asked = totals(total_length, len(pairs)) or [0] * len(pairs)
        ends = [max(total, state.seen_tokens + length) for total, (state, length) in zip(asked, pairs, strict=True)]
        mode = self._mode(None, cache)
        # Refuse what does not fit before anything runs.
        plan_call(self.beacon, self.positions, rows.lengths, cache, mode, given, None, ends)
        texts = [
            _Text(ids, ends[i], None if given is None else given[i]) for i, ids in enumerate(packed.split(rows.lengths))
        ]
        previous = None
        while any(len(text.ids) for text in texts):
            with _handing_over(lambda reached=cache: reached):  # type: ignore[misc]
                cache = self._read_chunk(texts, cache)
                previous = _wait_for(previous, cache.hidden)
            yield cache, 1 - sum(len(text.ids) for text in texts) / len(packed)

    def _read_chunk(self, texts: Sequence["_Text"], cache: BeaconCache) -> BeaconCache:
        """Read up to the end of some windows of the first rows that have text left."""
        rows = [row for row, text in enumerate(texts) if len(text.ids)][:CHUNK_WINDOWS]
        before = cache.select(rows)
        reading = [texts[row] for row in rows]
        ratios = None if reading[0].ratios is None else [text.ratios or [] for text in reading]
        ids = [
            text.take(_room(row, self.beacon.window, len(rows))) for text, row in zip(reading, before.rows, strict=True)
        ]
        lengths, more = tuple(map(len, ids)), [len(text.ids) > 0 for text in reading]
        ends, mode = [text.total for text in reading], self._mode(None, before)
        call = plan_call(self.beacon, self.positions, lengths, before, mode, ratios, None, ends, more)
        _, after = self._read(torch.cat(ids), Rows((0,) * len(ids), lengths, max(lengths)), call, before, keep=True)
        assert after is not None
        for text, was, now in zip(reading, before.rows, after.rows, strict=True):
            text.ratios = text.ratios and text.ratios[now.windows - was.windows :]
        return after if len(rows) == len(texts) else cache.put(rows, after)


class _Text:
    """What of a row is still to be read."""

    def __init__(self, ids: Tensor, total: int, ratios: list[Ratio] | None) -> None:
        self.ids, self.total, self.ratios = ids, total, ratios

    def take(self, count: int) -> Tensor:
        """The next ids."""
        taken, self.ids = self.ids[:count], self.ids[count:]
        return taken


def _room(state: RowState, window: int, rows: int) -> int:
    """Tokens that a row reads in one chunk, up to the end of a window."""
    return (state.capacity - len(state.open_ids) or window) + (max(CHUNK_WINDOWS // rows, 1) - 1) * window


def _wait_for(previous: torch.cuda.Event | None, result: Tensor) -> torch.cuda.Event | None:
    """Wait until the chunk before is done, so that at most two are under way and progress is what has happened."""
    if not result.is_cuda:
        return None
    if previous is not None:
        previous.synchronize()
    event = torch.cuda.Event()
    event.record()
    return event


@contextmanager
def _handing_over(cache: Callable[[], BeaconCache | None]) -> Iterator[None]:
    """Give what interrupts a reading the cache so far."""
    try:
        yield
    except BaseException as error:
        reached = cache()
        if reached is not None:
            error.cache = reached  # type: ignore[attr-defined]
        raise
