"""Hugging Face's `generate` on a beacon model, from prompts or from caches."""

from dataclasses import replace
from typing import Any

from torch import Tensor
from transformers import MaxLengthCriteria

from beacon_lit.arch.cache import BeaconCache
from beacon_lit.arch.compression import CHUNK_WINDOWS
from beacon_lit.arch.config import as_tuple
from beacon_lit.arch.decoding import Decoding, Finished, remaining, start_decoding
from beacon_lit.arch.ratio import Ratio, Ratios, is_row, policy_ratios

_Model: Any = object  # the model's own methods are in `BeaconLM`, which comes after this class


class BeaconGeneration(_Model):
    """The part of `BeaconLM` that generates."""

    def generate(self, inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """Hugging Face's `generate`. With `cache=` the ids given are the new text; that cache stays as it is.

        A prompt of many windows is read in chunks, as by `compress`. Ratios given per window are for those of the
        prompt and of what is generated; the last goes on as long as need be. With `return_dict_in_generate=True`,
        `past_key_values` is the cache at the end, which has read all but each row's last token (none with beams, whose
        last step is not what they return).

        Raises:
            ValueError: padding at the prompt's end, as many rows as the cache does not have, or no ratio for windows
                that will close; see also `forward`.
        """
        if isinstance(kwargs.get("past_key_values"), BeaconCache):
            kwargs["cache"] = kwargs.pop("past_key_values")
        ids, mask, cache = kwargs.get("input_ids", inputs), kwargs.get("attention_mask"), kwargs.get("cache")
        if ids is not None and cache is not None and len(ids) != len(cache.rows):
            raise ValueError(f"the cache has {len(cache.rows)} rows, input_ids {len(ids)}; allowed: the same")
        if mask is not None and not bool(mask[:, -1].all()):
            raise ValueError("attention_mask ends with zeros; allowed: padding on the left, text goes on at the end")
        new = kwargs.get("max_new_tokens") or getattr(kwargs.get("generation_config"), "max_new_tokens", None)
        if ids is not None and new is not None:
            self._prepare_ratios(ids.shape[1] + new, cache, kwargs)
        if ids is not None and ids.shape[1] > CHUNK_WINDOWS * self.beacon.window:
            self._compress_prompt(ids, mask, cache, kwargs)
        kwargs["use_cache"] = False  # theirs; ours goes from step to step below
        out = super().generate(inputs, *args, **kwargs)
        if isinstance(getattr(out, "past_key_values", None), Decoding):
            beams = getattr(out, "beam_indices", None) is not None
            out.past_key_values = None if beams else out.past_key_values.cache()
        return out

    def _prepare_ratios(self, length: int, cache: BeaconCache | None, kwargs: dict[str, Any]) -> None:
        """What choosing ratios for `length` more tokens needs: told, or refused, before the first of them."""
        if self.beacon.adapt is not None:
            kwargs.setdefault("total_length", (cache.seen_tokens if cache else 0) + length)
        elif kwargs.get("ratios") is None and not self.training:
            window = self.beacon.window
            known = [
                row.capacity - len(row.open_ids) + (window if row.ratio is not None and row.open_ids else 0)
                for row in (() if cache is None else cache.rows)
            ]  # tokens until a window closes that has no ratio yet
            if length > min(known, default=window):
                policy_ratios(self.beacon, [length], [1], self.positions, None)

    def _compress_prompt(
        self, ids: Tensor, mask: Tensor | None, cache: BeaconCache | None, kwargs: dict[str, Any]
    ) -> None:
        """Read all but the last token of a prompt into `kwargs["cache"]`, in chunks."""
        mask = None if mask is None else mask[:, -ids.shape[1] :]
        head = None if mask is None else mask[:, :-1]
        ratios, total = kwargs.get("ratios"), kwargs.get("total_length")
        if cache is None:
            mode = self._mode(kwargs.get("unfinished"), None)
            cache = replace(self._empty_cache(len(ids), self.beacon.window), unfinished=mode)
        read = self.compress(ids[:, :-1], head, cache, ratios, total_length=total)
        rows = _per_row(ratios, len(ids))
        if isinstance(rows, list):
            triples = zip(rows, cache.rows, read.rows, strict=True)
            kwargs["ratios"] = [remaining(row, now.windows - was.windows) for row, was, now in triples]
        kwargs |= {"cache": read, "prompt_is_read": True}

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, prompt_is_read: bool = False, finished: Finished | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """What `generate` passes to `forward` for one more token, or for the prompt."""
        passed = {name: kwargs.get(name) for name in ("attention_mask", "unfinished", "total_length")}
        if isinstance(kwargs.get("past_key_values"), Decoding):
            return {"input_ids": input_ids[:, -1:], "cache": kwargs["past_key_values"]}
        cache: BeaconCache | None = kwargs.get("cache")
        if cache is not None:
            beams = len(input_ids) // len(cache.rows)
            cache = cache.select([row for row in range(len(cache.rows)) for _ in range(beams)]) if beams > 1 else cache
        new = input_ids[:, -1:] if prompt_is_read else input_ids
        ratios = _per_row(kwargs.get("ratios"), len(input_ids))
        return {"input_ids": new, "cache": cache, "ratios": ratios, "use_cache": True, "logits_to_keep": 1, **passed}

    def _update_model_kwargs_for_generation(self, outputs: Any, model_kwargs: dict[str, Any], **options: Any) -> Any:
        decoding = outputs.cache
        if isinstance(decoding, BeaconCache):  # the prompt has been read
            ratios = _remaining(model_kwargs.get("ratios"), model_kwargs.get("cache"), decoding)
            finished, total = model_kwargs.get("finished"), model_kwargs.get("total_length")
            decoding = start_decoding(self, decoding, ratios, total, finished)
        model_kwargs = super()._update_model_kwargs_for_generation(outputs, model_kwargs, **options)
        return model_kwargs | {"past_key_values": decoding, "cache": None}

    def _sample(
        self, input_ids: Tensor, logits_processor: Any, stopping_criteria: Any, *args: Any, **kwargs: Any
    ) -> Any:
        finished = Finished(stopping_criteria)
        return super()._sample(input_ids, logits_processor, finished, *args, finished=finished, **kwargs)

    def _get_stopping_criteria(self, *args: Any, **kwargs: Any) -> Any:
        criteria = super()._get_stopping_criteria(*args, **kwargs)
        for criterion in criteria:
            if isinstance(criterion, MaxLengthCriteria):  # it warns beyond the backbone's length, which slots do not
                criterion.max_position_embeddings = None
        return criteria

    def _reorder_cache(self, decoding: Decoding, beams: Tensor) -> Decoding:
        decoding.reorder(beams)
        return decoding


def _per_row(ratios: Ratios | None, batch: int) -> Any:
    """Ratios per window, as a list for each row of a batch whose rows may be beams; one ratio for all as it is."""
    given = as_tuple(ratios)
    if given == (ratios,):
        return ratios
    rows = [list(as_tuple(row)) for row in given] if any(map(is_row, given)) else [list(given)] * batch
    return [row for row in rows for _ in range(batch // len(rows))] if batch % len(rows) == 0 else rows


def _remaining(
    ratios: Ratios | None, before: BeaconCache | None, after: BeaconCache
) -> Ratio | list[list[Ratio]] | None:
    """What is left of ratios per window for the next token: from the open window's on; the last goes on."""
    rows = _per_row(ratios, len(after.rows))
    if not isinstance(rows, list):
        return rows
    left = []
    for i, (row, state) in enumerate(zip(rows, after.rows, strict=True)):
        was = before.rows[i * len(before.rows) // len(rows)].windows if before else 0
        left.append(remaining(row, state.windows - was))
    return left
