"""Documents in Parquet files."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from beacon_lit.data.records import MalformedRecord
from beacon_lit.data.sources.arrow_rows import read_batches
from beacon_lit.data.sources.columns import Columns
from beacon_lit.data.sources.files import RecordFileSource, Rows

_ROWS = 32  # rows that are read together; books of so many rows fit into memory
_BUFFER = 2**20  # bytes; without a buffer, all columns of a row group, which may be the whole file, are read at once


@dataclass(frozen=True)
class ParquetSource(RecordFileSource):
    """Documents in Parquet files with the columns of a schema (see `schemas`), or of several.

    In each row, the columns of one schema have values, and those of others are null. A column `id` is optional
    (default: file:number).

    Kinds of malformed records, besides those of `Columns.document`: for a whole file empty_file and truncated (a file
    that is cut off lacks the footer, and cannot be read at all); for the rest of a file corrupt.

    Args:
        path, data_root, weight, answer_share: see `FileSource`.
        text_column, conversations_column, columns, max_bytes: see `Columns`.

    Raises:
        ValueError: the first file has the columns of no schema; see also `FileSource`.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        with suppress(pa.ArrowException, OSError):  # a broken file is reported when its turn comes
            names = pq.read_schema(self.files[0]).names
            if not self.schemas(names):
                raise ValueError(f"{self.files[0]}: {self.lacking(names)}")

    def rows(self, file: Path) -> Rows:
        """See `RecordFileSource`."""
        return read_parquet(file, self)


def read_parquet(file: Path, columns: Columns) -> Rows:
    """Yield the rows of a Parquet file; see `ParquetSource`."""
    return read_batches(file, _batches(file, columns), _broken)


def _batches(file: Path, columns: Columns) -> Iterator[Any]:
    with pq.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False) as parquet:
        names = parquet.schema_arrow.names
        wanted = [name for name in names if name in {"id", *columns.names.values()}]
        # A file of no schema is read with all columns, so that the error says what the file has.
        yield from parquet.iter_batches(batch_size=_ROWS, columns=wanted if columns.schemas(names) else None)


def _broken(file: Path, number: int, error: Exception) -> MalformedRecord:
    if not file.stat().st_size:
        return MalformedRecord("empty_file", str(file), "the file has no records")
    if "magic bytes" in str(error) or "footer" in str(error):
        reason = f"the file has no footer: the file is cut off, or not a Parquet file ({error})"
        return MalformedRecord("truncated", str(file), reason)
    reason = f"the file is damaged: {error}; the rest is lost"
    return MalformedRecord("corrupt", f"{file}, after record {number}", reason)
