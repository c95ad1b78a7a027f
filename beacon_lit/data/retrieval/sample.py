"""Puts a sample together from its draft, exact to the token."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Any

import numpy as np

from beacon_lit.data.retrieval.frame import Frame
from beacon_lit.data.retrieval.haystack import Pool
from beacon_lit.data.retrieval.kinds import EXCERPT, Draft, Kind
from beacon_lit.data.retrieval.tokens import insert, token_ids

_ATTEMPTS = 50
_PROBES = 64
_NEAR = 64  # tokens that a statement may be moved by to where a sentence starts
_SENTENCE_ENDS = (".", "!", "?", "Ċ", "\n")
_WORD_STARTS = ("Ġ", "▁", "Ċ", " ", "\n")  # how a token that begins a word or a line is written in vocabularies


@dataclass(frozen=True, eq=False)
class RetrievalSample:
    """A document in which something is told, and questions about it.

    ids: all tokens
    answers: (len(ids),) bool, which of these are an answer or the token that ends one
    document: `ids[document[0]:document[1]]` is the document, between announcement and questions
    positions: index of the first token of each of the draft's statements
    depths: the share of the rest of the document that comes before each statement, in per cent
    draft: the words
    """

    ids: list[int]
    answers: np.ndarray
    document: tuple[int, int]
    positions: tuple[int, ...]
    depths: tuple[float, ...]
    draft: Draft


def least_length(kind: Kind, frame: Frame, pool: Pool, seed: int, questions: int = 1) -> int:
    """Tokens that samples of a kind need, whichever way they are worded: the most that any of some drafts does."""
    drafts = [_draft(kind, frame, pool, Random(f"least/{seed}/{i}"), questions)[0] for i in range(_PROBES)]
    return max((_needed(frame, draft) for draft in drafts if draft), default=0)


def retrieval_sample(
    kind: Kind, frame: Frame, pool: Pool, length: int, seed: str, questions: int = 1, least: int = 1
) -> RetrievalSample:
    """One sample of exactly `length` tokens, special tokens and answers included: a function of the arguments alone.

    A draft is made anew where it does not fit, or where the haystack happens to say what only a statement should say.

    questions: how many are asked; where they do not fit fewer, but at least `least`
    Raises ValueError if no draft fits.
    """
    for attempt in range(_ATTEMPTS):
        rng = Random(f"{seed}/{attempt}")
        draft, start = _draft(kind, frame, pool, rng, questions)
        if not draft:
            continue
        sample = _compose(frame, pool, draft, length, rng, start)
        if sample is None:
            questions = max(least, questions * 3 // 4)
        elif not _told_by_questions(draft) and _told_once(sample, frame.tokenizer):
            return sample
    raise ValueError(
        f"no sample of {length} tokens could be made in {_ATTEMPTS} attempts: the length is too short for most, or the "
        "haystack has too few words, or says the same over and over"
    )


def _draft(kind: Kind, frame: Frame, pool: Pool, rng: Random, questions: int) -> tuple[Draft | None, int]:
    """A draft, and where in the pool its haystack starts: right behind its excerpts, so that the two share nothing."""
    start = rng.randrange(len(pool))
    stop = start + questions * EXCERPT
    return kind.draft(rng, [frame.tokenizer.decode(pool.cut(i, EXCERPT)) for i in range(start, stop, EXCERPT)]), stop


def _needed(frame: Frame, draft: Draft) -> int:
    statements = sum(len(token_ids(frame.tokenizer, statement)) for statement in draft.statements)
    around = frame.around(draft.announcement, draft.exchanges)
    return len(around.opening) + statements + len(around.closing)


def _compose(frame: Frame, pool: Pool, draft: Draft, length: int, rng: Random, start: int) -> RetrievalSample | None:
    """The sample, or None where the draft takes more than `length` tokens."""
    around = frame.around(draft.announcement, draft.exchanges)
    opening, closing = around.opening, around.closing
    room = length - len(opening) - len(closing)
    lines = [token_ids(frame.tokenizer, statement) for statement in draft.statements]
    if sum(map(len, lines)) > room:
        return None
    lines += _fill(frame.tokenizer, draft, room - sum(map(len, lines)))
    haystack = pool.cut(start, room - sum(map(len, lines)))
    order = list(range(len(lines)))
    if draft.more is not None:  # the lines are the document; less than one of haystack is left to end it
        rng.shuffle(order)
        places = [0] * len(lines)
    else:
        drawn = [0 if draft.at_start else rng.randint(0, len(haystack)) for _ in lines]
        places = [sentence_start(frame.tokenizer, haystack, place) if place else 0 for place in drawn]
    document, found = insert(haystack, [lines[i] for i in order], places)
    by_line = dict(zip(order, found, strict=True))
    told = [by_line[i] for i in range(len(draft.statements))]
    before = len(opening) + len(document)
    return RetrievalSample(
        ids=opening + document + closing,
        answers=np.append(np.zeros(before, bool), around.answers),
        document=(len(opening), before),
        positions=tuple(len(opening) + position for position in told),
        depths=tuple(100 * position / max(1, len(document) - len(lines[i])) for i, position in enumerate(told)),
        draft=draft,
    )


def _fill(tokenizer: Any, draft: Draft, room: int) -> list[list[int]]:
    """As many more statements as fit into `room` tokens."""
    lines: list[list[int]] = []
    while draft.more is not None:
        for ids in tokenizer(list(islice(draft.more, 64)), add_special_tokens=False, verbose=False)["input_ids"]:
            room -= len(ids)
            if room < 0:
                return lines
            lines.append(list(ids))
    return lines


def sentence_start(tokenizer: Any, haystack: Sequence[int], place: int) -> int:
    """The next place where a sentence begins, if there is one near, or else a word: nothing is cut in two."""
    near = tokenizer.convert_ids_to_tokens(list(haystack[place : place + _NEAR]))
    words = [i for i, token in enumerate(near) if token.startswith(_WORD_STARTS)]
    sentences = [i for i in words if i and near[i - 1].endswith(_SENTENCE_ENDS)]
    return place + next(iter(sentences + words), 0)


def _told_by_questions(draft: Draft) -> bool:
    return any(told.answer in asked.question for told in draft.exchanges for asked in draft.exchanges)


def _told_once(sample: RetrievalSample, tokenizer: Any) -> bool:
    text = tokenizer.decode(np.array(sample.ids[slice(*sample.document)]))
    once = [statement.strip() for statement in sample.draft.statements] + [sample.draft.once]
    return all(text.count(words) == 1 for words in once if words)
