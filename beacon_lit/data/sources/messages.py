"""The messages of a conversation in the forms that data sets have -> messages of role and content."""

import json
from collections.abc import Mapping
from typing import Any

from beacon_lit.data.conversation import check_roles
from beacon_lit.data.records import MalformedError

# The roles that ShareGPT data calls by other names.
_SPEAKERS = {
    "human": "user", "user": "user", "system": "system", "tool": "tool", "observation": "tool",
    **dict.fromkeys(("gpt", "chatgpt", "assistant", "bing", "bard", "model", "bot"), "assistant"),
}  # fmt: skip
_SHAPE = '{"role": "user", "content": "..."}'


def read_messages(column: str, conversation: Any) -> list[dict[str, Any]]:
    """Check a conversation and bring its messages into one form: role, content as a string, and all other keys.

    Messages have `role` and `content`, or ShareGPT's `from` and `value`. A content may be a list of text parts. Beside
    tool calls, null is an empty content. Keys whose value is null are dropped, since Parquet adds such keys.

    Args:
        column: the column's name, for errors.
        conversation: a list of messages, or the same list as a string of JSON.

    Raises:
        MalformedError: of kind wrong_type, roles or content.
    """
    conversation = from_json(conversation)
    if not isinstance(conversation, list):
        raise MalformedError("wrong_type", f"{column} must be a list of {_SHAPE}, not {type(conversation).__name__}")
    messages = [_message(number, message) for number, message in enumerate(conversation, 1)]
    try:
        check_roles([message["role"] for message in messages])
    except ValueError as error:
        raise MalformedError("roles", str(error)) from error
    return messages


def from_json(value: Any) -> Any:
    """Parse a string that looks like a JSON list, as columns of CSV and Parquet have it; return other values as is."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            pass
    return value


def _message(number: int, message: Any) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise MalformedError("wrong_type", f"message {number} must be like {_SHAPE}, not {type(message).__name__}")
    others = {name: value for name, value in message.items() if value is not None}
    role = others.pop("role", None)
    if role is None and isinstance(others.get("from"), str):
        speaker = others.pop("from")
        role, others["content"] = _SPEAKERS.get(speaker.lower(), speaker), others.pop("value", None)
    if not isinstance(role, str):
        raise MalformedError(
            "roles", f"message {number} needs a role, as in {_SHAPE}; it has {sorted(map(str, message))[:20]}"
        )
    content = others.pop("content", None)
    if content is None and "tool_calls" in others:
        content = ""
    if isinstance(content, list):
        content = "".join(_part(number, part) for part in content)
    if not isinstance(content, str):
        raise MalformedError(
            "content", f"the content of message {number} must be a string, not {type(content).__name__}"
        )
    return {"role": role, "content": content, **others}


def _part(number: int, part: Any) -> str:
    """Return the text of one part of a content: a string, or {"type": "text", "text": "..."}."""
    if isinstance(part, str):
        return part
    text = part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
    if not isinstance(text, str):
        what = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        raise MalformedError(
            "content", f"the content of message {number} must be a string or a list of text parts, not of {what!r}"
        )
    return text
