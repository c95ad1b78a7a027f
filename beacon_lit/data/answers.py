"""Where the assistant's turns are in the text that a chat template makes of a conversation.

A turn is what a model has to write when it is prompted with all that is before it:

- It begins behind the template's generation prompt, and ends with the end-of-turn token. Where a template has none, the
  white space that it puts behind an answer ends the turn.
- Reasoning in an answer (`<think> ... </think>`) is part of the turn where the template keeps it, and that is in the
  last turn: Qwen3's removes it from earlier ones, of which the remaining text is trained.
- What a template itself writes ahead of an answer is not: an empty `<think></think>` stands in for reasoning that the
  data does not have, and a model is not to learn to skip it. To prompt such a model, open its turn with the empty block
  (`enable_thinking=False`).

A template that marks what is generated (`{% generation %}`) has its way. With others every message is rendered with a
mark behind its content: two renderings of the conversation, however long, and the first proves the second right.
"""

import datetime
import re
from itertools import accumulate
from typing import Any, NamedTuple

import jinja2

Message = dict[str, Any]
Span = tuple[int, int]

# Code points that Unicode keeps out of texts for ever, and that no template strips.
_MARKS = {"system": "\ufdd0", "user": "\ufdd1", "assistant": "\ufdd2"}
_MARK = re.compile(f"([{''.join(_MARKS.values())}])")
_GENERATED = re.compile("\ufdd3")
_GENERATION = re.compile(r"\{%([-+]?)\s*(?:end)?generation\s*([-+]?)%\}")
# Some templates write today's date, but tokens must not depend on the day. Llama 3.1's falls back on this one.
_DATE = datetime.date(2024, 7, 26)
_TODAY = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")


class Frame(NamedTuple):
    """What a template writes around an answer.

    openings: what may stand between a question and an answer, the first that fits counts
    closing: behind an answer, as far as a model has to write it
    """

    openings: list[str]
    closing: str


def rendered_answers(conversation: list[Message], tokenizer: Any) -> tuple[str, list[Span]]:
    """The rendered conversation, and the characters [first, last) of each assistant turn.

    Raises ValueError: the template refuses the conversation, leaves a message out or rewrites one.
    """
    frame = _frame(tokenizer)
    text = _render(conversation, tokenizer)
    if _GENERATION.search(tokenizer.get_chat_template()):
        return text, _generated(conversation, text, tokenizer, frame)
    marks, places = _marked_places(conversation, text, tokenizer)
    turns = [message for message in conversation if message["role"] != "system"]
    ends = [place for mark, place in zip(marks, places, strict=True) if not _is_system(mark)]
    gaps = [message["content"][len(message["content"].rstrip()) :] for message in turns]
    # A last question may be without an answer.
    return text, [
        (_start(text, ends[i - 1], gaps[i - 1], frame), _end(text, ends[i], gaps[i], frame))
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
        raise ValueError(f"the chat template of {tokenizer.name_or_path!r} refuses this: {error}") from error


def _frame(tokenizer: Any) -> Frame:
    user, assistant = ({"role": role, "content": _MARKS[role]} for role in ("user", "assistant"))
    prompt = _render([user], tokenizer, prompt=True).rpartition(_MARKS["user"])[2]
    pieces = _MARK.split(_render([user, assistant, user, assistant], tokenizer))
    if pieces[1::2] != [_MARKS["user"], _MARKS["assistant"]] * 2:
        raise ValueError(f"the chat template of {tokenizer.name_or_path!r} does not write every message once")
    first, last, behind = pieces[2], pieces[6], pieces[8]
    # White space between the prompt and an answer is for the model to write, words are not.
    worded = [header for header in (last, first) if header.startswith(prompt) and header[len(prompt) :].strip()]
    tokens = "|".join(re.escape(token) for token in tokenizer.get_added_vocab())
    ended = re.match(rf"\s*(?:{tokens})", behind) if tokens else None
    return Frame([*worded, prompt, last, first], ended[0] if ended else behind.rstrip() or behind)


def _generated(conversation: list[Message], text: str, tokenizer: Any, frame: Frame) -> list[Span]:
    """What the template marks as generated, with the end of the turn where it marks the content alone."""
    for number, message in enumerate(conversation):
        if message["role"] != "assistant" and message["content"].strip() not in text:
            raise _not_written(number, conversation, tokenizer)
    pieces = _GENERATED.split(_render(conversation, tokenizer, _GENERATION.sub(_write_mark, _source(tokenizer))))
    if "".join(pieces) != text or len(pieces) % 2 == 0:
        raise ValueError(f"the chat template of {tokenizer.name_or_path!r} changes what it marks as generated")
    if len(pieces) == 1 and any(message["role"] == "assistant" for message in conversation):
        raise ValueError(f"the chat template of {tokenizer.name_or_path!r} marks no answer as generated")
    edges = list(accumulate(map(len, pieces)))
    return [_ended(text, *span, frame.closing) for span in zip(edges[:-1:2], edges[1::2], strict=True)]


def _write_mark(tag: re.Match[str]) -> str:
    """Template code that writes a mark in place of a tag, and treats the white space around it as the tag does."""
    return f"{{%{tag[1]} if true -%}}{{{{ '{_GENERATED.pattern}' }}}}{{%- endif {tag[2]}%}}"


def _ended(text: str, first: int, last: int, closing: str) -> Span:
    """The span up to the end of the turn, and no further."""
    spoken = text[first:last].rstrip()
    if closing.strip() and spoken.endswith(closing.strip()):
        return first, first + len(spoken)
    ends = (closing, closing.lstrip())
    return first, last + next((len(end) for end in ends if text.startswith(end, last)), 0)


def _marked_places(conversation: list[Message], text: str, tokenizer: Any) -> tuple[list[str], list[int]]:
    """The marks, and where in `text` each is, when every message has one behind its content.

    White space that a content ends in stays behind its mark, so that a template may strip it or not.
    """
    marked = [_marked(message) for message in conversation]
    pieces = _MARK.split(_render(marked, tokenizer))
    wanted = [_MARKS[message["role"]] for message in conversation]
    # Some templates move the system message.
    if "".join(pieces[::2]) != text or sorted(pieces[1::2], key=_is_system) != sorted(wanted, key=_is_system):
        for number, message in enumerate(conversation):  # which one is it?
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
        f"{len(conversation)} ({conversation[number]['role']}), so its tokens cannot be told apart"
    )


def _marked(message: Message) -> Message:
    content = message["content"]
    end = len(content.rstrip())
    return {**message, "content": content[:end] + _MARKS[message["role"]] + content[end:]}


def _start(text: str, question: int, gap: str, frame: Frame) -> int:
    """Where a turn starts, `question` being where the question before it ends but for the white space `gap`."""
    for opening in frame.openings:
        for space in (gap, ""):
            if text.startswith(space + opening, question):
                return question + len(space + opening)
    raise ValueError(f"the chat template opens an answer in a way of its own: {text[question : question + 80]!r}")


def _end(text: str, answer: int, gap: str, frame: Frame) -> int:
    """Where a turn ends, `answer` being where its content does but for the white space `gap`."""
    for end in (gap + frame.closing, frame.closing, gap):
        if text.startswith(end, answer):
            return answer + len(end)
    return answer
