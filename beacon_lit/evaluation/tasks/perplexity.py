"""Perplexity of held-out text, in total, by document and by window, which shows what memory of earlier windows buys."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp
from typing import Any

import torch
from matplotlib.figure import Figure

from beacon_lit.evaluation.plots import perplexity_by_position, score_by_mode
from beacon_lit.evaluation.requests import COSTS, Answer, ScoreText
from beacon_lit.evaluation.task import Document, Example, ModeScores, Record, Score, Subject, Task


@dataclass(frozen=True)
class Piece:
    """`ids`: the tokenizer's prefix and a document's tokens from `start` on; those from `ids[scored]` on are scored."""

    id: str
    start: int
    ids: list[int]
    scored: int


@dataclass(frozen=True)
class Perplexity(Task):
    """exp(sum of the token losses / number of scored tokens), over pieces of documents.

    A piece starts every `stride` tokens of a document and has up to `length` of them; in it those tokens are scored
    that no piece before has. (With a stride below the length, each of them is read after at least `length - stride`
    others.) A document's first token is scored only if the tokenizer puts one before it.

    `Score.details`: "window_i", the perplexity of the scored tokens in window i of their piece; "by_document", exp of
    the mean over documents of their mean token loss, which is what the paper's code calls perplexity.

    Args:
        length: tokens per piece, the tokenizer's bos (if it sets one) included.
        stride: tokens between the starts of pieces, at most `length` less that bos; None = as many, no overlap.
        rest: whether to score the last piece of a document, too, which is shorter.
        max_documents: look at the first so many documents only; None = all.
        max_pieces: score so many pieces: the first piece of each document, then the second of each ...; None = all.

    Raises:
        ValueError: a length below 2, a stride or a limit that is out of range; on evaluation, no document as long as a
            piece.
    """

    length: int = 1024
    stride: int | None = None
    rest: bool = False
    max_documents: int | None = None
    max_pieces: int | None = None
    metric = "perplexity"
    higher_is_better = False

    def __post_init__(self) -> None:
        if self.length < 2:
            raise ValueError(f"length: got {self.length}; a piece needs at least 2 tokens")
        if self.stride is not None and not 1 <= self.stride <= self.length:
            raise ValueError(f"stride: got {self.stride}; must be between 1 and the length, {self.length}, or null")
        for name, limit in (("max_documents", self.max_documents), ("max_pieces", self.max_pieces)):
            if limit is not None and limit < 1:
                raise ValueError(f"{name}: got {limit}; must be at least 1, or null for all")

    def examples(self, subject: Subject) -> Sequence[Example]:
        """See Task."""
        documents = subject.documents[: self.max_documents]
        pieces = cut_pieces(documents, self.length, subject.prefix, self.stride, self.rest)
        return [
            Example(
                f"{piece.id}@{piece.start}",
                {"document": piece.id, "start": piece.start},
                (piece, subject.lm.beacon.window),
            )
            for piece in pieces[: self.max_pieces]
        ]

    def request(self, subject: Subject, example: Example) -> ScoreText:
        """See Task."""
        piece, _ = example.content
        return ScoreText(piece.ids)

    def record(self, example: Example, answer: Answer) -> Record:
        """See Task. The sum of token losses and the number of scored tokens of each window."""
        piece, size = example.content
        window = torch.arange(piece.scored, len(piece.ids)) // size
        nll, tokens = window.bincount(weights=answer["losses"][piece.scored :]), window.bincount()
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
        title = f"Perplexity by position, {label}" if label else "Perplexity by position"
        return {
            "by_ratio": score_by_mode(runs, "perplexity"),
            "by_position": perplexity_by_position(curves, longest, title),
        }


def cut_pieces(
    documents: Sequence[Document],
    length: int,
    prefix: Sequence[int] = (),
    stride: int | None = None,
    rest: bool = False,
) -> list[Piece]:
    """All pieces of up to `length` tokens: the first of every document, then the second of every document, and so on.

    Raises:
        ValueError: there is none.
    """
    prefix = list(prefix)
    pieces = [_cut(name, list(ids), length, prefix, stride, rest) for name, ids in documents]
    rounds = max(map(len, pieces), default=0)
    if not rounds:
        longest = max((len(ids) for _, ids in documents), default=0)
        raise ValueError(
            f"length: got {length}, but the longest of the {len(documents)} documents has {longest} tokens; "
            "choose a smaller length or other documents"
        )
    return [row[i] for i in range(rounds) for row in pieces if i < len(row)]


def _cut(name: str, ids: list[int], length: int, prefix: list[int], stride: int | None, rest: bool) -> list[Piece]:
    room = length - len(prefix)
    first = len(prefix) if prefix and ids[: len(prefix)] == prefix else 0
    if stride is not None and stride > room:
        raise ValueError(f"stride: got {stride}; must be at most {room}, the length without the tokenizer's bos")
    pieces: list[Piece] = []
    done = first + (0 if prefix else 1)  # tokens before this one are not to be scored any more
    for start in range(first, len(ids), stride or room):
        end = min(start + room, len(ids))
        if done >= end or (end - start < room and not rest):
            break
        if stride is None:  # a piece's first token has none before it
            done = max(done, start + (0 if prefix else 1))
        pieces.append(Piece(name, start, prefix + ids[start:end], len(prefix) + done - start))
        done = end
    return pieces


def perplexity(nll: Any, tokens: Any) -> float:
    """exp(nll / tokens) of a sum of losses in nats, infinite where a float cannot hold it."""
    return exp(nll / tokens) if nll / tokens < 700 else float("inf")
