"""Synthetic retrieval data: a long text with statements in it, and questions about them at its end."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

import numpy as np

from beacon_lit.data.checks import check_int, check_limit, check_shares
from beacon_lit.data.records import Document, MalformedRecord, Partition, Source, SourceRecord
from beacon_lit.data.retrieval.assembly import RetrievalSample, least_length, retrieval_sample
from beacon_lit.data.retrieval.drafts import EXCERPT, KINDS
from beacon_lit.data.retrieval.haystack import Pool, made_up_pool, shared_pool
from beacon_lit.data.retrieval.prompt_format import PromptFormat, chat_format, plain_format

TRAIN_ON = ("answer", "all")
DISTRIBUTIONS: dict[str, Callable[[int, int, Random], int]] = {
    "uniform": lambda least, most, rng: rng.randint(least, most),
    "log-uniform": lambda least, most, rng: min(most, int(least * ((most + 1) / least) ** rng.random())),
}


@dataclass(frozen=True)
class SyntheticSource:
    """Retrieval samples, made from (seed, index) alone and exact to the token.

    The documents are `input_ids` with `trained` and `answer` masks; an answer includes the token that ends the answer.

    Args:
        kind: "passkey" (a five-digit number in filler), "needle" (a fact in running text), "key-value" (a document of
            pairs, asked for a value), "multi-needle" (two to six facts, asked for one to four of them), "codes"
            (codes of many kinds, some of them asked for) or "copy" (asked to repeat a passage, the document's first
            words, or the words after a phrase). Several questions are about several people's pass keys, needles, pairs,
            codes or passages; each further question adds two multi-needles.
        count: number of samples.
        lengths: least and most tokens of a sample, answers and special tokens included. All lengths between occur, so
            that samples and questions end anywhere in a window.
        length_distribution: "uniform" (all lengths are equally likely) or "log-uniform" (all doublings are equally
            likely, so that there are more short samples, of which a step has more questions).
        questions: number of questions about a document, or [least, most] for a random number per sample. Each is about
            another statement. A sample that is too short for its number has fewer questions, but at least `least`.
        seed: of all random choices.
        haystack: a source of text of any size; samples are cut at random places from a bounded pool of its documents
            (see `read_pool`). None = made-up sentences.
        chat: whether samples are conversations in the tokenizer's chat template, with document and first question in
            the user's first turn, instead of plain text.
        train_on: "all" (all tokens are trained, and answers have `answer_share` of the loss) or "answer" (only answers
            are trained, each token with the weight of a token of text).
        weight, answer_share, limit: see `Source`.

    Raises:
        ValueError: a setting is out of range. On `documents`: lengths too short for the kind, a haystack shorter than
            the longest sample, a tokenizer without an end-of-text token or, with `chat`, without a chat template.
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
    asked: tuple[int, int] = field(init=False, repr=False)  # least and most questions

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

    def documents(self, tokenizer: Any) -> Iterator[SourceRecord]:
        """Yield the haystack's malformed records, then the samples."""
        for record in self.deferred(tokenizer):
            yield record if isinstance(record, MalformedRecord) else record["make"](tokenizer)

    def deferred(self, tokenizer: Any) -> Iterator[SourceRecord]:
        """Yield the haystack's malformed records, then deferred documents, see `records.deferred`."""
        self.prompt_format(tokenizer)  # raises an error if there is none
        pool = yield from self.pool(tokenizer)
        for index in range(self.count):
            yield {"id": self._id(index), "make": partial(self._document, pool, index)}

    def _document(self, pool: Pool, index: int, tokenizer: Any) -> Document:
        prompt_format = self.prompt_format(tokenizer)
        if index == 0:  # here and not before, since this takes as long as a hundred samples
            self._check_lengths(prompt_format, pool)
        sample = self.sample(prompt_format, pool, index)
        return {
            "id": self._id(index),
            "input_ids": np.array(sample.ids, np.int32),
            "trained": sample.answers.copy() if self.train_on == "answer" else np.ones(len(sample.ids), bool),
            "answer": sample.answers,
        }

    def _id(self, index: int) -> str:
        return f"{self.kind}-{self.seed}-{index}"

    def partitions(self, tokenizer: Any) -> Sequence[Partition]:
        """Return one partition of all samples, since they share a haystack."""
        return [partial(self.documents, tokenizer)]

    def prompt_format(self, tokenizer: Any) -> PromptFormat:
        """Return the format of questions and answers."""
        return (chat_format if self.chat else plain_format)(tokenizer)

    def pool(self, tokenizer: Any) -> Any:
        """Return a generator that yields the haystack's malformed records and returns its pool of tokens."""
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

    def _check_lengths(self, prompt_format: PromptFormat, pool: Pool) -> None:
        questions = self.asked[0]
        least = least_length(KINDS[self.kind], prompt_format, pool, self.seed, questions)
        if self.lengths[0] < least:
            raise ValueError(
                f"lengths={self.lengths}: {self.kind} needs at least {least} tokens with this tokenizer and "
                f"questions={questions}, so the least must be {least} or more"
            )

    def sample(self, prompt_format: PromptFormat, pool: Pool, index: int) -> RetrievalSample:
        """Make sample number `index`."""
        seed = f"{self.kind}/{self.seed}/{index}"
        # The length is never drawn again, or short samples would be rare.
        length = DISTRIBUTIONS[self.length_distribution](*self.lengths, Random(f"{seed}/length"))
        questions = Random(f"{seed}/questions").randint(*self.asked)
        try:
            return retrieval_sample(KINDS[self.kind], prompt_format, pool, length, seed, questions, self.asked[0])
        except ValueError as error:
            raise ValueError(f"{self.name}, sample {index}: {error}") from error


def _range(name: str, value: Any) -> tuple[int, int]:
    """Check a range and return (least, most); a ValueError is raised unless these are ascending integers >= 1."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError(f"{name}={value!r} must be two numbers: the least and the most")
    least, most = value
    for number in (least, most):
        check_int(name, number, 1)
    if least > most:
        raise ValueError(f"{name}={tuple(value)}: the least must not be above the most")
    return least, most
