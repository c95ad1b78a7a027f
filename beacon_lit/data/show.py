"""Shows samples to people: the text that a model reads, and which tokens count in the loss."""

import html
import re
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from rich.text import Text

from beacon_lit.data.checks import check_int

STYLES = ("bright_black", "green", "bold yellow")  # no loss, loss, an answer with more loss
_TAGS = (("", ""), ("<strong>", "</strong>"), ("<strong><em>", "</em></strong>"))
_UTF8 = 4  # the most bytes, and so tokens, of a character
_BROKEN = "\ufffd"  # what decoders return for part of a character
# Terminals execute control characters, and pages hide them.
_VISIBLE: dict[int, str] = {code: chr(0x2400 + code) for code in range(32)} | {127: "\u2421"}
_VISIBLE |= {code: f"\\x{code:02x}" for code in range(128, 160)} | {ord("\t"): "\t", ord("\n"): "↵\n"}


class Segment(NamedTuple):
    """Neighbouring tokens of one kind, as text.

    Attributes:
        text: control characters are replaced by signs, and a line break follows ↵.
        level: 0 = no loss, 1 = loss, 2 = more loss than other tokens.
        special: whether the tokens are special tokens.
        skipped: number of tokens that are left out here; the text is empty then.
    """

    text: str
    level: int = 0
    special: bool = False
    skipped: int = 0


def colored(sample: Any, tokenizer: Any, width: int = 120, max_tokens: int = 1000) -> Text:
    """Format a sample for the terminal: a headline, the text with the loss in colours, and a rule at the end.

    Args:
        sample: a `Sample`.
        tokenizer: decodes the sample's tokens.
        width: columns of the rules.
        max_tokens: most tokens that are shown, apart from up to three that complete a character. Segments are
            shortened in their middle, the longest first, so that answers stay whole where possible.

    Raises:
        ValueError: width below 20, max_tokens below 1.
    """
    check_int("width", width, 20)
    text = Text(f"── {_headline(sample)} ".ljust(width, "─") + "\n", end="")
    for segment in segments(sample, tokenizer, max_tokens):
        if segment.skipped:
            gap = f" {_skipped(segment)} ".center(width, "┄")
            text.append(f"{_fresh_line(text)}{gap}\n", style="cyan")
        else:
            text.append(segment.text, style=STYLES[segment.level] + " reverse" * segment.special)
    return text.append(f"{_fresh_line(text)}{'─' * width}\n")


def markdown(sample: Any, tokenizer: Any, max_tokens: int = 1000) -> str:
    """Format a sample for TensorBoard's text page: tokens with loss are bold, answers with more loss italic as well.

    See `colored` for the arguments and errors.
    """
    parts = []
    for segment in segments(sample, tokenizer, max_tokens):
        opening, closing = _TAGS[segment.level]
        text = f"\n{_skipped(segment)}\n" if segment.skipped else html.escape(segment.text, quote=False)
        parts.append(f"{opening}{text}{closing}")
    return f"{escaped(_headline(sample))}\n\n<pre>{''.join(parts)}</pre>\n"


def escaped(text: str) -> str:
    """Escape text so that Markdown and HTML show it unchanged."""
    return re.sub(r"[\\`*_\[\]<>&|#~]", lambda sign: f"&#{ord(sign[0])};", text)


def segments(sample: Any, tokenizer: Any, max_tokens: int) -> list[Segment]:
    """Divide a sample's text into segments of one kind; see `colored` for the arguments."""
    check_int("max_tokens", max_tokens, 1)
    ids, weights = sample.input_ids.tolist(), np.asarray(sample.weights)
    levels = (weights > 0).astype(int) + (weights > 1)
    special = set(tokenizer.added_tokens_decoder)
    found: list[Segment] = []
    start = 0
    for gap, after in [*_gaps(levels, max_tokens, ids, tokenizer), (len(ids), len(ids))]:
        for first, last, text in _characters(ids, start, gap, tokenizer):
            segment = Segment(text.translate(_VISIBLE), int(levels[first:last].max()), ids[first] in special)
            if found and found[-1][1:] == segment[1:]:
                found[-1] = segment._replace(text=found[-1].text + segment.text)
            else:
                found.append(segment)
        if after > gap:
            found.append(Segment("", skipped=after - gap))
        start = after
    return found


def _gaps(levels: np.ndarray, max_tokens: int, ids: list[int], tokenizer: Any) -> list[tuple[int, int]]:
    """Return the tokens [first, last) that are left out: the middles of the longest segments."""
    edges = np.flatnonzero(np.diff(levels, prepend=-1, append=-1))
    if len(edges) - 1 > max_tokens:  # too many segments to show a part of each
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
    """Move a place within a character to the character's end, up to three tokens later."""
    places = range(place, min(place + _UTF8, len(ids) + 1))
    whole = (at for at in places if not _decode(ids[max(at - _UTF8, 0) : at], tokenizer).endswith(_BROKEN))
    return next(whole, place)


def _characters(ids: list[int], first: int, last: int, tokenizer: Any) -> Iterator[tuple[int, int, str]]:
    """Yield (first, last, text) of single tokens, or of several that share a character."""
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
        text += f", {answers:,} of them with a weight of up to {weights.max():.4g}"
    return text


def _skipped(segment: Segment) -> str:
    return f"... {segment.skipped:,} token{'s' * (segment.skipped > 1)} ..."


def _fresh_line(text: Text) -> str:
    return "" if text.plain.endswith("\n") else "\n"
