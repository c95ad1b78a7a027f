"""Perplexity of held-out text, in total, by document, and by window, which shows the use of memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp
from typing import Any

import torch
from matplotlib.figure import Figure

from beacon_lit.evaluation.checks import check_at_least, check_limits
from beacon_lit.evaluation.plots import perplexity_by_position, score_by_mode, titled
from beacon_lit.evaluation.requests import COSTS, Answer, ScoreText
from beacon_lit.evaluation.task import Document, Example, ModeScores, Record, Score, Subject, Task


@dataclass(frozen=True)
class Excerpt:
    """A part of a document that is scored at once.

    Attributes:
        id: id of the document.
        start: index of its first token in the document.
        ids: the tokenizer's prefix and the tokens from `start` on.
        scored: index in `ids` of the first token that is scored.
    """

    id: str
    start: int
    ids: list[int]
    scored: int


@dataclass(frozen=True)
class Perplexity(Task):
    """The perplexity is exp(sum of token losses / number of scored tokens), over excerpts of documents.

    An excerpt starts every `stride` tokens of a document and has up to `length` tokens, of which those are scored that
    no earlier excerpt has. With a stride below the length each of them is read after at least `length - stride` others.
    The first token of a document is scored only if the tokenizer puts a token before it.

    `Score.details` has "window_i", the perplexity of the scored tokens in window i of their excerpts; and
    "by_document", exp of the mean over documents of their mean token loss, which the paper's code calls perplexity.

    Args:
        length: tokens per excerpt, the tokenizer's bos (if it sets one) included.
        stride: tokens between the starts of excerpts, at most `length` without that bos; None = no overlap.
        rest: whether to score the last excerpt of a document as well, which is shorter.
        max_documents: maximum number of documents; None = all.
        max_pieces: maximum number of excerpts: the first of each document, then the second of each ...; None = all.

    Raises:
        ValueError: a setting out of range; on evaluation, no document as long as an excerpt.
    """

    length: int = 1024
    stride: int | None = None
    rest: bool = False
    max_documents: int | None = None
    max_pieces: int | None = None
    metric = "perplexity"
    higher_is_better = False

    def __post_init__(self) -> None:
        check_at_least(2, length=self.length)
        check_limits(max_documents=self.max_documents, max_pieces=self.max_pieces)
        if self.stride is not None and not 1 <= self.stride <= self.length:
            raise ValueError(
                f"stride={self.stride} is not allowed; allowed: between 1 and the length, {self.length}, or null"
            )

    def examples(self, subject: Subject) -> Sequence[Example]:
        """See Task."""
        documents = subject.documents[: self.max_documents]
        excerpts = cut_excerpts(documents, self.length, subject.prefix, self.stride, self.rest)
        window = subject.lm.beacon.window
        return [
            Example(f"{part.id}@{part.start}", {"document": part.id, "start": part.start}, (part, window))
            for part in excerpts[: self.max_pieces]
        ]

    def request(self, subject: Subject, example: Example) -> ScoreText:
        """See Task."""
        excerpt, _ = example.content
        return ScoreText(excerpt.ids)

    def record(self, example: Example, answer: Answer) -> Record:
        """See Task. The record has the sum of token losses and the number of scored tokens of each window."""
        excerpt, size = example.content
        window = torch.arange(excerpt.scored, len(excerpt.ids)) // size
        nll, tokens = window.bincount(weights=answer["losses"][excerpt.scored :]), window.bincount()
        costs = {name: answer[name] for name in COSTS}
        return {"nll_by_window": nll.tolist(), "tokens_by_window": tokens.tolist(), **costs}

    def grade(self, record: Record) -> Record:
        """See Task."""
        return {"perplexity": perplexity(sum(record["nll_by_window"]), sum(record["tokens_by_window"]))}

    def score(self, records: Sequence[Record]) -> Score:
        """See Task."""
        windows: dict[int, list[float]] = {}
        documents: dict[str, list[float]] = {}
        for record in records:
            for i, both in enumerate(zip(record["nll_by_window"], record["tokens_by_window"], strict=True)):
                for sums in (windows.setdefault(i, [0, 0]), documents.setdefault(record["document"], [0, 0])):
                    sums[0], sums[1] = sums[0] + both[0], sums[1] + both[1]
        totals = [sum(part) for part in zip(*windows.values(), strict=True)]
        means = [nll / tokens for nll, tokens in documents.values() if tokens]
        by_window = {f"window_{i}": perplexity(*sums) for i, sums in sorted(windows.items()) if sums[1]}
        by_document = perplexity(sum(means), len(means))
        return Score(value=perplexity(*totals), details={**by_window, "by_document": by_document})

    def figures(self, runs: Mapping[str, ModeScores]) -> Mapping[str, Figure]:
        """See Task."""
        label, newest = list(runs.items())[-1]
        some_score = next(iter(newest.values()))
        longest = max((record["tokens_by_window"] for record in some_score.predictions), key=len)
        if len(longest) < 2 or not all(longest):
            return {"by_ratio": score_by_mode(runs, "perplexity")}
        curves = {name: [score.details[f"window_{i}"] for i in range(len(longest))] for name, score in newest.items()}
        title = titled("Perplexity by position", label)
        return {
            "by_ratio": score_by_mode(runs, "perplexity"),
            "by_position": perplexity_by_position(curves, longest, title),
        }


def cut_excerpts(
    documents: Sequence[Document],
    length: int,
    prefix: Sequence[int] = (),
    stride: int | None = None,
    rest: bool = False,
) -> list[Excerpt]:
    """Cut documents into excerpts: the first of every document, then the second of every document, and so on.

    Args:
        documents: ids and token ids.
        length, stride, rest: see `Perplexity`.
        prefix: ids that the tokenizer puts before every text.

    Raises:
        ValueError: there is no excerpt, or a stride is longer than an excerpt without its prefix.
    """
    prefix = list(prefix)
    by_document = [_cut(name, list(ids), length, prefix, stride, rest) for name, ids in documents]
    rounds = max(map(len, by_document), default=0)
    if not rounds:
        longest = max((len(ids) for _, ids in documents), default=0)
        raise ValueError(
            f"length={length} is not allowed; allowed: at most {longest}, the tokens of the longest of the "
            f"{len(documents)} documents"
        )
    return [row[i] for i in range(rounds) for row in by_document if i < len(row)]


def _cut(name: str, ids: list[int], length: int, prefix: list[int], stride: int | None, rest: bool) -> list[Excerpt]:
    room = length - len(prefix)
    first = len(prefix) if prefix and ids[: len(prefix)] == prefix else 0
    if stride is not None and stride > room:
        raise ValueError(
            f"stride={stride} is not allowed; allowed: at most {room}, the length without the tokenizer's bos"
        )
    excerpts: list[Excerpt] = []
    done = first + (0 if prefix else 1)  # tokens before this one are scored already
    for start in range(first, len(ids), stride or room):
        end = min(start + room, len(ids))
        if done >= end or (end - start < room and not rest):
            break
        if stride is None:  # the first token of an excerpt has none before it
            done = max(done, start + (0 if prefix else 1))
        excerpts.append(Excerpt(name, start, prefix + ids[start:end], len(prefix) + done - start))
        done = end
    return excerpts


def perplexity(nll: Any, tokens: Any) -> float:
    """Return exp(nll / tokens) of a sum of losses in nats; infinity if a float cannot hold it."""
    return exp(nll / tokens) if nll / tokens < 700 else float("inf")
