"""Conversations -> token ids, through the chat template; the loss is on the assistant's tokens alone."""

from typing import Any

import numpy as np

from beacon_lit.data.answers import Message, Span, rendered_answers
from beacon_lit.data.templates import with_template


def tokenize_conversation(conversation: list[Message], tokenizer: Any) -> tuple[list[int], np.ndarray]:
    """Tokenise a conversation.

    The assistant's end-of-turn token is part of its turn; what the template writes behind that token (a line break) is
    not; see `answers`. A token that an answer shares with the template (the space before a word) is trained.

    Args:
        conversation: messages of {"role", "content"}: an optional system message, then user and assistant in turns.
        tokenizer: a fast tokenizer with a chat template.

    Returns:
        Token ids, (L,), and a bool array (L,): the tokens of the assistant's turns.

    Raises:
        ValueError: no chat template, roles out of order, a content that is not a string, or a template that refuses
            the conversation, leaves out a message or rewrites one.
    """
    with_template(tokenizer)  # raises an error if there is none
    _check(conversation)
    return marked_tokens(*rendered_answers(conversation, tokenizer), tokenizer)


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
    """Raise a ValueError unless roles are user, assistant, user, ... after an optional system."""
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if not turns or turns != [("user", "assistant")[i % 2] for i in range(len(turns))]:
        raise ValueError(f"roles must be user, assistant, user, ... after an optional system; these are {roles[:12]}")
