"""Losses of texts and of continuations."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from beacon_lit.arch import cache_of
from beacon_lit.evaluation.reader import Reader, padded, stopwatch
from beacon_lit.evaluation.requests import Answer, ScoreOptions, ScoreText


def score_texts(reader: Reader, requests: Sequence[ScoreText]) -> list[Answer]:
    """Score the tokens of a batch of texts.

    "cache_bytes" is what a cache of the text would hold.

    Raises:
        TooLong: more tokens than the model's positions hold at a ratio.
    """
    lm, texts = reader.subject.lm, [request.ids for request in requests]
    ratios = reader.ratios_of(list(map(len, texts)))
    ids, mask = (tensor.to(lm.device) for tensor in padded(texts, left=False))
    labels = ids.masked_fill(mask == 0, -100)
    whole = bool((mask == 1).all())
    with stopwatch() as seconds:
        given: dict[str, Any] = {"attention_mask": None if whole else mask.cpu(), "labels": labels}
        if reader.mode.is_dense:
            cache, losses = None, lm.dense_token_loss(ids, **given)
        else:
            per_window = reader.per_window(ratios, ids.shape[1])
            out = lm(ids, ratios=per_window, return_logits=False, use_cache=True, **given)
            cache, losses = out.cache, out.token_loss
        losses = losses.double().cpu()
    sizes = reader.cache_bytes(cache, list(map(len, texts)))
    return [
        {
            "losses": row[: len(text)],
            "tokens_in": len(text),
            "ratio": ratio,
            "cache_bytes": size,
            "seconds": seconds[0] / len(texts),
        }
        for row, text, ratio, size in zip(losses, texts, ratios, sizes, strict=True)
    ]


def score_options(reader: Reader, requests: Sequence[ScoreOptions]) -> list[Answer]:
    """Score the options of a batch of prompts. The logits of all options exist at once.

    Raises:
        TooLong: more tokens than the model's positions hold at a ratio.
    """
    lm = reader.subject.lm
    rows = {text: row for row, text in enumerate(dict.fromkeys(text for request in requests for text in request.texts))}
    ratios = reader.ratios_of(list(map(len, rows)))
    ids, mask = padded(list(rows), left=True)
    given: dict[str, Any] = {"logits_to_keep": max(len(option) for request in requests for option in request.options)}
    with stopwatch() as seconds:
        if reader.mode.is_dense:
            given |= {"attention_mask": mask.to(lm.device), "use_cache": False}
            given |= {"position_ids": (mask.cumsum(1) - 1).clamp(min=0).to(lm.device)}
            out = lm.dense(ids.to(lm.device), **given)
        else:
            given |= {"attention_mask": mask, "use_cache": True}
            out = lm(ids.to(lm.device), ratios=reader.per_window(ratios, ids.shape[1]), **given)
        found = [
            [_likelihood(out.logits[rows[text]], option) for text, option in zip(r.texts, r.options, strict=True)]
            for r in requests
        ]
    sizes = reader.cache_bytes(cache_of(out), list(map(len, rows)))
    answers = []
    for request, likelihoods in zip(requests, found, strict=True):
        longest = rows[max(request.texts, key=len)]
        nll, greedy = (list(values) for values in zip(*likelihoods, strict=True))
        answers.append(
            {
                "nll": nll,
                "greedy": greedy,
                "tokens_in": max(request.lengths),
                "tokens_dropped": request.prompt.dropped,
                "template": request.prompt.template,
                "ratio": ratios[longest],
                "cache_bytes": sizes[longest],
                "seconds": seconds[0] / len(requests),
            }
        )
    return answers


def _likelihood(logits: Tensor, option: Sequence[int]) -> tuple[float, bool]:
    """Return an option's loss in nats, and whether its tokens are the most likely ones.

    Args:
        logits: (T, V), which end with those of the option's last token.
        option: token ids.
    """
    log_p = logits[len(logits) - len(option) :].float().log_softmax(-1)
    tokens = torch.tensor(option, device=log_p.device)
    nll = -log_p.gather(1, tokens[:, None]).double().sum().item()
    return nll, bool((log_p.argmax(-1) == tokens).all())
