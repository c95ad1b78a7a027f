"""Reads the files of a benchmark: every record must be there and be right, else scores would not compare."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from beacon_lit.data.records import MalformedRecord
from beacon_lit.data.sources.json_files import JsonSource
from beacon_lit.evaluation.hub import fetched

Row = dict[str, Any]


@dataclass(frozen=True)
class _Rows(JsonSource):
    """JSON objects as they are."""

    max_bytes: int = 2**30  # some benchmarks have contexts of millions of words

    def document(self, record: Any, where: str, default_id: str) -> Row | MalformedRecord:
        """See `Columns`."""
        if not isinstance(record, dict):
            return MalformedRecord("not_an_object", where, f"a record must be an object, not {type(record).__name__}")
        return {"where": where, "row": record}


def read_rows(
    path: str, data_root: str | None, fields: Sequence[str], fetch: str, limit: int | None = None
) -> Iterator[tuple[str, Row]]:
    """The records of a file, each with where it is, as in "a.jsonl, line 3".

    Args:
        path: JSON lines or a JSON array, plain, .gz or .zst; see `FileSource` for `long-llm:` and globs, and
            `hub.fetched` for `hub:`.
        data_root: the folder that `long-llm:` stands for.
        fields: that each record must have.
        fetch: for the error that nothing is there: what to fetch, and where to put it.
        limit: the first so many records; None = all.

    Raises:
        ValueError: no such file, or several; a record that is no JSON object or lacks a field, with file and line.
    """
    try:
        source = _Rows(fetched(path), data_root)
    except ValueError as error:
        raise ValueError(f"{error}. {fetch}") from error
    if len(source.files) > 1:
        raise ValueError(f"path={path!r} must be one file, but there are {', '.join(map(str, source.files))}")
    for number, record in enumerate(source.documents()):
        if limit is not None and number >= limit:
            return
        if isinstance(record, MalformedRecord):
            raise ValueError(str(record))
        where, row = record["where"], record["row"]
        if missing := [field for field in fields if field not in row]:
            raise ValueError(f"{where}: the record lacks {', '.join(missing)}; it must have {', '.join(fields)}")
        yield where, row
