"""Reading and writing text with a cache: `compress`, and Hugging Face's `generate`."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from beacon_lit.arch.cache import BeaconCache
from beacon_lit.arch.call import plan_call
from beacon_lit.arch.config import as_tuple, is_count
from beacon_lit.arch.ratio import Ratios, is_row, passed_ratios
from beacon_lit.arch.rows import Rows, check_ids
from beacon_lit.arch.windows import sizes

_Model: Any = object  # the model's own methods are in `BeaconLM`, which comes after this class

CHUNK_WINDOWS = 8  # windows that `compress` reads at once


class BeaconGeneration(_Model):
    """The part of `BeaconLM` that reads into caches and generates from them."""

    @torch.no_grad()
    def compress(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: BeaconCache | None = None,
        ratios: Ratios | None = None,
        skip: int = 0,
        total_length: int | None = None,
    ) -> BeaconCache:
        """Read text into a cache, without logits, a few windows at a time; see `compress_iter`."""
        for reached, _ in self.compress_iter(input_ids, attention_mask, cache, ratios, skip, total_length):
            cache = reached
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
        total_length: int | None = None,
    ) -> Iterator[tuple[BeaconCache, float]]:
        """Read text into a cache, without logits, a few windows at a time.

        Args:
            input_ids: (B, L) int64. Rows of different lengths are read in one piece.
            attention_mask: (B, L) of 0 and 1.
            cache: continue that sequence.
            ratios: as for `forward`, for all windows that the text touches.
            skip: a head of the sequence of so many tokens that is kept uncompressed; windows count from its end.
            total_length: for the policy "adapt-N"; default: what the sequence has at the end of this text.

        Yields:
            The cache so far, and the share of the text that it has read.

        Raises:
            ValueError: as `forward`; a negative `skip`, or one with a cache or beyond the text.
        """
        if attention_mask is not None and cache is not None:
            attention_mask = attention_mask[:, -input_ids.shape[1] :]
        rows = Rows.of(input_ids, attention_mask)
        if not is_count(skip) or skip > min(rows.lengths) or (skip and cache is not None):
            raise ValueError(
                f"skip={skip!r} is not allowed; allowed: 0 to the text's {min(rows.lengths)}, 0 with a cache"
            )
        cache = self._empty_cache(len(rows.lengths), skip or self.beacon.window) if cache is None else cache
        totals = [
            total_length or state.seen_tokens + length for state, length in zip(cache.rows, rows.lengths, strict=True)
        ]
        counts = [
            len(sizes(state, length, self.beacon.window))
            for state, length in zip(cache.rows, rows.lengths, strict=True)
        ]
        given = None if ratios is None else passed_ratios(ratios, counts, self.beacon.window)
        if skip:
            given = [[0, *row[1:]] for row in given] if given else None
        start = 0
        while start < rows.width:
            state = cache.rows[0]
            room = state.capacity - len(state.open_ids) + max(CHUNK_WINDOWS - 1, 1) * self.beacon.window
            end = rows.width if rows.padded else min(start + room, rows.width)
            ids = input_ids[:, start:end]
            part = Rows.of(ids, attention_mask if rows.padded else None)
            more, head = end < rows.width, skip > 0
            mode = self._mode(None, cache)
            limits = (self.beacon, self.positions)
            call = plan_call(*limits, part.lengths, cache, mode, given, None, totals, more, head)
            packed = part.pack(ids)
            check_ids(packed, self.config.vocab_size, "input_ids")
            _, after = self._read(packed, part, call, cache, keep=True)
            assert after is not None
            if given is not None:
                given = [
                    row[now.windows - was.windows :]
                    for row, now, was in zip(given, after.rows, cache.rows, strict=True)
                ]
            cache, start, skip = after, end, 0
            yield cache, start / rows.width

    def generate(self, inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """Hugging Face's `generate`. With `cache=` the ids given are the new text; that cache stays as it is.

        Ratios given per window are for those of the prompt and of what is generated; the last goes on as long as need
        be. With `return_dict_in_generate=True`, `past_key_values` is the cache at the end (none with beams, whose last
        step is not what they return; rows that ended early have read padding).

        Raises:
            ValueError: padding at the prompt's end, or as many rows as the cache does not have; see also `forward`.
        """
        if isinstance(kwargs.get("past_key_values"), BeaconCache):
            kwargs["cache"] = kwargs.pop("past_key_values")
        ids, mask, cache = kwargs.get("input_ids", inputs), kwargs.get("attention_mask"), kwargs.get("cache")
        if ids is not None and cache is not None and len(ids) != len(cache.rows):
            raise ValueError(f"the cache has {len(cache.rows)} rows, input_ids {len(ids)}; allowed: the same")
        if mask is not None and not bool(mask[:, -1].all()):
            raise ValueError("attention_mask ends with zeros; allowed: padding on the left, text goes on at the end")
        new = kwargs.get("max_new_tokens") or getattr(kwargs.get("generation_config"), "max_new_tokens", None)
        if self.beacon.adapt is not None and ids is not None and new is not None:
            kwargs.setdefault("total_length", (cache.seen_tokens if cache else 0) + ids.shape[1] + new)
        kwargs["use_cache"] = False  # theirs; ours goes from step to step below
        out = super().generate(inputs, *args, **kwargs)
        if getattr(out, "beam_indices", None) is not None:
            out.past_key_values = None
        return out

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
        """What `generate` passes to `forward` for one more token."""
        passed = {name: kwargs.get(name) for name in ("attention_mask", "unfinished", "total_length")}
        cache: BeaconCache | None = kwargs.get("past_key_values")
        new = input_ids if cache is None else input_ids[:, -1:]
        if cache is None and kwargs.get("cache") is not None:
            cache = kwargs["cache"]
            beams = len(input_ids) // len(cache.rows)
            cache = cache.select([row for row in range(len(cache.rows)) for _ in range(beams)]) if beams > 1 else cache
        ratios = _per_row(kwargs.get("ratios"), len(input_ids))
        return {"input_ids": new, "cache": cache, "ratios": ratios, "use_cache": True, "logits_to_keep": 1, **passed}

    def _update_model_kwargs_for_generation(self, outputs: Any, model_kwargs: dict[str, Any], **options: Any) -> Any:
        before: BeaconCache | None = model_kwargs.get("past_key_values") or model_kwargs.get("cache")
        model_kwargs = super()._update_model_kwargs_for_generation(outputs, model_kwargs, **options)
        ratios = _remaining(model_kwargs.get("ratios"), before, outputs.cache)
        return model_kwargs | {"past_key_values": outputs.cache, "ratios": ratios}

    def _reorder_cache(self, cache: BeaconCache, beams: Tensor) -> BeaconCache:
        return cache.select(beams.tolist())


def _per_row(ratios: Ratios | None, batch: int) -> Any:
    """Ratios per window, as a sequence for each row of a batch whose rows may be beams; one ratio for all as it is."""
    given = as_tuple(ratios)
    if given == (ratios,):
        return ratios
    rows = [as_tuple(row) for row in given] if any(map(is_row, given)) else [given] * batch
    return [row for row in rows for _ in range(batch // len(rows))] if batch % len(rows) == 0 else rows


def _remaining(ratios: Ratios | None, before: BeaconCache | None, after: BeaconCache) -> Ratios | None:
    """What is left of ratios per window for the next token: from the open window's on; the last goes on."""
    rows = _per_row(ratios, len(after.rows))
    if rows is ratios:
        return ratios
    left = []
    for i, (row, state) in enumerate(zip(rows, after.rows, strict=True)):
        closed = state.windows - (before.rows[i * len(before.rows) // len(rows)].windows if before else 0)
        rest = row[min(closed, len(row) - 1) :]
        left.append(rest if len(rest) > 1 else rest * 2)
    return left
