"""A record -> a document, or a malformed record with the reason."""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from beacon_lit.data.checks import check_int, check_text
from beacon_lit.data.records import BLANK, Document, MalformedError, MalformedRecord, SourceRecord
from beacon_lit.data.sources.schemas import NAMES, SCHEMAS, Schema

DEFAULT_MAX_BYTES = 32 * 2**20


class KnownSchema(NamedTuple):
    """A schema with the names that the columns have in the data.

    Attributes:
        schema: the schema.
        columns: the columns that are read, by the schema's names.
        needed: the columns that a record of this schema has.
    """

    schema: Schema
    columns: Mapping[str, str]
    needed: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns (keys) of a record that hold a document. A record has the columns of one schema of `SCHEMAS`.

    Args:
        text_column: column of plain text.
        conversations_column: column of a list of {"role", "content"}; often "messages", which is found as well.
        columns: the columns of a data set by the names that schemas have for them, such as {"prompt": "question",
            "completion": "answer"}. No other columns are read then, apart from `id`. Default: all by their own names.
        max_bytes: most bytes of a document; a longer one is malformed. In JSON files the bytes of the whole record
            count, elsewhere the text in UTF-8. Default: 32 MiB, several times the longest book.
    """

    text_column: str = "text"
    conversations_column: str = "conversations"
    columns: Mapping[str, str] | None = None
    max_bytes: int = DEFAULT_MAX_BYTES

    def check_columns(self) -> None:
        """Raise a ValueError if a setting is out of range."""
        check_text("text_column", self.text_column)
        check_text("conversations_column", self.conversations_column)
        if self.text_column == self.conversations_column:
            raise ValueError(
                f"conversations_column={self.conversations_column!r} must differ from text_column={self.text_column!r}"
            )
        for name, column in (self.columns or {}).items():
            if name not in NAMES:
                raise ValueError(f"columns={dict(self.columns or {})} names {name!r}; allowed: {', '.join(NAMES)}")
            check_text(f"columns.{name}", column)
        check_int("max_bytes", self.max_bytes, 1)

    @cached_property
    def names(self) -> Mapping[str, str]:
        """The columns that are read, by the names that schemas have for them."""
        if self.columns is not None:
            return dict(self.columns)
        chosen = {"text": self.text_column, "conversations": self.conversations_column}
        return chosen | {name: name for name in NAMES if name not in chosen and name not in chosen.values()}

    @cached_property
    def _known(self) -> list[KnownSchema]:
        known = []
        for schema in SCHEMAS:
            columns = {name: self.names[name] for name in (*schema.needs, *schema.also) if name in self.names}
            if columns.keys() >= set(schema.needs):
                known.append(KnownSchema(schema, columns, frozenset(columns[name] for name in schema.needs)))
        return known

    def schemas(self, found: Iterable[str]) -> list[KnownSchema]:
        """Return the schemas all of whose needed columns are among `found`."""
        there = set(found)
        return [known for known in self._known if known.needed <= there]

    def document(self, record: Any, where: str, default_id: str) -> SourceRecord:
        """Convert a record to a document; null stands for a column that the record does not have.

        Messages keep all their keys; a conversation keeps its tools. Kinds of malformed records: not_an_object,
        no_text, both_kinds, wrong_type, roles, content, nul, invalid_utf8, empty_text, too_large, and for tokens those
        of `TokensSource`.

        Args:
            record: a mapping, if it is well-formed.
            where: file and line, for error reports.
            default_id: the document's id if the record has no `id`.
        """
        try:
            if not isinstance(record, Mapping):
                raise MalformedError("not_an_object", f"a record must be an object, not {type(record).__name__}")
            name = record.get("id")
            known = self.schema(record)
            values = {name: record.get(column) for name, column in known.columns.items()}
            content = known.schema.read({name: value for name, value in values.items() if value is not None})
            document = {"id": default_id if name is None else str(name), **content}
            self._check_strings(document)
            return document
        except MalformedError as error:
            return MalformedRecord(error.kind, where, error.reason)

    def schema(self, record: Mapping[str, Any]) -> KnownSchema:
        """Return the schema of a record.

        Raises:
            MalformedError: the record has the columns of no schema or of several, or only null in them.
        """
        found = self.schemas([column for column, value in record.items() if value is not None])
        if len(found) == 1:
            return found[0]
        if found:
            has = " and ".join(", ".join(sorted(known.needed)) for known in found)
            choice = ", ".join(f"{name}: {found[0].columns[name]}" for name in found[0].schema.needs)
            needs = f"a record needs either text or conversations; this one has {has}"
            way = f"choose in the source (README, Data), for example columns={{{choice}}}"
            raise MalformedError("both_kinds", f"{needs}: {way}")
        if self.schemas(record):
            raise MalformedError(BLANK, "the text is null")
        raise MalformedError("no_text", self.lacking(record))

    def lacking(self, found: Collection[Any]) -> str:
        """Say in an error what columns are needed, and how to name others."""
        either = f"either {self.text_column} or {self.conversations_column}"
        return (
            f"a record needs {either}; this one has {sorted(map(str, found))[:20]}. Also read: "
            f"{'; '.join(', '.join(schema.needs) for schema in SCHEMAS[2:])}. Other columns are "
            "named by the source (README, Data), for example columns={prompt: question, completion: answer}"
        )

    def _check_strings(self, document: Document) -> None:
        if "input_ids" in document:
            return
        texts = [document["text"]] if "text" in document else [m["content"] for m in document["conversations"]]
        if not any(text and not text.isspace() for text in texts):
            raise MalformedError(BLANK, "the text is empty or blank")
        if any("\0" in text for text in texts):
            raise MalformedError("nul", "the text has a NUL character")
        try:
            document["id"].encode()
            size = sum(len(text.encode()) for text in texts)
            if "conversations" in document:  # tool calls and tools, too
                json.dumps(document, ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError as error:
            reason = f"character {error.start + 1} is half of a surrogate pair, which UTF-8 cannot encode"
            raise MalformedError("invalid_utf8", reason) from error
        if size > self.max_bytes:
            raise MalformedError("too_large", f"a document of {size:,} bytes, max_bytes={self.max_bytes:,}")
