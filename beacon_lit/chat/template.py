"""A tokenizer's chat template: messages -> text, complete or with the last turn still open."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from jinja2 import TemplateError

from beacon_lit.chat.tokenizing import common_prefix
from beacon_lit.data.rendering import with_date

Message = dict[str, str]

# Characters of Unicode's private use area: no text has them, and no template strips them.
_MARKS = "\ue0b7", "\ue0b8"


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template and its variables.

    Attributes:
        source: the template (Jinja). Dates in it are fixed, so that a conversation has the same text tomorrow.
        options: variables that the template reads, such as `enable_thinking`; values as in JSON.
    """

    source: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, tokenizer: Any, options: Mapping[str, Any]) -> "ChatTemplate":
        """Return the template in `options["chat_template"]`, or else the tokenizer's, with the other options.

        Raises:
            ValueError: there is no template, or JSON cannot hold the value of an option.
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
        return cls(with_date(tokenizer.get_chat_template(given), datetime.now()), others)

    def render(self, tokenizer: Any, messages: Sequence[Message], prompt: bool = False) -> str:
        """Render a conversation; with `prompt`, the text ends with the opening of an answer.

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
        """Render a conversation as far as the text is certain, if the user's last turn continues behind `content`."""
        one, two = (self.render(tokenizer, [*messages, {"role": "user", "content": content + mark}]) for mark in _MARKS)
        return one[: common_prefix(one, two)]

    def end_of_turn(self, tokenizer: Any) -> int | None:
        """Return the id of the special token that ends an answer, if there is one."""
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _MARKS[0]}]
        closing = self.render(tokenizer, messages).rpartition(_MARKS[0])[2]
        special = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
        ids = tokenizer(closing, add_special_tokens=False, verbose=False)["input_ids"]
        return next((id for id in ids if id in special), None)


def _jsonable(value: Any) -> Any:
    """Write a value as JSON and read it back; None if JSON cannot hold it."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return None
