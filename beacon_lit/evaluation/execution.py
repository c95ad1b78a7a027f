"""Executes requests: the one place where a model is asked for answers."""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from beacon_lit.evaluation.generating import converse, generate
from beacon_lit.evaluation.reader import Reader
from beacon_lit.evaluation.requests import Answer, Converse, Generate, Request, ScoreOptions, ScoreText
from beacon_lit.evaluation.scoring import score_options, score_texts

_ASK: dict[type[Request], Callable[[Reader, Any], list[Answer]]] = {
    Generate: generate,
    Converse: converse,
    ScoreText: score_texts,
    ScoreOptions: score_options,
}


def execute(reader: Reader, requests: Sequence[Request]) -> list[Answer]:
    """Ask the model for the answers to a batch.

    Neighbouring requests of one kind and with the same settings are read together. Gradients are the caller's matter:
    see `runner.evaluating`.

    Args:
        reader: the model under one mode.
        requests: of any kinds; all logits or caches of a batch exist at once.

    Returns:
        One answer per request, in the same order: see `requests`.

    Raises:
        TooLong: more tokens than the model's positions hold at a ratio.
    """
    answers: list[Answer] = []
    for (kind, _), group in groupby(requests, lambda request: (type(request), request.settings)):
        answers += _ASK[kind](reader, list(group))
    return answers
