"""A tokenizer's chat template: messages -> text, whole or with the last turn still open."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from jinja2 import TemplateError

from beacon_lit.chat.tokens import common_prefix

Message = dict[str, str]

# Characters of Unicode's private use area: in no text, and nothing that a template strips.
_MARKS = "\ue0b7", "\ue0b8"
_TODAY = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")


@dataclass(frozen=True)
class ChatTemplate:
    """How a conversation is written.

    Attributes:
        source: the template (Jinja). Its dates are fixed: a conversation is about one text, tomorrow as well.
        options: variables that the template reads, such as `enable_thinking`; values as in JSON.
    """

    source: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, tokenizer: Any, options: Mapping[str, Any]) -> "ChatTemplate":
        """A tokenizer's template, or the one that `options` brings as `chat_template`.

        Raises:
            ValueError: there is none, or an option is nothing that JSON can hold.
        """
        others = dict(options)
        given = others.pop("chat_template", None)
        for name, value in others.items():
            if _jsonable(value) != value:
                raise ValueError(f"the template option {name}={value!r} is not allowed; allowed: values as in JSON")
        if not (given or tokenizer.chat_template):
            raise ValueError(
                f"the tokenizer {tokenizer.name_or_path!r} has no chat template; give one (Jinja, as a string): "
                "BeaconChat(..., chat_template=...), or tokenizer.chat_template = ..."
            )
        now = datetime.now()
        source = tokenizer.get_chat_template(given)
        return cls(_TODAY.sub(lambda call: repr(now.strftime(call[2])), source), others)

    def render(self, tokenizer: Any, messages: Sequence[Message], prompt: bool = False) -> str:
        """The text of a conversation; with `prompt` also what opens an answer.

        Raises:
            ValueError: the template refuses these messages.
        """
        try:
            return tokenizer.apply_chat_template(
                list(messages),
                chat_template=self.source,
                tokenize=False,
                add_generation_prompt=prompt,
                **self.options,
            )
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise ValueError(f"the chat template refuses these messages ({roles}): {error}") from error

    def render_open(self, tokenizer: Any, messages: Sequence[Message], content: str) -> str:
        """The text of a conversation whose last turn, the user's, goes on behind `content`: all that is sure of it."""
        one, two = (self.render(tokenizer, [*messages, {"role": "user", "content": content + mark}]) for mark in _MARKS)
        return one[: common_prefix(one, two)]

    def end_of_turn(self, tokenizer: Any) -> int | None:
        """Id of the special token that ends an answer, if there is one."""
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _MARKS[0]}]
        closing = self.render(tokenizer, messages).rpartition(_MARKS[0])[2]
        special = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
        ids = tokenizer(closing, add_special_tokens=False, verbose=False)["input_ids"]
        return next((id for id in ids if id in special), None)


def _jsonable(value: Any) -> Any:
    """A value written as JSON and read back; None if that cannot be done."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return None
