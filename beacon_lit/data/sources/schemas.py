"""Schemas of records: which columns a data set has, and the document that they make. One row of `SCHEMAS` each."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from beacon_lit.data.records import BLANK, MalformedError
from beacon_lit.data.sources.messages import from_json, read_messages
from beacon_lit.data.sources.tokens import read_tokens

Values = Mapping[str, Any]  # the values of a record that are not null, by the schema's names
Content = dict[str, Any]  # a document without its id


class Schema(NamedTuple):
    """A schema.

    Attributes:
        name: for the log.
        needs: columns that a record of this schema has.
        read: makes the document of a record's values.
        also: columns that are read where a record has them.
    """

    name: str
    needs: tuple[str, ...]
    read: Callable[[Values], Content]
    also: tuple[str, ...] = ()


def _text(values: Values) -> Content:
    return {"text": _string("text", values)}


def _chat(column: str, values: Values) -> Content:
    return _opened(column, read_messages(column, values[column]), values)


def _alternating(values: Values) -> Content:
    """Read a list of strings: user and assistant in turns."""
    turns = from_json(values["data"])
    if not isinstance(turns, list):
        raise MalformedError("wrong_type", f"data must be a list of strings, not {type(turns).__name__}")
    return _conversation([(("user", "assistant")[i % 2], turn) for i, turn in enumerate(turns)], values)


def _pair(question: str, extra: str, answer: str, values: Values) -> Content:
    """Read a question, text that belongs to the question, and the answer."""
    parts = [_string(question, values), _string(extra, values) if extra in values else ""]
    asked = "\n\n".join(part for part in parts if part.strip())
    reply = _string(answer, values)
    if not asked or not reply.strip():
        raise MalformedError(BLANK, f"{question} or {answer} is empty or blank")
    before = [turn for pair in from_json(values.get("history")) or [] for turn in _exchange(pair)]
    return _conversation([*before, ("user", asked), ("assistant", reply)], values)


def _exchange(pair: Any) -> list[tuple[str, Any]]:
    if not isinstance(pair, list) or len(pair) != 2:
        raise MalformedError("wrong_type", "history must be a list of pairs of a question and an answer")
    return [("user", pair[0]), ("assistant", pair[1])]


def _prompt(answer: str, values: Values) -> Content:
    """Read a prompt and its completion, which are strings, or lists of messages."""
    prompt, completion = from_json(values["prompt"]), from_json(values[answer])
    if isinstance(prompt, list) and isinstance(completion, list):
        return _opened("prompt", read_messages("prompt", [*prompt, *completion]), values)
    return _pair("prompt", "input", answer, values)


def _conversation(turns: list[tuple[str, Any]], values: Values) -> Content:
    messages = [{"role": role, "content": text} for role, text in turns]
    return _opened("turns", read_messages("turns", messages), values)


def _opened(column: str, messages: list[dict[str, Any]], values: Values) -> Content:
    """Return a conversation with the record's own system message and tools, which apply to the conversation."""
    tools = from_json(values.get("tools")) or []
    if not isinstance(tools, list):
        raise MalformedError("wrong_type", f"tools must be a list of tools, not {type(tools).__name__}")
    if values.get("system"):
        system = {"role": "system", "content": _string("system", values)}
        messages = read_messages(column, [system, *messages])
    return {"conversations": messages, **({"tools": tools} if tools else {})}


def _string(column: str, values: Values) -> str:
    if not isinstance(values[column], str):
        raise MalformedError("wrong_type", f"{column} must be a string, not {type(values[column]).__name__}")
    return values[column]


SCHEMAS = (
    Schema("text", ("text",), _text),
    Schema("conversations", ("conversations",), partial(_chat, "conversations"), ("system", "tools")),
    Schema("conversations", ("messages",), partial(_chat, "messages"), ("system", "tools")),
    Schema("conversations of strings", ("data",), _alternating),
    Schema("instructions", ("instruction", "output"), partial(_pair, "instruction", "input", "output"),
           ("input", "system", "history")),
    Schema("instructions", ("instruction", "response"), partial(_pair, "instruction", "context", "response"),
           ("context", "system")),
    Schema("prompts and completions", ("prompt", "completion"), partial(_prompt, "completion"),
           ("input", "system", "tools")),
    Schema("prompts and completions", ("prompt", "response"), partial(_prompt, "response"),
           ("input", "system", "tools")),
    Schema("tokens", ("input_ids",), read_tokens, ("labels", "attention_mask")),
)  # fmt: skip
NAMES = tuple(dict.fromkeys(name for schema in SCHEMAS for name in (*schema.needs, *schema.also)))
