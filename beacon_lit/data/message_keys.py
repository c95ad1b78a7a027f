"""Keys of messages besides role and content: each is written by the chat template, honoured, refused or counted.

- `weight` of the assistant's messages: 0 makes a message context that is not trained.
- `tool_calls` are brought into the form that chat templates read.
- Keys with a meaning (`MEANT`) that the template does not write are an error, so that nobody trains without them.
- Other keys that the template does not write (a date, a name of a source) are left out, and their names returned.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from beacon_lit.data.rendering import Message, render, template_name

REASONING = ("reasoning_content", "reasoning", "thinking")
MEANT = (
    "tool_calls", *REASONING, "name", "tool_plan", "function_call", "refusal", "train", "loss", "mask",
    "image", "images", "video", "videos", "audio", "audios", "documents",
)  # fmt: skip
_PLAIN = ("role", "content", "tool_call_id")
_CALL = '{"type": "function", "function": {"name": "...", "arguments": {...}}}'
_NOTHING: tuple[Any, ...] = (None, "", [], {})


def with_tool_calls(conversation: Iterable[Message]) -> list[Message]:
    """Return the messages with tool calls as templates read them: arguments as an object, and not as a JSON string.

    Raises:
        ValueError: a tool call without a name, or arguments that are not an object.
    """
    return [
        {**message, "tool_calls": [_call(number, call) for call in _listed(number, message["tool_calls"])]}
        if message.get("tool_calls") not in _NOTHING
        else {name: value for name, value in message.items() if name != "tool_calls"}
        for number, message in enumerate(conversation, 1)
    ]


def is_trained(number: int, message: Message) -> bool:
    """Whether an assistant's message, the `number`-th, is trained. Raises ValueError for a weight other than 0 or 1."""
    weight = message.get("weight", 1)
    if weight not in (0, 1):
        raise ValueError(f"weight={weight!r} of message {number} is not allowed; allowed: 0 (not trained) or 1")
    return bool(weight)


def unwritten_keys(conversation: Sequence[Message], tools: Sequence[Any], tokenizer: Any) -> list[str]:
    """Return the names of keys that the chat template does not write, where these have no meaning that is known.

    The template writes a key if the text without the key is another one. Templates may leave out the reasoning of
    earlier turns by design (Qwen3), so that a template only needs to write reasoning somewhere.

    Args:
        conversation: messages.
        tools: see `rendering.render`.
        tokenizer: a tokenizer with a chat template.

    Raises:
        ValueError: the template does not write the tools, a key of `MEANT`, or a content beside tool calls.
    """
    found = {name: _having(name, conversation) for name in _names(conversation)}
    if not (found or tools):
        return []
    text, template = render(conversation, tokenizer, tools), template_name(tokenizer)
    if tools and not _changes(text, conversation, tokenizer, ()):
        raise ValueError(f"{template} does not write tools; choose a template that does, or leave them out")
    for number in found.get("tool_calls", []):
        if not is_written(conversation[number]["content"], text):
            raise ValueError(f"{template} does not write the content of message {number + 1} beside its tool_calls")
    unwritten = []
    for name, numbers in found.items():
        groups = [[number] for number in numbers] if name in ("tool_calls", "name") else [numbers]
        missing = [
            group for group in groups if not _changes(text, _without(name, conversation, group), tokenizer, tools)
        ]
        if not missing:
            continue
        if name in MEANT and not (name in REASONING and _writes_reasoning(name, tokenizer)):
            hint = "; allowed: weight, 0 or 1" if name in ("train", "loss", "mask") else ""
            raise ValueError(f"{template} does not write {name} of message {missing[0][0] + 1}{hint}")
        unwritten.append(name)
    return unwritten


def is_written(content: str, text: str) -> bool:
    """Whether a rendered text has a content, as it is or as a string of JSON."""
    return content.strip() in text or json.dumps(content, ensure_ascii=False)[1:-1].strip() in text


def meant_keys(document: Mapping[str, Any]) -> list[str]:
    """Return the names of what a conversation says besides what user and assistant say: tools, and keys of messages."""
    messages = document["conversations"]
    found = [name for name in MEANT if _having(name, messages)]
    found += ["weight"] * any("weight" in message for message in messages)
    return found + ["tools"] * (bool(document.get("tools")) or any(message["role"] == "tool" for message in messages))


def _names(conversation: Sequence[Message]) -> list[str]:
    names = dict.fromkeys(name for message in conversation for name in message if name not in _PLAIN)
    return [name for name in names if _having(name, conversation)]


def _having(name: str, conversation: Sequence[Message]) -> list[int]:
    """Return the indices of the messages with a key. The assistant's weight is honoured, a tool's name in its call."""
    own = {"weight": "assistant", "name": "tool"}.get(name)
    messages = enumerate(conversation)
    return [i for i, message in messages if message.get(name) not in _NOTHING and message["role"] != own]


def _without(name: str, conversation: Sequence[Message], numbers: Sequence[int]) -> list[Message]:
    return [
        {key: value for key, value in message.items() if key != name or number not in numbers}
        for number, message in enumerate(conversation)
    ]


def _changes(text: str, messages: Sequence[Message], tokenizer: Any, tools: Sequence[Any]) -> bool:
    """Whether the template makes another text than `text` of these messages, or refuses them."""
    try:
        return render(messages, tokenizer, tools) != text
    except ValueError:
        return True


def _writes_reasoning(name: str, tokenizer: Any) -> bool:
    asked, said = {"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}
    return render([asked, {**said, name: "why"}], tokenizer) != render([asked, said], tokenizer)


def _listed(number: int, calls: Any) -> list[Any]:
    if not isinstance(calls, list):
        raise ValueError(f"tool_calls of message {number} must be a list of {_CALL}, not {type(calls).__name__}")
    return calls


def _call(number: int, call: Any) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
        raise ValueError(f"a tool call of message {number} must be like {_CALL}, not {str(call)[:80]}")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError as error:
            raise ValueError(f"arguments of a tool call of message {number} are malformed JSON: {error}") from error
    if not isinstance(arguments, Mapping | None):
        raise ValueError(f"arguments of a tool call of message {number} must be an object, not {str(arguments)[:80]}")
    others = {name: value for name, value in call.items() if name in ("id", "index")}
    return {**others, "type": "function", "function": {"name": function["name"], "arguments": dict(arguments or {})}}
