"""Synthetic retrieval data: something is told in a long text and asked for at its end."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

import numpy as np

from beacon_lit.data.records import Record, Shard, Source
from beacon_lit.data.retrieval.frame import Frame, chat_frame, plain_frame
from beacon_lit.data.retrieval.haystack import Pool, made_up_pool, shared_pool
from beacon_lit.data.retrieval.kinds import EXCERPT, KINDS
from beacon_lit.data.retrieval.sample import RetrievalSample, least_length, retrieval_sample
from beacon_lit.data.sample import check_int
from beacon_lit.data.sources.settings import check_limit, check_shares

TRAIN_ON = ("answer", "all")
DISTRIBUTIONS: dict[str, Callable[[int, int, Random], int]] = {
    "uniform": lambda least, most, rng: rng.randint(least, most),
    "log-uniform": lambda least, most, rng: min(most, int(least * ((most + 1) / least) ** rng.random())),
}


@dataclass(frozen=True)
class SyntheticSource:
    """Retrieval samples, made from (seed, index) alone and exact to the token.

    kind: "passkey": a five-digit number in filler; "needle": a sentence in running text, asked for the fact in it;
        "key-value": a document of pairs, one is asked for; "multi-needle": two to six needles, one to four asked for;
        "copy": a passage to repeat, the words the text begins with, or those after a phrase. With several questions:
        pass keys of several people, several needles, pairs, passages; two more needles for each further question
    count: samples
    lengths: least and most tokens of a sample, answers and special tokens included. Every length between occurs, so
        that samples, and their questions, end anywhere in a window
    length_distribution: "uniform": every length is as likely; "log-uniform": every doubling is, so that short samples,
        of which more questions fit into a step, are more frequent
    questions: how many are asked about a document, one behind the other; [least, most] draws a number for each sample.
        Each is about another statement. Where a sample is too short for its number it has fewer, but at least `least`
    seed: samples of other seeds are others, in words, text and places
    haystack: any source of text. Samples are cut at random places from a bounded pool of its documents (see
        `read_pool`), so it may be of any size. None = made-up sentences
    chat: as a conversation in the tokenizer's chat template, document and first question in the user's first turn;
        False = text
    train_on: "all": the loss is on every token, and half of it is the answers' (`answer_share`); "answer": on the
        answers and the token that ends each alone, which then weigh as much as so few tokens of any text
    weight, answer_share, limit: see `Source`

    Documents: `input_ids`, with `trained` and `answer` masks; an answer includes the token that ends it.

    Raises ValueError: a setting out of range; on `documents`: lengths too short for the kind, a haystack shorter than
    the longest sample, a tokenizer without an end-of-text token or, with chat, without a chat template.
    """

    kind: str
    count: int
    lengths: tuple[int, int]
    seed: int = 0
    haystack: Source | None = None
    chat: bool = False
    questions: int | Sequence[int] = 1
    length_distribution: str = "uniform"
    train_on: str = "all"
    weight: float | None = None
    answer_share: float | None = 0.5
    limit: int | None = None
    asked: tuple[int, int] = field(init=False, repr=False)  # questions: the least and the most

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind!r} must be one of {', '.join(KINDS)}")
        if self.train_on not in TRAIN_ON:
            raise ValueError(f"train_on={self.train_on!r} must be one of {', '.join(TRAIN_ON)}")
        if self.length_distribution not in DISTRIBUTIONS:
            allowed = ", ".join(DISTRIBUTIONS)
            raise ValueError(f"length_distribution={self.length_distribution!r} must be one of {allowed}")
        object.__setattr__(self, "lengths", _range("lengths", self.lengths))
        several = isinstance(self.questions, (list, tuple))
        asked = _range("questions", self.questions if several else (self.questions, self.questions))
        object.__setattr__(self, "asked", asked)
        check_int("count", self.count, 1)
        check_int("seed", self.seed, 0)
        check_limit(self.limit)
        check_shares(self.weight, self.answer_share)

    @property
    def name(self) -> str:
        return f"{self.kind} in {'filler' if self.haystack is None else self.haystack.name}"

    def key(self) -> Any:
        """See `Source`."""
        names = ("kind", "count", "lengths", "length_distribution", "asked", "seed", "chat", "train_on")
        settings = {name: getattr(self, name) for name in names}
        return ["SyntheticSource", settings, None if self.haystack is None else self.haystack.key()]

    def documents(self, tokenizer: Any) -> Iterator[Record]:
        """See `Source`. The haystack's bad records come first, then the samples."""
        frame = self.frame(tokenizer)
        pool = yield from self.pool(tokenizer)
        self._check_lengths(frame, pool)
        for index in range(self.count):
            sample = self.sample(frame, pool, index)
            yield {
                "id": f"{self.kind}-{self.seed}-{index}",
                "input_ids": np.array(sample.ids, np.int32),
                "trained": sample.answers.copy() if self.train_on == "answer" else np.ones(len(sample.ids), bool),
                "answer": sample.answers,
            }

    def shards(self, tokenizer: Any) -> Sequence[Shard]:
        """All in one: samples share a haystack."""
        return [partial(self.documents, tokenizer)]

    def frame(self, tokenizer: Any) -> Frame:
        """What is around the documents."""
        return (chat_frame if self.chat else plain_frame)(tokenizer)

    def pool(self, tokenizer: Any) -> Any:
        """A generator of the haystack's bad records, which returns the text that samples are cut from."""
        needed = self.lengths[1] + self.asked[1] * EXCERPT
        if self.haystack is None:
            return made_up_pool(KINDS[self.kind].filler, tokenizer, self.seed, 4 * needed)
        pool = yield from shared_pool(self.haystack, tokenizer, self.seed)
        if len(pool) < needed:
            raise ValueError(
                f"haystack={self.haystack.name} is too short: {len(pool):,} tokens; must be at least {needed:,} "
                f"(lengths={self.lengths}, questions={self.asked})"
            )
        return pool

    def _check_lengths(self, frame: Frame, pool: Pool) -> None:
        questions = self.asked[0]
        least = least_length(KINDS[self.kind], frame, pool, self.seed, questions)
        if self.lengths[0] < least:
            raise ValueError(
                f"lengths={self.lengths}: {self.kind} needs at least {least} tokens with this tokenizer and "
                f"questions={questions}, so the least must be {least} or more"
            )

    def sample(self, frame: Frame, pool: Pool, index: int) -> RetrievalSample:
        """Sample number `index`."""
        seed = f"{self.kind}/{self.seed}/{index}"
        # Never redrawn, or short ones would get rare.
        length = DISTRIBUTIONS[self.length_distribution](*self.lengths, Random(f"{seed}/length"))
        questions = Random(f"{seed}/questions").randint(*self.asked)
        try:
            return retrieval_sample(KINDS[self.kind], frame, pool, length, seed, questions, self.asked[0])
        except ValueError as error:
            raise ValueError(f"{self.name}, sample {index}: {error}") from error


def _range(name: str, value: Any) -> tuple[int, int]:
    """(least, most). Raises ValueError unless these are integers of at least 1 in this order."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError(f"{name}={value!r} must be two numbers: the least and the most")
    least, most = value
    for number in (least, most):
        check_int(name, number, 1)
    if least > most:
        raise ValueError(f"{name}={tuple(value)}: the least must not be above the most")
    return least, most
