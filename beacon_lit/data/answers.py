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
twice, as it is and with a mark behind the content of every message; without the marks both texts must be equal.
"""

import datetime
import re
from itertools import accumulate
from typing import Any, NamedTuple

import jinja2

Message = dict[str, Any]
Span = tuple[int, int]

# Unicode reserves these code points: no text has them, and no template strips them.
_MARKS = {"system": "\ufdd0", "user": "\ufdd1", "assistant": "\ufdd2"}
_MARK = re.compile(f"([{''.join(_MARKS.values())}])")
_GENERATED = re.compile("\ufdd3")
_GENERATION = re.compile(r"\{%([-+]?)\s*(?:end)?generation\s*([-+]?)%\}")
# Some templates write today's date, but tokens must not depend on the day. This date is Llama 3.1's default.
_DATE = datetime.date(2024, 7, 26)
_TODAY = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")


class Delimiters(NamedTuple):
    """Text that a template writes around an answer.

    Attributes:
        openings: possible texts between a question and an answer; the first that fits counts.
        closing: text behind an answer, as far as a model has to write it.
    """

    openings: list[str]
    closing: str


def rendered_answers(conversation: list[Message], tokenizer: Any) -> tuple[str, list[Span]]:
    """Render a conversation with the tokenizer's chat template.

    Returns:
        The text, and the characters [first, last) of each assistant turn.

    Raises:
        ValueError: the template refuses the conversation, leaves out a message or rewrites one.
    """
    delimiters = _delimiters(tokenizer)
    text = _render(conversation, tokenizer)
    if _GENERATION.search(tokenizer.get_chat_template()):
        return text, _generated(conversation, text, tokenizer, delimiters)
    marks, places = _marked_places(conversation, text, tokenizer)
    turns = [message for message in conversation if message["role"] != "system"]
    ends = [place for mark, place in zip(marks, places, strict=True) if not _is_system(mark)]
    gaps = [message["content"][len(message["content"].rstrip()) :] for message in turns]
    # The last question may have no answer.
    return text, [
        (_start(text, ends[i - 1], gaps[i - 1], delimiters), _end(text, ends[i], gaps[i], delimiters))
        for i in range(1, len(turns), 2)
    ]


def _source(tokenizer: Any) -> str:
    return _TODAY.sub(lambda call: repr(_DATE.strftime(call[2])), tokenizer.get_chat_template())


def _render(messages: list[Message], tokenizer: Any, source: str | None = None, prompt: bool = False) -> str:
    try:
        return tokenizer.apply_chat_template(
            messages, chat_template=source or _source(tokenizer), add_generation_prompt=prompt, tokenize=False
        )
    except jinja2.TemplateError as error:
        raise ValueError(f"the chat template of {tokenizer.name_or_path!r} refuses these messages: {error}") from error


def _delimiters(tokenizer: Any) -> Delimiters:
    user, assistant = ({"role": role, "content": _MARKS[role]} for role in ("user", "assistant"))
    prompt = _render([user], tokenizer, prompt=True).rpartition(_MARKS["user"])[2]
    pieces = _MARK.split(_render([user, assistant, user, assistant], tokenizer))
    if pieces[1::2] != [_MARKS["user"], _MARKS["assistant"]] * 2:
        raise ValueError(f"the chat template of {tokenizer.name_or_path!r} does not write every message once")
    first, last, behind = pieces[2], pieces[6], pieces[8]
    # The model writes white space between the prompt and an answer, but no words.
    worded = [header for header in (last, first) if header.startswith(prompt) and header[len(prompt) :].strip()]
    tokens = "|".join(re.escape(token) for token in tokenizer.get_added_vocab())
    ended = re.match(rf"\s*(?:{tokens})", behind) if tokens else None
    return Delimiters([*worded, prompt, last, first], ended[0] if ended else behind.rstrip() or behind)


def _generated(conversation: list[Message], text: str, tokenizer: Any, delimiters: Delimiters) -> list[Span]:
    """Return the spans that the template marks as generated, each extended to the end of the turn."""
    for number, message in enumerate(conversation):
        if message["role"] != "assistant" and message["content"].strip() not in text:
            raise _not_written(number, conversation, tokenizer)
    pieces = _GENERATED.split(_render(conversation, tokenizer, _GENERATION.sub(_write_mark, _source(tokenizer))))
    if "".join(pieces) != text or len(pieces) % 2 == 0:
        raise ValueError(f"the chat template of {tokenizer.name_or_path!r} changes what it marks as generated")
    if len(pieces) == 1 and any(message["role"] == "assistant" for message in conversation):
        raise ValueError(f"the chat template of {tokenizer.name_or_path!r} marks no answer as generated")
    edges = list(accumulate(map(len, pieces)))
    return [_ended(text, *span, delimiters.closing) for span in zip(edges[:-1:2], edges[1::2], strict=True)]


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


def _marked_places(conversation: list[Message], text: str, tokenizer: Any) -> tuple[list[str], list[int]]:
    """Find the end of each message's content in `text`, by rendering the messages with a mark behind each content.

    White space at the end of a content stays behind the mark, so that a template may strip the space or not.

    Returns:
        The marks in the order of the text, and the position of each in `text`.
    """
    marked = [_marked(message) for message in conversation]
    pieces = _MARK.split(_render(marked, tokenizer))
    wanted = [_MARKS[message["role"]] for message in conversation]
    # Some templates move the system message.
    if "".join(pieces[::2]) != text or sorted(pieces[1::2], key=_is_system) != sorted(wanted, key=_is_system):
        for number, message in enumerate(conversation):  # find the message
            alone = _render([*conversation[:number], marked[number], *conversation[number + 1 :]], tokenizer)
            if alone.count(_MARKS[message["role"]]) != 1 or _MARK.sub("", alone) != text:
                break
        raise _not_written(number, conversation, tokenizer)
    return pieces[1::2], list(accumulate(map(len, pieces[:-1:2])))


def _is_system(mark: str) -> bool:
    return mark == _MARKS["system"]


def _not_written(number: int, conversation: list[Message], tokenizer: Any) -> ValueError:
    return ValueError(
        f"the chat template of {tokenizer.name_or_path!r} leaves out or rewrites message {number + 1} of "
        f"{len(conversation)} ({conversation[number]['role']}), so its tokens cannot be found"
    )


def _marked(message: Message) -> Message:
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


def _end(text: str, answer: int, gap: str, delimiters: Delimiters) -> int:
    """Find the end of a turn, whose content ends at `answer`, apart from the white space `gap`."""
    for end in (gap + delimiters.closing, delimiters.closing, gap):
        if text.startswith(end, answer):
            return answer + len(end)
    return answer
