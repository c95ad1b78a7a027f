"""Conversations -> tokens, with the tokenizer's own chat template; the loss is on the assistant's tokens only."""

import re
from typing import Any

import numpy as np

Message = dict[str, str]

# A character of Unicode's private use area: in no text, and nothing that a template strips.
_MARK = "\ue0b7"


def encode_chat(conversation: list[Message], tokenizer: Any) -> tuple[list[int], np.ndarray]:
    """Token ids of a conversation, and a bool array of the same length that is True where the assistant speaks.

    The assistant's end-of-turn token is part of its turn, what the template puts behind it (a line break) is not. The
    spans are those that the template marks as generated; for a template without such marks they are found by rendering
    parts of the conversation.

    Raises ValueError: the tokenizer has no chat template, roles are out of order, a content is not a string.
    """
    if not tokenizer.chat_template:
        raise ValueError(f"the tokenizer {tokenizer.name_or_path!r} has no chat template, which conversations need")
    _check(conversation)
    if re.search(r"\{%-?\s*generation\s*-?%\}", tokenizer.get_chat_template()):
        encoded = tokenizer.apply_chat_template(
            conversation, return_dict=True, return_assistant_tokens_mask=True, tokenizer_kwargs={"verbose": False}
        )
        return encoded["input_ids"], _with_end_of_turn(encoded["assistant_masks"], encoded["input_ids"], tokenizer)
    return _encode_by_prefix(conversation, tokenizer)


def _check(conversation: list[Message]) -> None:
    """Roles: an optional system message, then user and assistant in turns."""
    for message in conversation:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise ValueError(f"a message must have a role and a content that is a string, not {str(message)[:80]}")
    roles = [message.get("role") for message in conversation]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    expected = [("user", "assistant")[i % 2] for i in range(len(turns))]
    if not turns or turns != expected:
        raise ValueError(f"roles must be user, assistant, user, ... after an optional system; these are {roles[:12]}")


def _with_end_of_turn(mask: list[int], ids: list[int], tokenizer: Any) -> np.ndarray:
    """Many templates mark the content alone: add the special token right behind it."""
    special = set(tokenizer.all_special_ids)
    trained = np.array(mask, dtype=bool)
    for last in np.flatnonzero(trained[:-1] & ~trained[1:]).tolist():
        ended = any(trained[i] and ids[i] in special for i in (last - 1, last))
        trained[last + 1] = not ended and ids[last + 1] in special
    return trained


def _encode_by_prefix(conversation: list[Message], tokenizer: Any) -> tuple[list[int], np.ndarray]:
    if not tokenizer.is_fast:
        raise ValueError(
            f"the tokenizer {tokenizer.name_or_path!r} must be a fast one, which tells the offsets of tokens"
        )

    def render(messages: list[Message], prompt: bool = False) -> str:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)

    text = render(conversation)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    starts, ends = np.array(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2).T
    trained = np.zeros(len(starts), dtype=bool)
    for turn, message in enumerate(conversation):
        if message["role"] == "assistant":
            first, last = _assistant_span(conversation, turn, text, render)
            trained |= (starts < last) & (ends > first) & (starts < ends)
    return encoded["input_ids"], trained


def _assistant_span(conversation: list[Message], turn: int, text: str, render: Any) -> tuple[int, int]:
    """The characters of `text`, the rendered conversation, that are an assistant's turn, its end-of-turn included."""
    opening = render(conversation[:turn], True)
    # Some templates write earlier messages otherwise once others follow: then the turn starts where its content does.
    start = len(opening) if text.startswith(opening) else _find(conversation, turn, True, text, render)
    end = _find(conversation, turn, False, text, render)
    closing = render([*conversation[:turn], {"role": "assistant", "content": _MARK}]).rpartition(_MARK)[2]
    closing = closing.rstrip() or closing
    return start, end + len(closing) * text.startswith(closing, end)


def _find(conversation: list[Message], turn: int, ahead: bool, text: str, render: Any) -> int:
    """Where in `text` one message's content starts (`ahead`) or ends: where a mark put there shows up."""
    content = conversation[turn]["content"]
    for kept in (content, content.strip()):  # many templates strip
        message = {"role": "assistant", "content": _MARK + kept if ahead else kept + _MARK}
        before, mark, after = render([*conversation[:turn], message, *conversation[turn + 1 :]]).partition(_MARK)
        if mark and before + after == text:
            return len(before)
    raise ValueError(f"the chat template rewrites the answer in message {turn}, so its tokens cannot be told apart")
