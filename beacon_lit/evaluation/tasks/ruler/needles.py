"""Needles that name values of keys, hidden between sentences, between lines of noise or between other needles."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from beacon_lit.evaluation.tasks.ruler import words
from beacon_lit.evaluation.tasks.ruler.sample import RulerSample

_MAKERS: dict[str, Callable[[Random], str]] = {"words": words.pair, "numbers": words.number, "uuids": words.uuid}
_ONE = {"numbers": "number", "uuids": "uuid"}

_ANNOUNCEMENT = (
    "The text below hides secret {values}. Keep them in mind: you will be asked about the secret {values} at its end."
)
_NEEDLE = "One of the secret {values} of {key} is: {value}."
_ONE_QUESTION = "Which secret {value} of {keys} does the text above tell?"
_ONE_STEM = "The secret {value} of {keys} that the text tells is"
_QUESTION = "Which are all the secret {values} of {keys} that the text above tells?"
_STEM = "The secret {values} of {keys} that the text tells are"


@dataclass(frozen=True)
class Needles:
    """Makes samples with needles.

    Attributes:
        haystack: sentences or lines to hide the needles between, repeated from a random one on; empty = other needles.
        in_lines: whether each needle, like each part of the haystack, is a line of its own; else all is one paragraph,
            and needles stand at some of 40 depths.
        keys, values: kinds of keys and values: "words", "numbers" or "uuids".
        told: number of keys in the text.
        per_key: number of values of each key.
        asked: number of keys that are asked for.
    """

    haystack: Sequence[str]
    in_lines: bool = True
    keys: str = "words"
    values: str = "numbers"
    told: int = 1
    per_key: int = 1
    asked: int = 1

    def __call__(self, rng: Random, size: int) -> RulerSample:
        """Make a sample whose size is the number of sentences, of lines of noise, or of other needles."""
        others = 0 if self.haystack else size
        keys = words.distinct(lambda: _MAKERS[self.keys](rng), self.told + others)
        values = words.distinct(lambda: _MAKERS[self.values](rng), self.told * self.per_key + others)
        of_keys = [values[i * self.per_key : (i + 1) * self.per_key] for i in range(self.told)]
        needles = [self._needle(keys[i], value) for i in range(self.told) for value in of_keys[i]]
        rng.shuffle(needles)
        more = zip(keys[self.told :], values[self.told * self.per_key :], strict=True)
        lines = self._sentences(rng, size) if self.haystack else [self._needle(*pair) for pair in more]
        draw = words.between_lines if self.in_lines else words.at_depths
        words.hide(needles, lines, draw(rng, len(lines), len(needles)))
        asked = rng.sample(range(self.told), self.asked)
        document = ("\n" if self.in_lines else " ").join(lines)
        return self._sample(document, [keys[i] for i in asked], [value for i in asked for value in of_keys[i]])

    def _sample(self, document: str, keys: list[str], answers: list[str]) -> RulerSample:
        question, stem = (_ONE_QUESTION, _ONE_STEM) if len(answers) == 1 else (_QUESTION, _STEM)
        blanks = {"values": self.values, "value": _ONE[self.values], "keys": words.listed(keys)}
        text = f"{_ANNOUNCEMENT.format(**blanks)}\n{document}\n{question.format(**blanks)}"
        return RulerSample(text, stem.format(**blanks), answers)

    def _needle(self, key: str, value: str) -> str:
        return _NEEDLE.format(values=self.values, key=key, value=value)

    def _sentences(self, rng: Random, size: int) -> list[str]:
        start = rng.randrange(len(self.haystack))
        return [self.haystack[(start + i) % len(self.haystack)] for i in range(size)]
