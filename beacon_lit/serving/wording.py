"""Turn an answer's token ids into text, piece by piece: only text that later tokens cannot change, up to a stop."""

from collections.abc import Sequence
from typing import Any

_UNFINISHED = "\ufffd"  # what a tokenizer writes for the first bytes of a character


class Wording:
    """The text of one answer so far.

    Args:
        tokenizer: the model's tokenizer.
        stops: texts that end the answer, and are not part of it.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = ()) -> None:
        self.tokenizer, self.stops = tokenizer, tuple(stops)
        self.ids: list[int] = []
        self._start = self._done = 0  # ids from `_start` are decoded again, those before `_done` are in the text
        self._held = ""  # text that may be the beginning of a stop
        self.stopped = False

    def add(self, token: int) -> str:
        """Add a token, and return the text that is now certain."""
        self.ids.append(token)
        text = self._decode(len(self.ids))
        if text.endswith(_UNFINISHED):
            return ""
        return self._release(self._advance(text))

    def rest(self) -> str:
        """Return the text that was held back, at the end of the answer."""
        if self.stopped:
            return ""
        text = self._release(self._advance(self._decode(len(self.ids))))
        return text if self.stopped else text + self._held

    def _decode(self, end: int) -> str:
        return self.tokenizer.decode(self.ids[self._start : end], skip_special_tokens=True)

    def _advance(self, text: str) -> str:
        """Return the new part of a decoded text; the last tokens stay, since the next one's text may depend on them."""
        new = text[len(self._decode(self._done)) :]
        self._start, self._done = self._done, len(self.ids)
        return new

    def _release(self, text: str) -> str:
        """Return the text up to a stop, or all of it but the longest end with which a stop could begin."""
        text = self._held + text
        found = [place for place in (text.find(stop) for stop in self.stops) if place >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        sizes = (size for stop in self.stops for size in range(1, len(stop)) if text.endswith(stop[:size]))
        size = max(sizes, default=0)
        self._held = text[len(text) - size :]
        return text[: len(text) - size]
