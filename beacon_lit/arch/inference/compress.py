"""Read text into a cache, a few windows at a time."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from beacon_lit.arch.cache import BeaconCache
from beacon_lit.arch.core import BeaconModel
from beacon_lit.arch.inference.fingerprint import check_cache
from beacon_lit.arch.inference.lockstep import check_alike
from beacon_lit.arch.inference.start import empty_cache, open_window_mode
from beacon_lit.arch.plan.call import totals
from beacon_lit.arch.plan.ratios import passed_ratios
from beacon_lit.arch.plan.rows import Rows, check_ids
from beacon_lit.arch.plan.state import RowState
from beacon_lit.arch.plan.windows import sizes
from beacon_lit.arch.ratios import Ratio, Ratios
from beacon_lit.checks import is_count

CHUNK_WINDOWS = 8  # most windows read at once, all rows together
Progress = Callable[[BeaconCache, float], None]


def compress(
    lm: BeaconModel,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    cache: BeaconCache | None = None,
    ratios: Ratios | None = None,
    skip: int = 0,
    total_length: int | Sequence[int] | None = None,
    progress: Progress | None = None,
) -> BeaconCache:
    """Read text into a cache, without logits, a few windows at a time; see `compress_iter`.

    After every chunk, `progress` is called with the cache so far and the share of the text that is read.
    """
    with _handing_over(lambda: cache):
        for reached, share in compress_iter(lm, input_ids, attention_mask, cache, ratios, skip, total_length):
            cache = reached
            if progress is not None:
                progress(cache, share)
    assert cache is not None
    return cache


@torch.no_grad()
def compress_iter(
    lm: BeaconModel,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    cache: BeaconCache | None = None,
    ratios: Ratios | None = None,
    skip: int = 0,
    total_length: int | Sequence[int] | None = None,
    chunk_tokens: int | None = None,
) -> Iterator[tuple[BeaconCache, float]]:
    """Read text into a cache, without logits, a few windows at a time.

    Args:
        input_ids: (B, L) int64.
        attention_mask: (B, L) of 0 and 1.
        cache: the cache to continue from; default: an empty one.
        ratios: as for `forward`, for all windows that the text touches.
        skip: number of first tokens of the sequence that are kept uncompressed; windows count from their end.
        total_length: raw tokens that the sequences will have, or one count per row, for policies that plan ahead;
            default, and at least: the tokens at the end of this text.
        chunk_tokens: read fewer windows at once, of so many tokens at most but at least one, all rows together. This
            takes less memory and more time. Default: a few windows of any size.

    Yields:
        The cache so far, and the share of the text that is read.

    Raises:
        ValueError: as `forward`; a `skip` that is negative, beyond the text or given with a cache; texts whose lengths
            differ between ranks that share the model. An exception that interrupts the reading carries the cache so
            far in its attribute `cache`.
    """
    if attention_mask is not None and cache is not None:
        attention_mask = attention_mask[:, -input_ids.shape[1] :]
    rows, window = Rows.of(input_ids, attention_mask), lm.beacon.window
    if not is_count(skip) or skip > min(rows.lengths) or (skip and cache is not None):
        raise ValueError(
            f"skip={skip!r} is not allowed; allowed: 0 to {min(rows.lengths)}, the text's length, and 0 with a cache"
        )
    if cache is None:
        cache = empty_cache(lm, len(rows.lengths), skip or window)
        head = replace(cache.rows[0], ratios=((-1, 0),) if skip else ())
        cache = replace(cache, rows=(head,) * len(cache.rows))
    else:
        check_cache(cache, lm)
    if len(cache.rows) != len(rows.lengths):
        raise ValueError(f"the cache has {len(cache.rows)} rows, input_ids {len(rows.lengths)}; allowed: the same")
    check_alike(lm, "the length of the texts", rows.lengths, [state.seen_tokens for state in cache.rows])
    packed = rows.pack(input_ids.cpu())
    check_ids(packed, lm.config.vocab_size, "input_ids")
    pairs = list(zip(cache.rows, rows.lengths, strict=True))
    given = None
    if ratios is not None:
        given = passed_ratios(ratios, [len(sizes(*pair, window)) for pair in pairs], window)
    passed = totals(total_length, len(pairs)) or [0] * len(pairs)
    ends = [max(total, state.seen_tokens + length) for total, (state, length) in zip(passed, pairs, strict=True)]
    # Refuse what does not fit before anything runs.
    lm.plan(rows.lengths, cache, open_window_mode(lm, None, cache), given, None, ends)
    texts = [
        _Text(ids, ends[i], None if given is None else given[i]) for i, ids in enumerate(packed.split(rows.lengths))
    ]
    windows = CHUNK_WINDOWS if chunk_tokens is None else min(max(chunk_tokens // window, 1), CHUNK_WINDOWS)
    previous = None
    while any(len(text.ids) for text in texts):
        with _handing_over(lambda reached=cache: reached):  # type: ignore[misc]
            cache = _read_chunk(lm, texts, cache, windows)
            previous = _wait_for(previous, cache.hidden)
        yield cache, 1 - sum(len(text.ids) for text in texts) / len(packed)


def _read_chunk(lm: BeaconModel, texts: Sequence["_Text"], cache: BeaconCache, windows: int) -> BeaconCache:
    """Read a number of windows of the first rows that have text left."""
    rows = [row for row, text in enumerate(texts) if len(text.ids)][:windows]
    before = cache.select(rows)
    reading = [texts[row] for row in rows]
    ratios = None if reading[0].ratios is None else [text.ratios or [] for text in reading]
    each = max(windows // len(rows), 1)
    ids = [text.take(_room(row, lm.beacon.window, each)) for text, row in zip(reading, before.rows, strict=True)]
    more, ends = [len(text.ids) > 0 for text in reading], [text.total for text in reading]
    call = lm.plan([len(row) for row in ids], before, open_window_mode(lm, None, before), ratios, None, ends, more)
    _, after = lm.read(torch.cat(ids), call, before)
    assert after is not None
    for text, was, now in zip(reading, before.rows, after.rows, strict=True):
        text.ratios = text.ratios and text.ratios[now.windows - was.windows :]
    return after if len(rows) == len(texts) else cache.put(rows, after)


class _Text:
    """The text of a row that is still to be read, with the ratios of its windows."""

    def __init__(self, ids: Tensor, total: int, ratios: list[Ratio] | None) -> None:
        self.ids, self.total, self.ratios = ids, total, ratios

    def take(self, count: int) -> Tensor:
        """Remove and return the next ids."""
        taken, self.ids = self.ids[:count], self.ids[count:]
        return taken


def _room(state: RowState, window: int, windows: int) -> int:
    """Return the number of tokens that a row reads in one chunk, up to the end of a window."""
    return (state.capacity - len(state.open_ids) or window) + (windows - 1) * window


def _wait_for(previous: torch.cuda.Event | None, result: Tensor) -> torch.cuda.Event | None:
    """Wait for the previous chunk, so that at most two are under way and the reported progress is real."""
    if not result.is_cuda:
        return None
    if previous is not None:
        previous.synchronize()
    event = torch.cuda.Event()
    event.record()
    return event


@contextmanager
def _handing_over(cache: Callable[[], BeaconCache | None]) -> Iterator[None]:
    """Attach the cache so far to an exception that interrupts the reading."""
    try:
        yield
    except BaseException as error:
        reached = cache()
        if reached is not None:
            error.cache = reached  # type: ignore[attr-defined]
        raise
