"""A model under one mode: it answers prompts, scores texts and continuations, and tells what that took."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from beacon_lit.arch import longest
from beacon_lit.chat.template import ChatTemplate
from beacon_lit.checks import as_tuple
from beacon_lit.evaluation.modes import Mode
from beacon_lit.evaluation.prompts import CHAT, Prompt
from beacon_lit.evaluation.stops import StopStrings
from beacon_lit.evaluation.task import Subject

Output = dict[str, Any]  # what a record gets from the model, values as in JSON


class TooLong(ValueError):
    """A text has more tokens than the model's positions hold at a ratio."""


@dataclass(frozen=True, eq=False)
class Reader:
    """A subject under one mode.

    An answer ends with an eos token (the model's, the tokenizer's, and in a chat also the one that ends a turn), or
    with a stop string, or when it is as long as it may be. Nothing of this is written to the model's own settings.
    """

    subject: Subject
    mode: Mode

    def generate(
        self,
        prompts: Sequence[Prompt],
        max_new_tokens: int,
        stop: Sequence[str] = (),
        end_tokens: Sequence[int] = (),
        min_new_tokens: int = 0,
    ) -> list[Output]:
        """Greedy answers to a batch of prompts.

        Args:
            prompts: of any lengths; all of one template.
            max_new_tokens: the most tokens of an answer.
            stop: strings that end an answer; it is cut before the first of them.
            end_tokens: token ids that end an answer, too.
            min_new_tokens: no eos token and no end token comes before so many tokens.

        Returns:
            For each prompt a record: "prediction" (text), "tokens_in", "tokens_dropped", "template", "tokens_out",
            "ended_by" (a token, "stop" or "length"), "ratio" (that was used), "cache_bytes" (of keys and values at the
            end), "seconds" (the batch's, shared evenly).

        Raises:
            ValueError: more tokens than the model's positions hold at this ratio.
        """
        lm = self.subject.lm
        ratios = self.ratios_of([len(prompt.ids) + max_new_tokens for prompt in prompts])
        ends = self._ends(prompts[0].template, end_tokens)
        ids, mask = _padded([prompt.ids for prompt in prompts], left=True)
        stops = StopStrings(stop, self.subject.tokenizer, ids.shape[1])
        options = _options(ends, stops, max_new_tokens, min_new_tokens) | {"attention_mask": mask.to(lm.device)}
        with _own_settings(lm), _stopwatch() as seconds:
            if self.mode.is_dense:
                out = lm.dense_generate(ids.to(lm.device), **options)
            else:
                out = lm.generate(
                    ids.to(lm.device), ratios=self._per_window(ratios, ids.shape[1] + max_new_tokens), **options
                )
            answers = out.sequences[:, ids.shape[1] :].tolist()
        answers = [_ended(answer[: stops.lengths.get(row)], ends) for row, answer in enumerate(answers)]
        lengths = [len(prompt.ids) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)]
        kept = self._cache_bytes(out.past_key_values, lengths)
        return [
            {
                **self._said(answer, ends, stop, row in stops.lengths),
                "tokens_in": len(prompt.ids),
                "tokens_dropped": prompt.dropped,
                "template": prompt.template,
                "tokens_out": len(answer),
                "ratio": ratio,
                "cache_bytes": size,
                "seconds": seconds[0] / len(prompts),
            }
            for row, (prompt, answer, ratio, size) in enumerate(zip(prompts, answers, ratios, kept, strict=True))
        ]

    def converse(
        self, turns: Sequence[Sequence[int]], max_new_tokens: int, template: str, stop: Sequence[str] = ()
    ) -> list[Output]:
        """Greedy answers in turns over one cache, which goes on from turn to turn: nothing is read twice.

        Args:
            turns: token ids; those of the first are read from the start, those of a later one behind the answer before
                it, which stands there without the token that ended it.
            max_new_tokens: the most tokens of an answer.
            template: of the turns, "chat" or "plain".
            stop: strings that end an answer; it is cut before the first of them (in the cache it stands whole).

        Returns:
            For each turn what `generate` gives; "tokens_in", "tokens_out" and "seconds" are that turn's alone.

        Raises:
            ValueError: more tokens than the model's positions hold at this ratio.
        """
        lm = self.subject.lm
        (ratio,) = self.ratios_of([sum(map(len, turns)) + len(turns) * max_new_tokens])
        ends = self._ends(template, ())
        text: list[int] = []  # the conversation so far, of which the cache has read so many tokens
        read, cache = 0, None
        outputs = []
        for turn in turns:
            text += turn
            given = text if self.mode.is_dense else text[read:]
            stops = StopStrings(stop, self.subject.tokenizer, len(given))
            with _own_settings(lm), _stopwatch() as seconds:
                out = self._go_on(given, cache, ratio, _options(ends, stops, max_new_tokens))
                answer = out.sequences[0, len(given) :].tolist()
            new, read, cache = len(text) - read, len(text) + len(answer) - 1, out.past_key_values
            text += answer[:-1] if answer[-1] in ends else answer
            outputs.append(
                {
                    **self._said(answer, ends, stop, 0 in stops.lengths),
                    "tokens_in": new,
                    "tokens_dropped": 0,
                    "template": template,
                    "tokens_out": len(answer),
                    "ratio": ratio,
                    "cache_bytes": self._cache_bytes(cache, [read])[0],
                    "seconds": seconds[0],
                }
            )
        return outputs

    def _go_on(self, ids: list[int], cache: Any, ratio: Any, options: Mapping[str, Any]) -> Any:
        """Generate from ids: of the dense model all there are, of the others those that the cache has not read."""
        lm = self.subject.lm
        given = torch.tensor([ids], device=lm.device)
        options = {**options, "attention_mask": torch.ones_like(given)}
        if self.mode.is_dense:
            return lm.dense_generate(given, past_key_values=cache, **options)
        return lm.generate(given, cache=cache, ratios=ratio, **options)

    def token_losses(self, texts: Sequence[Sequence[int]]) -> tuple[list[Tensor], list[Output]]:
        """Negative log likelihoods of a batch of texts' tokens, each given those before it.

        Args:
            texts: token ids, at least one each, of any lengths.

        Returns:
            For each text float64 nats on the CPU, as many as tokens, the first 0; and records of "tokens_in", "ratio",
            "cache_bytes" (what a cache of the text would hold) and "seconds" (the batch's, shared evenly).

        Raises:
            ValueError: more tokens than the model's positions hold at this ratio.
        """
        lm = self.subject.lm
        ratios = self.ratios_of(list(map(len, texts)))
        ids, mask = (tensor.to(lm.device) for tensor in _padded(texts, left=False))
        labels = ids.masked_fill(mask == 0, -100)
        whole = bool((mask == 1).all())
        with _stopwatch() as seconds:
            given: dict[str, Any] = {"attention_mask": None if whole else mask.cpu(), "labels": labels}
            if self.mode.is_dense:
                cache, losses = None, lm.dense_token_loss(ids, **given)
            else:
                out = lm(
                    ids, ratios=self._per_window(ratios, ids.shape[1]), return_logits=False, use_cache=True, **given
                )
                cache, losses = out.cache, out.token_loss
            losses = losses.double().cpu()
        kept = self._cache_bytes(cache, list(map(len, texts)))
        outputs = [
            {"tokens_in": len(text), "ratio": ratio, "cache_bytes": size, "seconds": seconds[0] / len(texts)}
            for text, ratio, size in zip(texts, ratios, kept, strict=True)
        ]
        return [row[: len(text)] for row, text in zip(losses, texts, strict=True)], outputs

    def continuation_losses(self, pairs: Sequence[tuple[Prompt, Sequence[int]]]) -> list[Output]:
        """Negative log likelihoods of continuations of prompts, a batch of pairs.

        A prompt is read with its continuation less the last token, and texts that are then the same are read once. So
        options of one token each are compared in a single distribution: the one that an answer's first token is from.

        Args:
            pairs: a prompt and the token ids of a continuation, at least one each. Their logits exist at once.

        Returns:
            For each pair a record: "nll" (nats, summed over the continuation's tokens), "greedy" (whether these are
            the most likely ones), "tokens_in", "tokens_dropped", "template", "ratio", "cache_bytes", "seconds" (the
            batch's, shared evenly).

        Raises:
            ValueError: more tokens than the model's positions hold at this ratio.
        """
        lm = self.subject.lm
        texts = [(*prompt.ids, *continuation[:-1]) for prompt, continuation in pairs]
        rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        ratios = self.ratios_of(list(map(len, rows)))
        ids, mask = _padded(list(rows), left=True)
        given: dict[str, Any] = {"logits_to_keep": max(len(continuation) for _, continuation in pairs)}
        with _stopwatch() as seconds:
            if self.mode.is_dense:
                given |= {"attention_mask": mask.to(lm.device), "use_cache": False}
                given |= {"position_ids": (mask.cumsum(1) - 1).clamp(min=0).to(lm.device)}
                out = lm.dense(ids.to(lm.device), **given)
            else:
                given |= {"attention_mask": mask, "use_cache": True}
                out = lm(ids.to(lm.device), ratios=self._per_window(ratios, ids.shape[1]), **given)
            judged = [_judged(out.logits[rows[text]], pair[1]) for text, pair in zip(texts, pairs, strict=True)]
        kept = self._cache_bytes(out.past_key_values, list(map(len, rows)))
        return [
            {
                **found,
                "tokens_in": len(text),
                "tokens_dropped": prompt.dropped,
                "template": prompt.template,
                "ratio": ratios[rows[text]],
                "cache_bytes": kept[rows[text]],
                "seconds": seconds[0] / len(pairs),
            }
            for found, text, (prompt, _) in zip(judged, texts, pairs, strict=True)
        ]

    def ratios_of(self, lengths: Sequence[int]) -> list[Any]:
        """The ratio of each text of so many tokens, answers included.

        Raises:
            TooLong: the model's positions do not hold them.
        """
        lm = self.subject.lm
        ratios = [self.mode.ratio_of(lm, length) for length in lengths]
        for length, ratio in zip(lengths, ratios, strict=True):
            if isinstance(ratio, int) and length > (most := longest(lm.beacon, ratio, lm.positions)):
                window = lm.beacon.window
                larger = (other for other in range(ratio + 1, window + 1) if window % other == 0)
                fits = next((other for other in larger if length <= longest(lm.beacon, other, lm.positions)), None)
                raise TooLong(
                    f"{length} tokens, with the room for an answer, are too many at ratio {ratio}; allowed: at most "
                    f"{most}, for which {lm.positions} position slots are enough"
                    + (f", or ratio={fits}, the smallest that fits" if fits else "; no ratio fits them")
                )
        return ratios

    def _per_window(self, ratios: Sequence[Any], length: int) -> Any:
        """Ratios of rows as the model takes them: one for all, or else for each row one per window."""
        windows = length // self.subject.lm.beacon.window + 1
        return ratios[0] if len(set(ratios)) == 1 else [[ratio] * windows for ratio in ratios]

    def _cache_bytes(self, cache: Any, tokens: Sequence[int]) -> list[int]:
        """Bytes of each row's keys and values."""
        if self.mode.is_dense:
            return [self.subject.lm.dense_cache_bytes(count) for count in tokens]
        return [cache.select([row]).nbytes for row in range(len(tokens))]

    @cached_property
    def _end_of_turn(self) -> int | None:
        tokenizer = self.subject.tokenizer
        return ChatTemplate.of(tokenizer, {}).end_of_turn(tokenizer)

    def _ends(self, template: str, more: Sequence[int]) -> tuple[int, ...]:
        """Ids that end an answer."""
        lm, tokenizer = self.subject.lm, self.subject.tokenizer
        ends = [*as_tuple(lm.generation_config.eos_token_id), tokenizer.eos_token_id, *more]
        ends += [self._end_of_turn] if template == CHAT else []
        return tuple(dict.fromkeys(end for end in ends if end is not None))

    def _said(self, answer: list[int], ends: Sequence[int], stop: Sequence[str], stopped: bool) -> Output:
        """An answer's text and what ended it."""
        tokenizer = self.subject.tokenizer
        ended = bool(answer) and answer[-1] in ends
        text = tokenizer.decode(answer[:-1] if ended else answer, skip_special_tokens=True)
        found = [text.find(end) for end in stop if end in text]
        if found:
            return {"prediction": text[: min(found)], "ended_by": "stop"}
        ended_by = "stop" if stopped else "length"  # stopped by a special token's text
        return {"prediction": text, "ended_by": tokenizer.convert_ids_to_tokens(answer[-1]) if ended else ended_by}


def _options(ends: Sequence[int], stops: StopStrings, max_new_tokens: int, min_new_tokens: int = 0) -> dict[str, Any]:
    """How to generate, greedily."""
    settings = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens or None,
        eos_token_id=list(ends) or None,
        pad_token_id=ends[0] if ends else 0,
        return_dict_in_generate=True,
    )
    return {"generation_config": settings, "stopping_criteria": [stops] if stops.strings else None}


@contextmanager
def _own_settings(lm: Any) -> Iterator[None]:
    """Within it the model has no generation settings: transformers fills up those of a call with the model's, such as
    forced or suppressed tokens."""
    own = lm.generation_config
    lm.generation_config = GenerationConfig()
    try:
        yield
    finally:
        lm.generation_config = own


def _ended(answer: list[int], ends: Sequence[int]) -> list[int]:
    """An answer up to its end token; what a batch puts behind it is padding."""
    last = next((i for i, token in enumerate(answer) if token in ends), len(answer) - 1)
    return answer[: last + 1]


def _judged(logits: Tensor, continuation: Sequence[int]) -> Output:
    """A continuation's likelihood, from (T, V) logits that end with those of its last token."""
    log_p = logits[len(logits) - len(continuation) :].float().log_softmax(-1)
    tokens = torch.tensor(continuation, device=log_p.device)
    nll = -log_p.gather(1, tokens[:, None]).double().sum().item()
    return {"nll": nll, "greedy": bool((log_p.argmax(-1) == tokens).all())}


def _padded(rows: Sequence[Sequence[int]], left: bool) -> tuple[Tensor, Tensor]:
    """Rows of ids -> (B, L) ids and their mask, both int64 on the CPU."""
    width = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), width, dtype=torch.int64), torch.zeros(len(rows), width, dtype=torch.int64)
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, place], mask[i, place] = torch.tensor(row), 1
    return ids, mask


@contextmanager
def _stopwatch() -> Iterator[list[float]]:
    """A list that holds the seconds of the block when it has ended. What is timed ends on the CPU: it has waited."""
    seconds: list[float] = []
    start = perf_counter()
    yield seconds
    seconds.append(perf_counter() - start)
