"""Formats of a prompt around a document: plain text, or a conversation in the chat template."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from beacon_lit.data.answers import rendered_answers
from beacon_lit.data.conversation import marked_tokens
from beacon_lit.data.encoding import start_ids, token_ids
from beacon_lit.data.retrieval.drafts import Exchange

_DOCUMENT = "\ue0b8"  # from Unicode's private use area: no text has this character, and no template strips it


@dataclass(frozen=True, eq=False)
class Prompt:
    """The tokens before and behind a document.

    Attributes:
        opening: token ids of the announcement.
        closing: token ids of the questions and their answers.
        answers: (len(closing),) bool, the tokens of answers, with the token that ends each answer.
    """

    opening: list[int]
    closing: list[int]
    answers: np.ndarray


class PromptFormat(Protocol):
    """How announcement, questions and answers become tokens; the same for all samples of a source."""

    @property
    def tokenizer(self) -> Any: ...

    def prompt(self, announcement: str, exchanges: Sequence[Exchange]) -> Prompt:
        """Make the tokens around a document."""


@dataclass(frozen=True)
class PlainFormat:
    """Plain text: each question is followed by the stem of its answer and the answer; empty lines separate them.

    Args:
        tokenizer: a fast tokenizer.
        prefix: token ids before everything, such as the bos token.
    """

    tokenizer: Any
    prefix: tuple[int, ...]

    def prompt(self, announcement: str, exchanges: Sequence[Exchange]) -> Prompt:
        """See `PromptFormat`. A line break ends an answer; the end-of-text token ends the last answer."""
        text, spans = "", []
        for exchange in exchanges:
            text += f"\n\n{exchange.question} {exchange.stem} "
            spans.append((len(text), len(text) + len(exchange.answer) + 1))
            text += exchange.answer
        spans[-1] = (spans[-1][0], len(text))
        ids, answers = marked_tokens(text, spans, self.tokenizer)
        opening = [*self.prefix, *token_ids(self.tokenizer, announcement)]
        return Prompt(opening, [*ids, self.tokenizer.eos_token_id], np.append(answers, True))


@dataclass(frozen=True)
class ChatFormat:
    """The tokenizer's chat template: the user gives the document and asks, the assistant answers, the user asks again.

    Args:
        tokenizer: a fast tokenizer with a chat template.
    """

    tokenizer: Any

    def prompt(self, announcement: str, exchanges: Sequence[Exchange]) -> Prompt:
        """See `PromptFormat`. Answers are the assistant's turns, see `data.answers`."""
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
        return Prompt(token_ids(self.tokenizer, head), ids, answers)


def plain_format(tokenizer: Any) -> PlainFormat:
    """Make the format of plain text between the tokenizer's start ids and the eos token.

    Raises:
        ValueError: the tokenizer has no eos token.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer {tokenizer.name_or_path!r} has no end-of-text token (eos_token)")
    return PlainFormat(tokenizer, tuple(start_ids(tokenizer)))


def chat_format(tokenizer: Any) -> ChatFormat:
    """Make the format of a conversation.

    Raises:
        ValueError: the tokenizer has no chat template, or the template leaves out or rewrites messages.
    """
    if not tokenizer.chat_template:
        raise ValueError(f"chat=True: the tokenizer {tokenizer.name_or_path!r} has no chat template")
    chat = ChatFormat(tokenizer)
    chat.prompt("", [Exchange("Who?", "", "Ada")])  # raises an error if the template is unfit
    return chat
