"""Generate with Hugging Face's `generate`: read prompts in chunks, then decode token by token from a cache."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin, MaxLengthCriteria

from beacon_lit.arch.cache import BeaconCache
from beacon_lit.arch.checkpoint.sharded import is_spread
from beacon_lit.arch.core import BeaconModel
from beacon_lit.arch.inference.arguments import check_generate
from beacon_lit.arch.inference.cache_names import cache_of, name_in
from beacon_lit.arch.inference.decode import Decoding, Finished, PerRow, of_rows, remaining, remaining_ratios
from beacon_lit.arch.inference.decode_static import start_decoding
from beacon_lit.arch.inference.fingerprint import check_cache
from beacon_lit.arch.inference.lockstep import check_alike, drawing_alike
from beacon_lit.arch.inference.prompts import Prompts
from beacon_lit.arch.inference.start import empty_cache, open_window_mode
from beacon_lit.arch.plan.call import check_totals, totals, undecided
from beacon_lit.arch.plan.ratios import is_row, policy_in
from beacon_lit.arch.plan.rows import Rows
from beacon_lit.arch.plan.state import RowState
from beacon_lit.arch.plan.windows import sizes
from beacon_lit.arch.ratios import Ratios, RowWindows
from beacon_lit.checks import as_tuple


class BeaconGeneration(BeaconModel, GenerationMixin):
    """A beacon model that generates. All methods except `generate` are hooks that Hugging Face's `generate` calls."""

    def generate(self, inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """Generate with Hugging Face's `generate`. A prompt of many windows is read in chunks, as by `compress`.

        Args:
            inputs: (B, L) int64 prompts, padded on the left; with a cache, the new text alone.
            args: see Hugging Face's `generate`.
            kwargs: `cache`, the cache to continue from, which stays unchanged: of as many rows, or of one row, from
                which all prompts continue, without a copy of it for each; `ratios`, for the windows of prompt and
                answer, of which the last serves all further windows; `unfinished` and `total_length`, see `forward`;
                and the options of Hugging Face.

        Returns:
            (B, L + new) ids of prompts and answers. With `return_dict_in_generate=True`, Hugging Face's output, whose
            `past_key_values` (`cache` from transformers 5.24 on) is the cache at the end, which has read all tokens but
            each row's last one; None for beam search, whose result is not that of the last step.

        Raises:
            ValueError: padding on the right, another number of rows than a cache of several has, no ratio for windows
                that will close, or attentions or hidden states as outputs; if the model is spread over ranks, training
                mode, or prompts that differ between ranks; see also `forward`.
        """
        check_generate(kwargs)
        if isinstance(kwargs.get("past_key_values"), BeaconCache):
            kwargs["cache"] = kwargs.pop("past_key_values")
        ids, mask, cache = kwargs.get("input_ids", inputs), kwargs.get("attention_mask"), kwargs.get("cache")
        if ids is not None and ids.ndim != 2:
            raise ValueError(f"input_ids has shape {tuple(ids.shape)}; allowed: (B, L)")
        if mask is not None and not bool(mask[:, -1].all()):
            raise ValueError("attention_mask ends with zeros; allowed: padding on the left, where no text is added")
        if self.training and is_spread(self):
            raise ValueError(
                "generate is not allowed in training mode where the model is spread over ranks, each of which draws "
                "ratios of its own; allowed: lm.eval()"
            )
        check_alike(self, "what generate was given", ids, mask, None if cache is None else cache.rows)
        with drawing_alike(self):
            out = super().generate(inputs, *args, **kwargs)
        if not isinstance(out, Tensor) and isinstance(decoding := cache_of(out), Decoding):
            beams = getattr(out, "beam_indices", None) is not None
            setattr(out, name_in(out), None if beams else decoding.cache())
        return out

    def _prepare_cache_for_generation(self, generation_config: Any, *args: Any, **kwargs: Any) -> None:
        generation_config.use_cache = False  # Hugging Face's cache; ours is passed from step to step below
        for name in ("output_attentions", "output_hidden_states"):
            if getattr(generation_config, name):
                raise ValueError(f"{name}=True is not allowed; allowed: False")

    def _prefill(
        self, input_ids: Tensor, generation_config: Any, model_kwargs: dict[str, Any], *_: Any, **__: Any
    ) -> Any:
        """Read the prompts, each once for all of its beams, and start decoding."""
        copies = max(generation_config.num_beams, generation_config.num_return_sequences)
        mask = model_kwargs.get("attention_mask")
        ids, mask = input_ids[::copies], None if mask is None else mask[::copies, -input_ids.shape[1] :]
        lengths = Rows.of(ids, mask).lengths
        cache = model_kwargs.pop("cache", None)
        unfinished = open_window_mode(self, model_kwargs.get("unfinished"), cache)
        if cache is not None:
            check_cache(cache, self)
            if len(cache.rows) not in (1, len(ids)):
                raise ValueError(
                    f"the cache has {len(cache.rows)} rows, input_ids {len(ids)}; allowed: the same, or 1 row"
                )
        before = replace(empty_cache(self, len(ids)) if cache is None else cache, unfinished=unfinished)
        new = generation_config.max_length - ids.shape[1]
        ends = totals(model_kwargs.get("total_length"), len(ids))
        places = range(len(ids)) if len(before.rows) == len(ids) else [0] * len(ids)
        ratios = _per_row(model_kwargs.get("ratios"), len(ids))
        prompts, order = Prompts(self, ids, mask, lengths, before, places, ratios, ends), range(len(input_ids))
        check_totals(ends, prompts.states, lengths)
        pairs = list(zip(prompts.states, lengths, strict=True))
        if self.beacon.policy.plans_ahead and ends is None:
            prompts = replace(prompts, totals=[state.seen_tokens + length + new for state, length in pairs])
        if ratios is None and not self.training:
            for state, length in pairs:
                self._check_policy(state, length + new - 1, unfinished)  # the last token is not read
        greedy = not generation_config.do_sample and generation_config.num_beams == 1
        return self._decode_from(prompts, [row // copies for row in order], model_kwargs.get("finished"), greedy)

    def _decode_from(self, prompts: Prompts, order: Sequence[int], finished: Finished | None, greedy: bool) -> Any:
        """Start decoding: row i continues prompt `order[i]`.

        Rows are loaded as their prompts are read. Prompts of one token are not read first: they are the first step.
        """
        read = prompts.plan()
        one = prompts.ids.shape[1] == 1 and not self.training
        states = prompts.states if one else read
        ratios = of_rows(remaining_ratios(prompts.ratios, prompts.states, states), order)
        empty = replace(empty_cache(self, len(order)), unfinished=prompts.before.unfinished)
        decoding = start_decoding(self, empty, ratios, of_rows(prompts.totals, order), finished, states, greedy)
        if one:
            for row, prompt in enumerate(order):
                decoding.replace([row], prompts.noted(prompt, read[prompt]), [prompts.places[prompt]])
            return self(prompts.ids[order], cache=decoding)
        logits = []
        for group in prompts.groups():
            out = prompts.select(group).read()
            rows = [row for row, prompt in enumerate(order) if prompt in group]
            decoding.replace(rows, out.cache, [group.index(order[row]) for row in rows])
            out.cache = decoding  # its own is dropped before the next one is made
            logits.append(out.logits)
        out.logits = torch.cat(logits)[order]
        return out

    def _check_policy(self, state: RowState, length: int, unfinished: str) -> None:
        """Raise a ValueError if the policy cannot choose a ratio that a row needs for `length` more tokens."""
        if undecided(state, len(sizes(state, length, self.beacon.window)), False, unfinished):
            policy_in(self.beacon, training=False).choose(RowWindows(0, 0, 1, length), self.limits, None)

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
        """Return what `generate` passes to `forward` for the next token."""
        return {"input_ids": input_ids[:, -1:], "cache": kwargs["past_key_values"]}

    def _update_model_kwargs_for_generation(self, outputs: Any, model_kwargs: dict[str, Any], **options: Any) -> Any:
        model_kwargs = super()._update_model_kwargs_for_generation(outputs, model_kwargs, **options)
        return model_kwargs | {"past_key_values": outputs.cache}

    def _sample(
        self, input_ids: Tensor, logits_processor: Any, stopping_criteria: Any, *args: Any, **kwargs: Any
    ) -> Any:
        finished = Finished(stopping_criteria)
        return super()._sample(input_ids, logits_processor, finished, *args, finished=finished, **kwargs)

    def _get_stopping_criteria(self, *args: Any, **kwargs: Any) -> Any:
        criteria = super()._get_stopping_criteria(*args, **kwargs)
        for criterion in criteria:
            if isinstance(criterion, MaxLengthCriteria):  # no warning, since slots stay within the positions
                criterion.max_position_embeddings = None
        return criteria

    def _reorder_cache(self, decoding: Decoding, beams: Tensor) -> Decoding:
        decoding.reorder(beams)
        return decoding


def _per_row(ratios: Ratios | None, batch: int) -> PerRow:
    """Return ratios per window as one list for each row; None and a single ratio stay."""
    given = as_tuple(ratios)
    if ratios is None or isinstance(ratios, int | str):
        return ratios
    rows = [list(as_tuple(row)) for row in given] if any(map(is_row, given)) else [list(given)] * batch
    if len(rows) != batch:
        raise ValueError(f"ratios={ratios!r} has {len(rows)} rows; the batch has {batch}")
    return [remaining(row, 0) for row in rows]
