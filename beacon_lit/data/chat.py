"""Conversations -> tokens, with a chat template; the loss is on the assistant's tokens only."""

from typing import Any

import numpy as np

from beacon_lit.data.answers import Message, Span, rendered_answers
from beacon_lit.data.records import in_turns
from beacon_lit.data.templates import with_template


def encode_chat(conversation: list[Message], tokenizer: Any) -> tuple[list[int], np.ndarray]:
    """Token ids of a conversation, (L,), and a bool array (L,) that is True where the assistant speaks.

    The assistant's end-of-turn token is part of its turn, what the template puts behind it (a line break) is not;
    `answers` says what else is. A token that an answer shares with the template (the space before a word) is trained.

    conversation: messages of {"role", "content"}: an optional system message, then user and assistant in turns
    tokenizer: a fast one with a chat template

    Raises ValueError: no chat template, roles out of order, a content that is not a string, a template that refuses the
    conversation, leaves a message out or rewrites one.
    """
    with_template(tokenizer)  # an error if there is none
    _check(conversation)
    return marked_tokens(*rendered_answers(conversation, tokenizer), tokenizer)


def marked_tokens(text: str, answers: list[Span], tokenizer: Any) -> tuple[list[int], np.ndarray]:
    """Token ids of a text, (L,), and a bool array (L,): which tokens have a character of an answer.

    answers: the characters [first, last) of each
    tokenizer: a fast one; else a ValueError is raised
    """
    if not tokenizer.is_fast:
        raise ValueError(
            f"the tokenizer {tokenizer.name_or_path!r} must be a fast one, which tells the offsets of tokens"
        )
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    starts, ends = np.array(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2).T
    spoken = np.zeros(len(text) + 1, dtype=np.int64)  # characters of answers before each position
    for first, last in answers:
        spoken[first + 1 : last + 1] = 1
    spoken = np.cumsum(spoken)
    return encoded["input_ids"], spoken[ends] > spoken[starts]


def _check(conversation: list[Message]) -> None:
    """Roles: an optional system message, then user and assistant in turns."""
    for message in conversation:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise ValueError(f"a message must have a role and a content that is a string, not {str(message)[:80]}")
    roles = [message.get("role") for message in conversation]
    if not in_turns(roles):
        raise ValueError(f"roles must be user, assistant, user, ... after an optional system; these are {roles[:12]}")
