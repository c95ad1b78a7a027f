"""What is around a document that is asked about: plain text, or a conversation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from beacon_lit.data.answers import rendered_answers
from beacon_lit.data.chat import marked_tokens
from beacon_lit.data.retrieval.kinds import Exchange
from beacon_lit.data.retrieval.tokens import token_ids

_DOCUMENT = "\ue0b8"  # of Unicode's private use area: in no text, and nothing that a template strips


@dataclass(frozen=True, eq=False)
class Around:
    """The tokens before and behind a document.

    opening: ids of what announces it
    closing: ids of the questions and their answers
    answers: (len(closing),) bool, which of these are an answer or the token that ends one
    """

    opening: list[int]
    closing: list[int]
    answers: np.ndarray


class Frame(Protocol):
    """The same for all samples."""

    @property
    def tokenizer(self) -> Any: ...

    def around(self, announcement: str, exchanges: Sequence[Exchange]) -> Around:
        """What is around a document that is announced and asked about."""


@dataclass(frozen=True)
class PlainFrame:
    """Text as it is: questions, each with the stem of its answer and the answer, and an empty line between.

    prefix: ids before everything, such as the bos token
    """

    tokenizer: Any
    prefix: tuple[int, ...]

    def around(self, announcement: str, exchanges: Sequence[Exchange]) -> Around:
        """See `Frame`. A line break ends an answer, and the last one the end of text."""
        text, spans = "", []
        for exchange in exchanges:
            text += f"\n\n{exchange.question} {exchange.stem} "
            spans.append((len(text), len(text) + len(exchange.answer) + 1))
            text += exchange.answer
        spans[-1] = (spans[-1][0], len(text))
        ids, answers = marked_tokens(text, spans, self.tokenizer)
        opening = [*self.prefix, *token_ids(self.tokenizer, announcement)]
        return Around(opening, [*ids, self.tokenizer.eos_token_id], np.append(answers, True))


@dataclass(frozen=True)
class ChatFrame:
    """The tokenizer's chat template: the user gives the document and asks, the assistant answers, the user asks on."""

    tokenizer: Any

    def around(self, announcement: str, exchanges: Sequence[Exchange]) -> Around:
        """See `Frame`. Answers are the assistant's turns, see `answers`."""
        messages = []
        before = f"{announcement}{_DOCUMENT}\n\n"
        for exchange in exchanges:
            messages.append({"role": "user", "content": before + exchange.question})
            messages.append({"role": "assistant", "content": exchange.answer})
            before = ""
        text, spans = rendered_answers(messages, self.tokenizer)
        head, _, rest = text.partition(_DOCUMENT)
        cut = len(text) - len(rest)
        ids, answers = marked_tokens(rest, [(first - cut, last - cut) for first, last in spans], self.tokenizer)
        return Around(token_ids(self.tokenizer, head), ids, answers)


def plain_frame(tokenizer: Any) -> PlainFrame:
    """Text between the tokenizer's bos (where it puts one) and eos. Raises ValueError without an eos."""
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer {tokenizer.name_or_path!r} has no end-of-text token (eos_token)")
    start = tokenizer("")["input_ids"][:1]
    return PlainFrame(tokenizer, tuple(start) if start and start[0] == tokenizer.bos_token_id else ())


def chat_frame(tokenizer: Any) -> ChatFrame:
    """A conversation. Raises ValueError: no chat template, or one that leaves out or rewrites what is said."""
    if not tokenizer.chat_template:
        raise ValueError(f"chat=True: the tokenizer {tokenizer.name_or_path!r} has no chat template")
    frame = ChatFrame(tokenizer)
    frame.around("", [Exchange("Who?", "", "Ada")])
    return frame
