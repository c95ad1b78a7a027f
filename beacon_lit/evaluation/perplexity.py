"""Perplexity of held-out text, in total and by window, which shows what memory of earlier windows buys."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor

from beacon_lit.evaluation.modes import Mode
from beacon_lit.evaluation.plots import perplexity_by_position, score_by_mode
from beacon_lit.evaluation.task import Document, ModeScores, Score, Subject


@dataclass(frozen=True)
class Piece:
    """`ids` = the tokenizer's prefix and the document's tokens from `start` on."""

    id: str
    start: int
    ids: list[int]


@dataclass(frozen=True)
class Perplexity:
    """exp(sum of the token losses / number of scored tokens), over pieces of equal length.

    Documents are cut into pieces that do not overlap; a rest shorter than a piece is left out. Every token of a piece
    but its first is scored. `Score.details["window_i"]` is the perplexity of the tokens in window i of their piece.

    Args:
        length: tokens per piece, the tokenizer's bos (if it sets one) included.
        max_documents: look at the first so many documents only; None = all.
        max_pieces: score so many pieces: the first piece of each document, then the second of each ...; None = all.

    Raises:
        ValueError: a length below 2, a limit below 1; on evaluation, no document as long as a piece.
    """

    length: int = 1024
    max_documents: int | None = None
    max_pieces: int | None = None

    def __post_init__(self) -> None:
        if self.length < 2:
            raise ValueError(f"length: got {self.length}; a piece needs at least 2 tokens")
        for name, limit in (("max_documents", self.max_documents), ("max_pieces", self.max_pieces)):
            if limit is not None and limit < 1:
                raise ValueError(f"{name}: got {limit}; must be at least 1, or null for all")

    def evaluate(self, subject: Subject, mode: Mode) -> Score:
        """See Task."""
        pieces = cut_pieces(subject.documents[: self.max_documents], self.length, subject.prefix)[: self.max_pieces]
        window = torch.arange(1, self.length) // subject.lm.beacon.window
        tokens = window.bincount()
        nll = torch.stack([_window_nll(subject, mode, piece, window) for piece in pieces])
        return Score(
            value=_perplexity(nll.sum(), tokens.sum() * len(pieces)),
            details={f"window_{i}": _perplexity(nll[:, i].sum(), tokens[i] * len(pieces)) for i in range(len(tokens))},
            predictions=[
                {
                    "id": piece.id,
                    "start": piece.start,
                    "perplexity": _perplexity(row.sum(), tokens.sum()),
                    "nll_by_window": row.tolist(),
                    "tokens_by_window": tokens.tolist(),
                }
                for piece, row in zip(pieces, nll, strict=True)
            ],
        )

    def figures(self, runs: Mapping[str, ModeScores]) -> Mapping[str, Figure]:
        """See Task."""
        label, newest = list(runs.items())[-1]
        some_score = next(iter(newest.values()))
        curves = {name: list(score.details.values()) for name, score in newest.items()}
        return {
            "by_ratio": score_by_mode(runs, "perplexity"),
            "by_position": perplexity_by_position(
                curves,
                some_score.predictions[0]["tokens_by_window"],
                f"Perplexity by position, {label}" if label else "Perplexity by position",
            ),
        }


def cut_pieces(documents: Sequence[Document], length: int, prefix: Sequence[int] = ()) -> list[Piece]:
    """All pieces of `length` tokens: the first of every document, then the second of every document, and so on."""
    prefix = list(prefix)
    step = length - len(prefix)
    pieces = []
    for name, ids in documents:
        ids = list(ids)
        skip = len(prefix) if prefix and ids[: len(prefix)] == prefix else 0
        starts = range(skip, len(ids) - step + 1, step)
        pieces.append([Piece(name, start, prefix + ids[start : start + step]) for start in starts])
    rounds = max(map(len, pieces), default=0)
    if not rounds:
        longest = max((len(ids) for _, ids in documents), default=0)
        raise ValueError(
            f"length: got {length}, but the longest of the {len(documents)} documents has {longest} tokens; "
            "choose a smaller length or other documents"
        )
    return [row[i] for i in range(rounds) for row in pieces if i < len(row)]


def _window_nll(subject: Subject, mode: Mode, piece: Piece, window: Tensor) -> Tensor:
    """Sums of token losses (float64, on the CPU), one per window; `window` (L-1,) tells the window of each token."""
    ids = torch.tensor([piece.ids], device=subject.lm.device)
    loss = mode.token_loss(subject.lm, ids, labels=ids)[0, 1:].double().cpu()
    return window.bincount(weights=loss)


def _perplexity(nll: Tensor, tokens: Tensor) -> float:
    return (nll / tokens).exp().item()
