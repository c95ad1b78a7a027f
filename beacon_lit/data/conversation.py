"""Conversations -> token ids, through the chat template; the loss is on the assistant's tokens alone."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from beacon_lit.data.answers import Span, rendered_answers
from beacon_lit.data.message_keys import is_trained, with_tool_calls
from beacon_lit.data.rendering import Message
from beacon_lit.data.templates import with_template

_LETTERS = {"system": "s", "user": "u", "assistant": "a", "tool": "t"}
_ROLES = re.compile("s?(?=u)(u(at+)*a)*(u(at+)*)?")


def tokenize_conversation(
    conversation: list[Message], tokenizer: Any, tools: Sequence[Any] = ()
) -> tuple[list[int], np.ndarray]:
    """Tokenise a conversation.

    The assistant's end-of-turn token is part of its turn; what the template writes behind that token (a line break) is
    not; see `answers`. A token that an answer shares with the template (the space before a word) is trained. A message
    of the assistant with `weight` 0 is not.

    Args:
        conversation: messages of {"role", "content"}: an optional system message, then user and assistant in turns. The
            assistant may call tools (`tool_calls`), whose answers have the role tool, and speak again. Other keys: see
            `message_keys`.
        tokenizer: a fast tokenizer with a chat template.
        tools: see `rendering.render`.

    Returns:
        Token ids, (L,), and a bool array (L,): the tokens of the assistant's turns.

    Raises:
        ValueError: no chat template, roles out of order, a content that is not a string, or a template that refuses
            the conversation, leaves out a message or rewrites one.
    """
    with_template(tokenizer)  # raises an error if there is none
    _check(conversation)
    conversation = with_tool_calls(conversation)
    text, answers = rendered_answers(conversation, tokenizer, tools)
    return marked_tokens(text, _trained(conversation, answers), tokenizer)


def _trained(conversation: list[Message], answers: list[Span]) -> list[Span]:
    """Return the answers that are trained."""
    messages = enumerate(conversation, 1)
    trained = [is_trained(number, message) for number, message in messages if message["role"] == "assistant"]
    if all(trained):
        return answers
    if len(answers) != len(trained):
        raise ValueError(
            f"weight=0 is not allowed with a chat template that writes {len(trained)} answers as {len(answers)} parts"
        )
    return [answer for answer, is_ in zip(answers, trained, strict=True) if is_]


def marked_tokens(text: str, answers: list[Span], tokenizer: Any) -> tuple[list[int], np.ndarray]:
    """Tokenise a text with answers in it.

    Args:
        text: any text.
        answers: the characters [first, last) of each answer.
        tokenizer: a fast tokenizer; other tokenizers are a ValueError.

    Returns:
        Token ids, (L,), and a bool array (L,): the tokens that have a character of an answer.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            f"the tokenizer {tokenizer.name_or_path!r} must be a fast one, which knows the offsets of tokens"
        )
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    starts, ends = np.array(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2).T
    spoken = np.zeros(len(text) + 1, dtype=np.int64)  # characters of answers before each position
    for first, last in answers:
        spoken[first + 1 : last + 1] = 1
    spoken = np.cumsum(spoken)
    return encoded["input_ids"], spoken[ends] > spoken[starts]


def _check(conversation: list[Message]) -> None:
    """Raise a ValueError unless messages and roles are as `tokenize_conversation` needs them."""
    for message in conversation:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise ValueError(f"a message must have a role and a content that is a string, not {str(message)[:80]}")
    check_roles([message.get("role") for message in conversation])


def check_roles(roles: list[Any]) -> None:
    """Raise a ValueError unless roles are user, assistant, user, ... after an optional system.

    Instead of one message of the assistant there may be several, with messages of tools between them.
    """
    if not _ROLES.fullmatch("".join(_LETTERS.get(str(role), "?") for role in roles)):
        raise ValueError(
            "roles must be user, assistant, user, ... after an optional system, with tool messages only between two of "
            f"the assistant; these are {roles[:12]}"
        )
