"""Synthetic retrieval data: something is told in a long text and asked for at its end."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

import numpy as np

from beacon_lit.data.records import Record, Shard, Source
from beacon_lit.data.retrieval.frame import Frame, chat_frame, plain_frame
from beacon_lit.data.retrieval.haystack import Pool, made_up_pool, read_pool
from beacon_lit.data.retrieval.kinds import EXCERPT, KINDS
from beacon_lit.data.retrieval.sample import RetrievalSample, least_length, retrieval_sample
from beacon_lit.data.sample import check_int
from beacon_lit.data.sources.settings import check_limit, check_shares

TRAIN_ON = ("answer", "all")


@dataclass(frozen=True)
class SyntheticSource:
    """Retrieval samples, made from (seed, index) alone and exact to the token.

    kind: "passkey": a five-digit number in filler; "needle": a sentence in running text, asked for the fact in it;
        "key-value": a document of pairs, one is asked for; "multi-needle": two to six needles, one to four asked for;
        "copy": a passage to repeat, the words the text begins with, or those after a phrase
    count: samples
    lengths: least and most tokens of a sample, answer and special tokens included. Every length between is as likely,
        so that samples, and their questions, end anywhere in a window
    seed: samples of other seeds are others, in words, text and places
    haystack: any source of text. Samples are cut at random places from a bounded pool of its documents (see
        `read_pool`), so it may be of any size. None = made-up sentences
    chat: as a conversation in the tokenizer's chat template, document and question in the user's turn; False = text
    train_on: "all": the loss is on every token, and half of it is the answer's (`answer_share`); "answer": on the
        answer and the token that ends it alone, which then weigh as much as so few tokens of any text
    weight, answer_share, limit: see `Source`

    Documents: `input_ids`, with `trained` and `answer` masks; the answer's includes the token that ends it.

    Raises ValueError: a setting out of range; on `documents`: lengths too short for the kind, a haystack shorter than
    the longest sample, a tokenizer without an end-of-text token or, with chat, without a chat template.
    """

    kind: str
    count: int
    lengths: tuple[int, int]
    seed: int = 0
    haystack: Source | None = None
    chat: bool = False
    train_on: str = "all"
    weight: float | None = None
    answer_share: float | None = 0.5
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind!r} must be one of {', '.join(KINDS)}")
        if self.train_on not in TRAIN_ON:
            raise ValueError(f"train_on={self.train_on!r} must be one of {', '.join(TRAIN_ON)}")
        if not isinstance(self.lengths, (list, tuple)) or len(self.lengths) != 2:
            raise ValueError(f"lengths={self.lengths!r} must be two numbers: the least and the most tokens")
        object.__setattr__(self, "lengths", tuple(self.lengths))
        check_int("count", self.count, 1)
        check_int("seed", self.seed, 0)
        for length in self.lengths:
            check_int("lengths", length, 1)
        if self.lengths[0] > self.lengths[1]:
            raise ValueError(f"lengths={self.lengths}: the least must not be above the most")
        check_limit(self.limit)
        check_shares(self.weight, self.answer_share)

    @property
    def name(self) -> str:
        return f"{self.kind} in {'filler' if self.haystack is None else self.haystack.name}"

    def key(self) -> Any:
        """See `Source`."""
        names = ("kind", "count", "lengths", "seed", "chat", "train_on")
        settings = {name: getattr(self, name) for name in names} | {"lengths": list(self.lengths)}
        return ["SyntheticSource", settings, None if self.haystack is None else self.haystack.key()]

    def documents(self, tokenizer: Any) -> Iterator[Record]:
        """See `Source`. The haystack's bad records come first, then the samples."""
        frame = self.frame(tokenizer)
        pool = yield from self.pool(tokenizer)
        self._check_lengths(frame, pool)
        for index in range(self.count):
            sample = self.sample(frame, pool, index)
            answer = np.zeros(len(sample.ids), bool)
            answer[sample.start : sample.stop] = True
            yield {
                "id": f"{self.kind}-{self.seed}-{index}",
                "input_ids": np.array(sample.ids, np.int32),
                "trained": answer.copy() if self.train_on == "answer" else np.ones(len(answer), bool),
                "answer": answer,
            }

    def shards(self, tokenizer: Any) -> Sequence[Shard]:
        """All in one: samples share a haystack."""
        return [partial(self.documents, tokenizer)]

    def frame(self, tokenizer: Any) -> Frame:
        """What is around the documents."""
        return (chat_frame if self.chat else plain_frame)(tokenizer)

    def pool(self, tokenizer: Any) -> Any:
        """A generator of the haystack's bad records, which returns the text that samples are cut from."""
        needed = self.lengths[1] + EXCERPT
        if self.haystack is None:
            return made_up_pool(KINDS[self.kind].filler, tokenizer, self.seed, 4 * needed)
        pool = yield from read_pool(self.haystack, tokenizer, self.seed)
        if len(pool) < needed:
            raise ValueError(
                f"haystack={self.haystack.name} is too short: {len(pool):,} tokens; must be at least {needed:,} "
                f"(lengths={self.lengths})"
            )
        return pool

    def _check_lengths(self, frame: Frame, pool: Pool) -> None:
        least = least_length(KINDS[self.kind], frame, pool, self.seed)
        if self.lengths[0] < least:
            raise ValueError(
                f"lengths={self.lengths}: {self.kind} needs at least {least} tokens with this tokenizer, so the least "
                f"must be {least} or more"
            )

    def sample(self, frame: Frame, pool: Pool, index: int) -> RetrievalSample:
        """Sample number `index`."""
        seed = f"{self.kind}/{self.seed}/{index}"
        length = Random(f"{seed}/length").randint(*self.lengths)  # never redrawn, or short ones would get rare
        try:
            return retrieval_sample(KINDS[self.kind], frame, pool, length, seed)
        except ValueError as error:
            raise ValueError(f"{self.name}, sample {index}: {error}") from error
