"""Reads the files of a benchmark. A malformed record is an error: without it scores would not compare."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from beacon_lit.data.records import MalformedRecord
from beacon_lit.data.sources.files import FileSource
from beacon_lit.data.sources.json_files import JsonSource
from beacon_lit.evaluation.hub import fetched

Row = dict[str, Any]
_ROWS = 32  # rows of a Parquet file that are read together


@dataclass(frozen=True)
class _Rows(JsonSource):
    """Reads JSON objects as they are."""

    max_bytes: int = 2**30  # some benchmarks have contexts of millions of words

    def document(self, record: Any, where: str, default_id: str) -> Row | MalformedRecord:
        """See `Columns`."""
        if not isinstance(record, dict):
            return MalformedRecord("not_an_object", where, f"a record must be an object, not {type(record).__name__}")
        return {"where": where, "row": record}


@dataclass(frozen=True)
class _ParquetRows(FileSource):
    """Reads rows of Parquet files as they are."""

    def read_file(self, file: Path) -> Iterator[Any]:
        """See `FileSource`."""
        number = 0
        try:
            with pq.ParquetFile(file) as parquet:
                for row in chain.from_iterable(batch.to_pylist() for batch in parquet.iter_batches(_ROWS)):
                    number += 1
                    yield {"where": f"{file}, row {number}", "row": row}
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            yield MalformedRecord("corrupt", f"{file}, after row {number}", f"the file cannot be read: {error}")


def read_rows(
    path: str, data_root: str | None, fields: Sequence[str], fetch: str, limit: int | None = None
) -> Iterator[tuple[str, Row]]:
    """Yield the records of a file, each with its place, such as "a.jsonl, line 3".

    Args:
        path: JSON lines or a JSON array, plain, .gz or .zst; or a .parquet file. See `FileSource` for `long-llm:` and
            globs, and `hub.fetched` for `hub:`.
        data_root: the folder that `long-llm:` stands for.
        fields: names of the fields that each record must have.
        fetch: part of the error about a missing file: what to fetch, and where to put it.
        limit: maximum number of records; None = all.

    Raises:
        ValueError: a missing file, several files, or a record that is not a JSON object or lacks a field, with file and
            line.
    """
    try:
        source = (_ParquetRows if path.endswith(".parquet") else _Rows)(fetched(path), data_root)
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
        if broken := [field for field in fields if field != "answer" and not _is_encodable(row[field])]:
            raise ValueError(f"{where}: {', '.join(broken)} has half of a surrogate pair, which UTF-8 cannot encode")
        yield where, row


def _is_encodable(value: Any) -> bool:
    """Whether UTF-8 can encode a value, if it is a text. A tokenizer refuses other texts without a reason."""
    try:
        (value if isinstance(value, str) else "").encode()
    except UnicodeEncodeError:
        return False
    return True
