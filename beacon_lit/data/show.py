"""Samples as something to look at: what a model reads, and which of it counts in the loss."""

import html
import re
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from rich.text import Text

from beacon_lit.data.sample import check_int

STYLES = ("bright_black", "green", "bold yellow")  # no loss, loss, an answer whose loss is weighed up
_TAGS = (("", ""), ("<strong>", "</strong>"), ("<strong><em>", "</em></strong>"))
_UTF8 = 4  # bytes, and so tokens, that a character can have at most
_BROKEN = "\ufffd"  # what a decoder makes of part of a character
# A terminal obeys control characters, and pages hide them.
_VISIBLE: dict[int, str] = {code: chr(0x2400 + code) for code in range(32)} | {127: "\u2421"}
_VISIBLE |= {code: f"\\x{code:02x}" for code in range(128, 160)} | {ord("\t"): "\t", ord("\n"): "↵\n"}


class Piece(NamedTuple):
    """Neighbouring tokens of one kind, as text.

    text: control characters replaced by signs, and ↵ before a line break
    level: 0 no loss, 1 loss, 2 more loss than others have
    special: a token that stands for no text
    skipped: number of tokens that are left out here; then there is no text
    """

    text: str
    level: int = 0
    special: bool = False
    skipped: int = 0


def colored(sample: Any, tokenizer: Any, width: int = 120, max_tokens: int = 1000) -> Text:
    """A sample for the terminal: a line that sums it up, its text with the loss in colours, and a rule at the end.

    sample: has `id`, `input_ids` (L,) and `weights` (L,): 0 no loss, 1 loss, more for an answer that is weighed up
    width: columns of the rules
    max_tokens: shown at most, but for three more that finish a character. Every stretch of tokens of one kind is
        shortened in its middle, the longest first, so that answers stay whole where they can

    Raises ValueError: width below 20, max_tokens below 1.
    """
    check_int("width", width, 20)
    text = Text(f"── {_headline(sample)} ".ljust(width, "─") + "\n", end="")
    for piece in pieces(sample, tokenizer, max_tokens):
        if piece.skipped:
            gap = f" {_skipped(piece)} ".center(width, "┄")
            text.append(f"{_fresh_line(text)}{gap}\n", style="cyan")
        else:
            text.append(piece.text, style=STYLES[piece.level] + " reverse" * piece.special)
    return text.append(f"{_fresh_line(text)}{'─' * width}\n")


def markdown(sample: Any, tokenizer: Any, max_tokens: int = 1000) -> str:
    """A sample for TensorBoard's text page, which shows no colours: loss is bold, a weighed up answer italic as well.

    See `colored` for the arguments and errors.
    """
    parts = []
    for piece in pieces(sample, tokenizer, max_tokens):
        opening, closing = _TAGS[piece.level]
        text = f"\n{_skipped(piece)}\n" if piece.skipped else html.escape(piece.text, quote=False)
        parts.append(f"{opening}{text}{closing}")
    return f"{escaped(_headline(sample))}\n\n<pre>{''.join(parts)}</pre>\n"


def escaped(text: str) -> str:
    """Text that Markdown and HTML leave as it is."""
    return re.sub(r"[\\`*_\[\]<>&|#~]", lambda sign: f"&#{ord(sign[0])};", text)


def pieces(sample: Any, tokenizer: Any, max_tokens: int) -> list[Piece]:
    """A sample's text in pieces of one kind. See `colored` for the arguments."""
    check_int("max_tokens", max_tokens, 1)
    ids, weights = sample.input_ids.tolist(), np.asarray(sample.weights)
    levels = (weights > 0).astype(int) + (weights > 1)
    special = set(tokenizer.added_tokens_decoder)
    found: list[Piece] = []
    start = 0
    for gap, after in [*_gaps(levels, max_tokens, ids, tokenizer), (len(ids), len(ids))]:
        for first, last, text in _characters(ids, start, gap, tokenizer):
            piece = Piece(text.translate(_VISIBLE), int(levels[first:last].max()), ids[first] in special)
            if found and found[-1][1:] == piece[1:]:
                found[-1] = piece._replace(text=found[-1].text + piece.text)
            else:
                found.append(piece)
        if after > gap:
            found.append(Piece("", skipped=after - gap))
        start = after
    return found


def _gaps(levels: np.ndarray, max_tokens: int, ids: list[int], tokenizer: Any) -> list[tuple[int, int]]:
    """The tokens [first, last) that are left out: the middles of the longest stretches of one level."""
    edges = np.flatnonzero(np.diff(levels, prepend=-1, append=-1))
    if len(edges) - 1 > max_tokens:  # too many stretches to show something of each
        edges = np.array([0, len(levels)])
    lengths = np.diff(edges)
    longest = range(1, max(lengths, default=0) + 1)
    kept = bisect_right(longest, max_tokens, key=lambda most: int(np.minimum(lengths, most).sum()))
    gaps = []
    for first, last in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if last - first > kept:
            gaps.append((_border(first + (kept + 1) // 2, ids, tokenizer), _border(last - kept // 2, ids, tokenizer)))
    return [(first, last) for first, last in gaps if first < last]


def _border(place: int, ids: list[int], tokenizer: Any) -> int:
    """The place, or one up to three tokens later if it is within a character."""
    places = range(place, min(place + _UTF8, len(ids)))
    whole = (at for at in places if not _decode(ids[max(at - _UTF8, 0) : at], tokenizer).endswith(_BROKEN))
    return next(whole, place)


def _characters(ids: list[int], first: int, last: int, tokenizer: Any) -> Iterator[tuple[int, int, str]]:
    """(first, last, text) of tokens, several together where only together they are whole characters."""
    before = max(first - _UTF8, 0)  # a token's text, such as its leading space, can depend on its neighbour
    for end in range(first + 1, last + 1):
        text = _decode(ids[before:end], tokenizer)[len(_decode(ids[before:first], tokenizer)) :]
        if not text.endswith(_BROKEN) or end - first == _UTF8 or end == last:
            yield first, end, text
            before, first = first, end


def _decode(ids: list[int], tokenizer: Any) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _headline(sample: Any) -> str:
    weights = np.asarray(sample.weights)
    text = f"{sample.id.translate(_VISIBLE)}: {len(weights):,} tokens, {int((weights > 0).sum()):,} with loss"
    if answers := int((weights > 1).sum()):
        text += f", {answers:,} of them weighed up to {weights.max():.4g}"
    return text


def _skipped(piece: Piece) -> str:
    return f"... {piece.skipped:,} token{'s' * (piece.skipped > 1)} ..."


def _fresh_line(text: Text) -> str:
    return "" if text.plain.endswith("\n") else "\n"
