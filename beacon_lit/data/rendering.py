"""Messages -> text, through the tokenizer's chat template; the same text every day."""

import datetime
import re
from collections.abc import Sequence
from typing import Any

import jinja2

Message = dict[str, Any]

# Some templates write today's date, but tokens must not depend on the day. This date is Llama 3.1's default.
_DATE = datetime.date(2024, 7, 26)
_TODAY = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")


def template_source(tokenizer: Any) -> str:
    """Return the tokenizer's chat template with a fixed date."""
    return with_date(tokenizer.get_chat_template(), _DATE)


def with_date(source: str, date: datetime.date) -> str:
    """Write a fixed date into a chat template in place of today's."""
    return _TODAY.sub(lambda call: repr(date.strftime(call[2])), source)


def render(
    messages: Sequence[Message],
    tokenizer: Any,
    tools: Sequence[Any] = (),
    source: str | None = None,
    prompt: bool = False,
) -> str:
    """Render messages.

    Args:
        messages: see `conversation.tokenize_conversation`.
        tokenizer: a tokenizer with a chat template.
        tools: descriptions of the tools that the assistant may call, as in OpenAI's interface.
        source: code of the template; default: `template_source`.
        prompt: whether the text ends with the opening of an answer.

    Raises:
        ValueError: the template refuses the messages.
    """
    given = {"tools": list(tools)} if tools else {}
    try:
        return tokenizer.apply_chat_template(
            list(messages),
            chat_template=source or template_source(tokenizer),
            add_generation_prompt=prompt,
            tokenize=False,
            **given,
        )
    except (jinja2.TemplateError, TypeError) as error:
        raise ValueError(f"{template_name(tokenizer)} refuses these messages: {error}") from error


def template_name(tokenizer: Any) -> str:
    """Name the chat template in messages, by the tokenizer's name if it has one."""
    return f"the chat template of {tokenizer.name_or_path!r}" if tokenizer.name_or_path else "the chat template"
