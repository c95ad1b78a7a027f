"""Assembles a retrieval sample of an exact length from a draft, a haystack and a prompt format."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Any

import numpy as np

from beacon_lit.data.encoding import all_token_ids
from beacon_lit.data.retrieval.drafts import EXCERPT, Draft, Kind
from beacon_lit.data.retrieval.haystack import Pool
from beacon_lit.data.retrieval.prompt_format import PromptFormat
from beacon_lit.data.retrieval.token_ids import insert

_ATTEMPTS = 50
_PROBES = 64
_NEAR = 64  # most tokens that a statement is moved by, to the start of a sentence
_SENTENCE_ENDS = (".", "!", "?", "Ċ", "\n")
_WORD_STARTS = ("Ġ", "▁", "Ċ", " ", "\n")  # how vocabularies write the start of a word or a line


@dataclass(frozen=True, eq=False)
class RetrievalSample:
    """A document with statements in it, and questions about them.

    Attributes:
        ids: all token ids.
        answers: (len(ids),) bool, the tokens of answers, with the token that ends each answer.
        document: `ids[document[0]:document[1]]` is the document, between announcement and questions.
        positions: index of the first token of each statement of the draft.
        depths: share of the rest of the document that comes before each statement, in per cent.
        draft: the words.
    """

    ids: list[int]
    answers: np.ndarray
    document: tuple[int, int]
    positions: tuple[int, ...]
    depths: tuple[float, ...]
    draft: Draft


def least_length(kind: Kind, prompt_format: PromptFormat, pool: Pool, seed: int, questions: int = 1) -> int:
    """Estimate the tokens that samples of a kind need, however they are worded: the most of some drafts."""
    drafts = [
        _draft(kind, prompt_format.tokenizer, pool, Random(f"least/{seed}/{i}"), questions)[0] for i in range(_PROBES)
    ]
    return max((_needed(prompt_format, draft) for draft in drafts if draft), default=0)


def retrieval_sample(
    kind: Kind, prompt_format: PromptFormat, pool: Pool, length: int, seed: str, questions: int = 1, least: int = 1
) -> RetrievalSample:
    """Make one sample of exactly `length` tokens, special tokens and answers included.

    The sample is a function of the arguments alone. A draft is replaced if it does not fit, or if the haystack happens
    to contain a statement.

    Args:
        kind: makes the drafts.
        prompt_format: makes the tokens around the document.
        pool: the haystack's tokens.
        length: tokens of the sample.
        seed: of all random choices.
        questions: how many questions are asked; fewer where they do not fit.
        least: the least number of questions.

    Raises:
        ValueError: no draft fits.
    """
    for attempt in range(_ATTEMPTS):
        rng = Random(f"{seed}/{attempt}")
        draft, start = _draft(kind, prompt_format.tokenizer, pool, rng, questions)
        if not draft:
            continue
        sample = _compose(prompt_format, pool, draft, length, rng, start)
        if sample is None:
            questions = max(least, questions * 3 // 4)
        elif not _answered_by_questions(draft) and _stated_once(sample, prompt_format.tokenizer):
            return sample
    raise ValueError(
        f"no sample of {length} tokens could be made in {_ATTEMPTS} attempts: the length is too short, or the haystack "
        "has too few words, or repeats itself"
    )


def _draft(kind: Kind, tokenizer: Any, pool: Pool, rng: Random, questions: int) -> tuple[Draft | None, int]:
    """Make a draft, and find its haystack's start in the pool: behind the excerpts, so that the two are disjoint."""
    start = int(rng.random() * len(pool))  # one draw for any pool, so that the words do not depend on its size
    stop = start + questions * EXCERPT
    return kind.draft(rng, [tokenizer.decode(pool.cut(i, EXCERPT)) for i in range(start, stop, EXCERPT)]), stop


def _needed(prompt_format: PromptFormat, draft: Draft) -> int:
    statements = sum(map(len, all_token_ids(prompt_format.tokenizer, draft.statements)))
    prompt = prompt_format.prompt(draft.announcement, draft.exchanges)
    return len(prompt.opening) + statements + len(prompt.closing)


def _compose(
    prompt_format: PromptFormat, pool: Pool, draft: Draft, length: int, rng: Random, start: int
) -> RetrievalSample | None:
    """Put a sample together; None if the draft needs more than `length` tokens."""
    prompt = prompt_format.prompt(draft.announcement, draft.exchanges)
    opening, closing = prompt.opening, prompt.closing
    room = length - len(opening) - len(closing)
    lines = all_token_ids(prompt_format.tokenizer, draft.statements)
    if sum(map(len, lines)) > room:
        return None
    lines += _fill(prompt_format.tokenizer, draft, room - sum(map(len, lines)))
    haystack = pool.cut(start, room - sum(map(len, lines)))
    order = list(range(len(lines)))
    if draft.more is not None:  # the lines are the document; haystack of less than a line ends it
        rng.shuffle(order)
        places = [0] * len(lines)
    else:
        drawn = [0 if draft.at_start else rng.randint(0, len(haystack)) for _ in lines]
        places = [sentence_start(prompt_format.tokenizer, haystack, place) if place else 0 for place in drawn]
    document, found = insert(haystack, [lines[i] for i in order], places)
    by_line = dict(zip(order, found, strict=True))
    stated = [by_line[i] for i in range(len(draft.statements))]
    before = len(opening) + len(document)
    return RetrievalSample(
        ids=opening + document + closing,
        answers=np.append(np.zeros(before, bool), prompt.answers),
        document=(len(opening), before),
        positions=tuple(len(opening) + position for position in stated),
        depths=tuple(100 * position / max(1, len(document) - len(lines[i])) for i, position in enumerate(stated)),
        draft=draft,
    )


def _fill(tokenizer: Any, draft: Draft, room: int) -> list[list[int]]:
    """Tokenise as many further statements as fit into `room` tokens."""
    lines: list[list[int]] = []
    while draft.more is not None:
        for ids in all_token_ids(tokenizer, list(islice(draft.more, 64))):
            room -= len(ids)
            if room < 0:
                return lines
            lines.append(list(ids))
    return lines


def sentence_start(tokenizer: Any, haystack: Sequence[int], place: int) -> int:
    """Return the next place where a sentence begins, or a word if no sentence begins nearby, so that no word is cut."""
    near = tokenizer.convert_ids_to_tokens(list(haystack[place : place + _NEAR]))
    words = [i for i, token in enumerate(near) if token.startswith(_WORD_STARTS)]
    sentences = [i for i in words if i and near[i - 1].endswith(_SENTENCE_ENDS)]
    return place + next(iter(sentences + words), 0)


def _answered_by_questions(draft: Draft) -> bool:
    return any(one.answer in other.question for one in draft.exchanges for other in draft.exchanges)


def _stated_once(sample: RetrievalSample, tokenizer: Any) -> bool:
    text = tokenizer.decode(np.array(sample.ids[slice(*sample.document)]))
    once = [statement.strip() for statement in sample.draft.statements] + [sample.draft.once]
    return all(text.count(words) == 1 for words in once if words)
