"""Finds the assistant's turns in the text that a chat template makes of a conversation.

A turn is what a model has to write after the text before the turn:

- A turn begins behind the template's generation prompt and ends with the end-of-turn token. For a template without
  such a token, the white space behind an answer ends the turn.
- Reasoning in an answer (`<think> ... </think>`) is part of the turn where the template keeps the reasoning. Qwen3's
  template keeps reasoning in the last turn only; the remaining text of earlier turns is trained.
- Text that a template itself writes before an answer is not part of the turn: an empty `<think></think>` stands for
  reasoning that the data does not have, and a model should not learn to skip reasoning. To prompt such a model, open
  its turn with the empty block (`enable_thinking=False`).

A template may mark what is generated (`{% generation %}`); the marks count then. Otherwise the conversation is rendered
twice, as it is and with a mark behind the content of every message; without the marks both texts must be equal. In a
message with tool calls the mark stands behind the name of the last function called, and the next end-of-turn token ends
the turn.
"""

import re
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from beacon_lit.data.message_keys import is_written
from beacon_lit.data.rendering import Message, render, template_name, template_source

Span = tuple[int, int]

# Unicode reserves these code points: no text has them, and no template strips them.
_MARKS = {"system": "\ufdd0", "user": "\ufdd1", "assistant": "\ufdd2", "tool": "\ufdd4"}
_MARK = re.compile(f"([{''.join(_MARKS.values())}])")
_GENERATED = re.compile("\ufdd3")
_GENERATION = re.compile(r"\{%([-+]?)\s*(?:end)?generation\s*([-+]?)%\}")


class Delimiters(NamedTuple):
    """Text that a template writes around an answer.

    Attributes:
        openings: possible texts between a question and an answer; the first that fits counts.
        closing: text behind an answer, as far as a model has to write it.
    """

    openings: list[str]
    closing: str


def rendered_answers(conversation: list[Message], tokenizer: Any, tools: Sequence[Any] = ()) -> tuple[str, list[Span]]:
    """Render a conversation with the tokenizer's chat template.

    Args:
        conversation: messages; tool calls as `message_keys.with_tool_calls` returns them.
        tokenizer: a tokenizer with a chat template.
        tools: see `rendering.render`.

    Returns:
        The text, and the characters [first, last) of each assistant turn.

    Raises:
        ValueError: the template refuses the conversation, leaves out a message or rewrites one, or marks other messages
            than the assistant's as generated.
    """
    delimiters = _delimiters(tokenizer)
    text = render(conversation, tokenizer, tools)
    if _GENERATION.search(tokenizer.get_chat_template()):
        return text, _generated(conversation, text, tokenizer, tools, delimiters)
    marks, places = _marked_places(conversation, text, tokenizer, tools)
    turns = [message for message in conversation if message["role"] != "system"]
    ends = [place for mark, place in zip(marks, places, strict=True) if not _is_system(mark)]
    gaps = [message["content"][len(message["content"].rstrip()) :] for message in turns]
    spans = []
    for i in (i for i, message in enumerate(turns) if message["role"] == "assistant"):
        before, own, behind = ends[i - 1], ends[i], ends[i + 1] if i + 1 < len(turns) else len(text)
        after_tool, calls = turns[i - 1]["role"] == "tool", "tool_calls" in turns[i]
        start = (
            _find_start(text, before, own, delimiters) if after_tool else _start(text, before, gaps[i - 1], delimiters)
        )
        end = _find_end(text, own, behind, delimiters) if calls else _end(text, own, gaps[i], delimiters)
        spans.append((start, end))
    return text, spans


def _delimiters(tokenizer: Any) -> Delimiters:
    user, assistant = ({"role": role, "content": _MARKS[role]} for role in ("user", "assistant"))
    prompt = render([user], tokenizer, prompt=True).rpartition(_MARKS["user"])[2]
    pieces = _MARK.split(render([user, assistant, user, assistant], tokenizer))
    if pieces[1::2] != [_MARKS["user"], _MARKS["assistant"]] * 2:
        raise ValueError(f"{template_name(tokenizer)} does not write every message once")
    first, last, behind = pieces[2], pieces[6], pieces[8]
    # The model writes white space between the prompt and an answer, but no words.
    worded = [header for header in (last, first) if header.startswith(prompt) and header[len(prompt) :].strip()]
    tokens = "|".join(re.escape(token) for token in tokenizer.get_added_vocab())
    ended = re.match(rf"\s*(?:{tokens})", behind) if tokens else None
    return Delimiters([*worded, prompt, last, first], ended[0] if ended else behind.rstrip() or behind)


def _generated(
    conversation: list[Message], text: str, tokenizer: Any, tools: Sequence[Any], delimiters: Delimiters
) -> list[Span]:
    """Return the spans that the template marks as generated, each extended to the end of the turn."""
    for number, message in enumerate(conversation):
        if message["role"] != "assistant" and not is_written(message["content"], text):
            raise _not_written(number, conversation, tokenizer)
    marking = _GENERATION.sub(_write_mark, template_source(tokenizer))
    pieces = _GENERATED.split(render(conversation, tokenizer, tools, marking))
    if "".join(pieces) != text or len(pieces) % 2 == 0:
        raise ValueError(f"{template_name(tokenizer)} changes what it marks as generated")
    if len(pieces) == 1 and any(message["role"] == "assistant" for message in conversation):
        raise ValueError(f"{template_name(tokenizer)} marks no answer as generated")
    edges = list(accumulate(map(len, pieces)))
    spans = [_ended(text, *span, delimiters.closing) for span in zip(edges[:-1:2], edges[1::2], strict=True)]
    if any(message["role"] == "tool" for message in conversation) and len(spans) != _count(conversation):
        raise ValueError(f"{template_name(tokenizer)} marks messages of tools as generated")
    for number, message in enumerate(conversation):
        for name in (call["function"]["name"] for call in message.get("tool_calls", ())):
            if not any(name in text[first:last] for first, last in spans):
                raise _not_written(number, conversation, tokenizer)
    return spans


def _count(conversation: list[Message]) -> int:
    return sum(message["role"] == "assistant" for message in conversation)


def _write_mark(tag: re.Match[str]) -> str:
    """Return template code that writes a mark in place of a tag and keeps the tag's control of white space."""
    return f"{{%{tag[1]} if true -%}}{{{{ '{_GENERATED.pattern}' }}}}{{%- endif {tag[2]}%}}"


def _ended(text: str, first: int, last: int, closing: str) -> Span:
    """Extend or cut a span to the end of the turn."""
    spoken = text[first:last].rstrip()
    if closing.strip() and spoken.endswith(closing.strip()):
        return first, first + len(spoken)
    ends = (closing, closing.lstrip())
    return first, last + next((len(end) for end in ends if text.startswith(end, last)), 0)


def _marked_places(
    conversation: list[Message], text: str, tokenizer: Any, tools: Sequence[Any]
) -> tuple[list[str], list[int]]:
    """Find the end of each message's content in `text`, by rendering the messages with a mark behind each content.

    White space at the end of a content stays behind the mark, so that a template may strip the space or not.

    Returns:
        The marks in the order of the text, and the position of each in `text`.
    """
    marked = [_marked(message) for message in conversation]
    pieces = _MARK.split(render(marked, tokenizer, tools))
    wanted = [_MARKS[message["role"]] for message in conversation]
    # Some templates move the system message.
    if "".join(pieces[::2]) != text or sorted(pieces[1::2], key=_is_system) != sorted(wanted, key=_is_system):
        for number, message in enumerate(conversation):  # find the message
            alone = render([*conversation[:number], marked[number], *conversation[number + 1 :]], tokenizer, tools)
            if alone.count(_MARKS[message["role"]]) != 1 or _MARK.sub("", alone) != text:
                break
        raise _not_written(number, conversation, tokenizer)
    return pieces[1::2], list(accumulate(map(len, pieces[:-1:2])))


def _is_system(mark: str) -> bool:
    return mark == _MARKS["system"]


def _not_written(number: int, conversation: list[Message], tokenizer: Any) -> ValueError:
    return ValueError(
        f"{template_name(tokenizer)} leaves out or rewrites message {number + 1} of "
        f"{len(conversation)} ({conversation[number]['role']}), so its tokens cannot be found"
    )


def _marked(message: Message) -> Message:
    if "tool_calls" in message:
        *calls, last = message["tool_calls"]
        function = {**last["function"], "name": last["function"]["name"] + _MARKS[message["role"]]}
        return {**message, "tool_calls": [*calls, {**last, "function": function}]}
    content = message["content"]
    end = len(content.rstrip())
    return {**message, "content": content[:end] + _MARKS[message["role"]] + content[end:]}


def _start(text: str, question: int, gap: str, delimiters: Delimiters) -> int:
    """Find the start of a turn; the question before ends at `question`, apart from the white space `gap`."""
    for opening in delimiters.openings:
        for space in (gap, ""):
            if text.startswith(space + opening, question):
                return question + len(space + opening)
    raise ValueError(f"the chat template opens an answer in an unknown way: {text[question : question + 80]!r}")


def _find_start(text: str, before: int, own: int, delimiters: Delimiters) -> int:
    """Find the start of a turn between the end of a tool's content, `before`, and a place in the turn, `own`."""
    for opening in filter(str.strip, delimiters.openings):
        if (place := text.find(opening, before, own)) >= 0:
            return place + len(opening)
    raise ValueError(f"the chat template opens an answer to a tool in an unknown way: {text[before : before + 80]!r}")


def _find_end(text: str, own: int, behind: int, delimiters: Delimiters) -> int:
    """Find the end of a turn with tool calls, between `own`, a place in the last call, and the next content's end."""
    closing = delimiters.closing.strip()
    place = text.find(closing, own, behind) if closing else -1
    if place < 0:
        raise ValueError(f"the chat template ends a tool call in an unknown way: {text[own : own + 80]!r}")
    return place + len(closing)


def _end(text: str, answer: int, gap: str, delimiters: Delimiters) -> int:
    """Find the end of a turn, whose content ends at `answer`, apart from the white space `gap`."""
    for end in (gap + delimiters.closing, delimiters.closing, gap):
        if text.startswith(end, answer):
            return answer + len(end)
    return answer
