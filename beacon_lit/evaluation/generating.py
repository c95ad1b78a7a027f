"""Greedy answers to prompts, and conversations over one cache."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig

from beacon_lit.arch import cache_of
from beacon_lit.chat.template import ChatTemplate
from beacon_lit.evaluation.prompts import CHAT
from beacon_lit.evaluation.reader import Reader, padded, stopwatch
from beacon_lit.evaluation.requests import Answer, Converse, Generate
from beacon_lit.evaluation.stops import StopStrings
from beacon_lit.evaluation.task import Subject

_SUMMED = ("tokens_in", "tokens_out", "seconds")  # over the turns of a conversation


def generate(reader: Reader, requests: Sequence[Generate]) -> list[Answer]:
    """Answer a batch of prompts.

    Args:
        reader: the model under one mode.
        requests: prompts of any lengths, with the same settings.

    Raises:
        TooLong: more tokens than the model's positions hold at a ratio.
    """
    lm, settings = reader.subject.lm, requests[0]
    prompts = [request.prompt for request in requests]
    ratios = reader.ratios_of([length for request in requests for length in request.lengths])
    ends = end_tokens(reader.subject, settings.prompt.template, settings.end_tokens)
    ids, mask = padded([prompt.ids for prompt in prompts], left=True)
    stops = StopStrings(settings.stop, reader.subject.tokenizer, ids.shape[1])
    options = _options(ends, stops, settings.max_new_tokens, settings.min_new_tokens, settings.penalties)
    options["attention_mask"] = mask.to(lm.device)
    with _without_own_settings(lm), stopwatch() as seconds:
        if reader.mode.is_dense:
            out = lm.dense_generate(ids.to(lm.device), **options)
        else:
            per_window = reader.per_window(ratios, ids.shape[1] + settings.max_new_tokens)
            out = lm.generate(ids.to(lm.device), ratios=per_window, **options)
        answers = out.sequences[:, ids.shape[1] :].tolist()
    answers = [_up_to_end(answer[: stops.lengths.get(row)], ends) for row, answer in enumerate(answers)]
    lengths = [len(prompt.ids) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)]
    sizes = reader.cache_bytes(cache_of(out), lengths)
    return [
        {
            **text_and_end(reader.subject.tokenizer, answer, ends, settings.stop, row in stops.lengths),
            "tokens_in": len(prompt.ids),
            "tokens_dropped": prompt.dropped,
            "template": prompt.template,
            "tokens_out": len(answer),
            "ratio": ratio,
            "cache_bytes": size,
            "seconds": seconds[0] / len(prompts),
        }
        for row, (prompt, answer, ratio, size) in enumerate(zip(prompts, answers, ratios, sizes, strict=True))
    ]


def converse(reader: Reader, requests: Sequence[Converse]) -> list[Answer]:
    """Hold conversations, one by one.

    Raises:
        TooLong: more tokens than the model's positions hold at a ratio.
    """
    held = [_turns(reader, request) for request in requests]
    return [
        {**turns[-1], **{name: sum(turn[name] for turn in turns) for name in _SUMMED}, "turns": turns} for turns in held
    ]


def _turns(reader: Reader, request: Converse) -> list[Answer]:
    """Answer the turns of a conversation."""
    subject, dense = reader.subject, reader.mode.is_dense
    (ratio,) = reader.ratios_of(request.lengths)
    ends = end_tokens(subject, request.template)
    text: list[int] = []  # the conversation so far
    read, cache = 0, None  # tokens of it that the cache holds
    turns = []
    for turn in request.turns:
        text += turn
        given = text if dense else text[read:]
        stops = StopStrings(request.stop, subject.tokenizer, len(given))
        with _without_own_settings(subject.lm), stopwatch() as seconds:
            out = _go_on(reader, given, cache, ratio, _options(ends, stops, request.max_new_tokens))
            answer = out.sequences[0, len(given) :].tolist()
        new, read, cache = len(text) - read, len(text) + len(answer) - 1, cache_of(out)
        text += answer[:-1] if answer[-1] in ends else answer
        turns.append(
            {
                **text_and_end(subject.tokenizer, answer, ends, request.stop, 0 in stops.lengths),
                "tokens_in": new,
                "tokens_dropped": 0,
                "template": request.template,
                "tokens_out": len(answer),
                "ratio": ratio,
                "cache_bytes": reader.cache_bytes(cache, [read])[0],
                "seconds": seconds[0],
            }
        )
    return turns


def _go_on(reader: Reader, ids: list[int], cache: Any, ratio: Any, options: Mapping[str, Any]) -> Any:
    """Generate with a cache. The dense model is given all ids, the others those that the cache does not hold."""
    lm = reader.subject.lm
    given = torch.tensor([ids], device=lm.device)
    options = {**options, "attention_mask": torch.ones_like(given)}
    if reader.mode.is_dense:
        return lm.dense_generate(given, past_key_values=cache, **options)
    return lm.generate(given, cache=cache, ratios=ratio, **options)


def end_tokens(subject: Subject, template: str, more: Sequence[int] = ()) -> tuple[int, ...]:
    """List the ids that end an answer: eos of model and tokenizer, `more`, and in a chat the token that ends a turn."""
    tokenizer, eos = subject.tokenizer, subject.lm.generation_config.eos_token_id
    ends = [*(eos if isinstance(eos, list) else [eos]), tokenizer.eos_token_id, *more]
    if template == CHAT:
        ends.append(ChatTemplate.of(tokenizer, {}).end_of_turn(tokenizer))
    return tuple(dict.fromkeys(end for end in ends if end is not None))


def _options(
    ends: Sequence[int],
    stops: StopStrings,
    max_new_tokens: int,
    min_new_tokens: int = 0,
    penalties: Sequence[tuple[str, float]] = (),
) -> dict[str, Any]:
    """Write greedy generation as the arguments of `generate`."""
    settings = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens or None,
        eos_token_id=list(ends) or None,
        pad_token_id=ends[0] if ends else 0,
        return_dict_in_generate=True,
        **dict(penalties),
    )
    return {"generation_config": settings, "stopping_criteria": [stops] if stops.strings else None}


@contextmanager
def _without_own_settings(lm: Any) -> Iterator[None]:
    """Take the model's generation settings away within the block.

    Transformers completes the settings of a call with the model's, such as forced or suppressed tokens.
    """
    own = lm.generation_config
    lm.generation_config = GenerationConfig()
    try:
        yield
    finally:
        lm.generation_config = own


def _up_to_end(answer: list[int], ends: Sequence[int]) -> list[int]:
    """Cut an answer behind its end token; what follows in a batch is padding."""
    last = next((i for i, token in enumerate(answer) if token in ends), len(answer) - 1)
    return answer[: last + 1]


def text_and_end(
    tokenizer: Any, answer: list[int], ends: Sequence[int], stop: Sequence[str], stopped: bool
) -> dict[str, str]:
    """Return the text of an answer as "prediction", and what ended it as "ended_by"."""
    ended = bool(answer) and answer[-1] in ends
    text = tokenizer.decode(answer[:-1] if ended else answer, skip_special_tokens=True)
    found = [text.find(end) for end in stop if end in text]
    if found:
        return {"prediction": text[: min(found)], "ended_by": "stop"}
    ended_by = "stop" if stopped else "length"  # a stop string may be the text of a special token
    return {"prediction": text, "ended_by": tokenizer.convert_ids_to_tokens(answer[-1]) if ended else ended_by}
