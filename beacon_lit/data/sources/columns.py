"""A record -> a document, or a malformed record with the reason."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from beacon_lit.data.checks import check_int, check_text
from beacon_lit.data.conversation import check_roles
from beacon_lit.data.records import Document, MalformedError, MalformedRecord, SourceRecord

DEFAULT_MAX_BYTES = 32 * 2**20
_SHAPE = '{"role": "user", "content": "..."}'


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns (keys) of a record that hold a document.

    Args:
        text_column: column of plain text.
        conversations_column: column of a list of {"role", "content"}; often "messages".
        max_bytes: most bytes of a document; a longer one is malformed. In JSON files the bytes of the whole record
            count, elsewhere the text in UTF-8. Default: 32 MiB, several times the longest book.
    """

    text_column: str = "text"
    conversations_column: str = "conversations"
    max_bytes: int = DEFAULT_MAX_BYTES

    def check_columns(self) -> None:
        """Raise a ValueError if a setting is out of range."""
        check_text("text_column", self.text_column)
        check_text("conversations_column", self.conversations_column)
        if self.text_column == self.conversations_column:
            raise ValueError(
                f"conversations_column={self.conversations_column!r} must differ from text_column={self.text_column!r}"
            )
        check_int("max_bytes", self.max_bytes, 1)

    def document(self, record: Any, where: str, default_id: str) -> SourceRecord:
        """Convert a record to a document: text or conversations, whichever is not None.

        Messages keep only role and content. Kinds of malformed records: not_an_object, no_text, both_kinds,
        wrong_type, roles, content, nul, invalid_utf8, empty_text, too_large.

        Args:
            record: a mapping, if it is well-formed.
            where: file and line, for error reports.
            default_id: the document's id if the record has no `id`.
        """
        try:
            if not isinstance(record, Mapping):
                raise MalformedError("not_an_object", f"a record must be an object, not {type(record).__name__}")
            name = record.get("id")
            document = {"id": default_id if name is None else str(name), **self._content(record)}
            self._check_strings(document)
            return document
        except MalformedError as error:
            return MalformedRecord(error.kind, where, error.reason)

    def _content(self, record: Mapping[str, Any]) -> Document:
        text, conversations = record.get(self.text_column), record.get(self.conversations_column)
        if (text is None) == (conversations is None):
            kind = "no_text" if text is None else "both_kinds"
            either = f"either {self.text_column} or {self.conversations_column}"
            raise MalformedError(kind, f"a record needs {either}; this one has {sorted(map(str, record))[:20]}")
        if conversations is not None:
            return {"conversations": _messages(self.conversations_column, conversations)}
        if not isinstance(text, str):
            raise MalformedError("wrong_type", f"{self.text_column} must be a string, not {type(text).__name__}")
        return {"text": text}

    def _check_strings(self, document: Document) -> None:
        texts = [document["text"]] if "text" in document else [m["content"] for m in document["conversations"]]
        if not any(text and not text.isspace() for text in texts):
            raise MalformedError("empty_text", "the text is empty or blank")
        if any("\0" in text for text in texts):
            raise MalformedError("nul", "the text has a NUL character")
        try:
            document["id"].encode()
            size = sum(len(text.encode()) for text in texts)
        except UnicodeEncodeError as error:
            reason = f"character {error.start + 1} is half of a surrogate pair, which UTF-8 cannot encode"
            raise MalformedError("invalid_utf8", reason) from error
        if size > self.max_bytes:
            raise MalformedError("too_large", f"a document of {size:,} bytes, max_bytes={self.max_bytes:,}")


def _messages(column: str, conversations: Any) -> list[dict[str, str]]:
    """Check a conversation and reduce its messages to role and content."""
    if not isinstance(conversations, list):
        raise MalformedError("wrong_type", f"{column} must be a list of {_SHAPE}, not {type(conversations).__name__}")
    for number, message in enumerate(conversations, 1):
        if not isinstance(message, Mapping):
            raise MalformedError("wrong_type", f"message {number} must be like {_SHAPE}, not {type(message).__name__}")
        if not isinstance(message.get("role"), str):
            raise MalformedError(
                "roles", f"message {number} needs a role, as in {_SHAPE}; it has {sorted(map(str, message))[:20]}"
            )
        if not isinstance(message.get("content"), str):
            is_type = type(message.get("content")).__name__
            raise MalformedError("content", f"the content of message {number} must be a string, not {is_type}")
    try:
        check_roles([message["role"] for message in conversations])
    except ValueError as error:
        raise MalformedError("roles", str(error)) from error
    return [{"role": message["role"], "content": message["content"]} for message in conversations]
