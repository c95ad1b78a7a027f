"""Documents in Parquet files."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from beacon_lit.data.records import MalformedRecord, SourceRecord
from beacon_lit.data.sources.files import RecordFileSource

_ROWS = 32  # rows that are read together; books of so many rows fit into memory
_BUFFER = 2**20  # bytes; without a buffer, all columns of a row group, which may be the whole file, are read at once


@dataclass(frozen=True)
class ParquetSource(RecordFileSource):
    """Documents in Parquet files with a column `text`, `conversations` (list of {"role", "content"}), or both.

    In each row, one of the columns is null if there are both. A column `id` is optional (default: file:number).

    Kinds of malformed records, besides those of `Columns.document`: for a whole file empty_file and truncated (a file
    that is cut off lacks the footer, and cannot be read at all); for the rest of a file corrupt.

    Args:
        path, data_root, weight, answer_share: see `FileSource`.
        text_column, conversations_column, max_bytes: see `Columns`.

    Raises:
        ValueError: the first file has neither column; see also `FileSource`.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        with suppress(pa.ArrowException, OSError):  # a broken file is reported when its turn comes
            names = pq.read_schema(self.files[0]).names
            if not {self.text_column, self.conversations_column} & set(names):
                raise ValueError(
                    f"{self.files[0]} has neither text_column={self.text_column!r} nor "
                    f"conversations_column={self.conversations_column!r}, but {names}"
                )

    def read_file(self, file: Path) -> Iterator[SourceRecord]:
        """See `FileSource`."""
        number = 0
        try:
            with pq.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False) as parquet:
                for number, row in enumerate(self._rows(parquet), 1):
                    yield self._record(row, f"{file}, record {number}", f"{file.name}:{number}")
                if not number:
                    yield MalformedRecord("empty_file", str(file), "the file has no records")
        except (FileNotFoundError, PermissionError) as error:
            raise ValueError(f"{file} cannot be read: {error}") from error
        except (pa.ArrowException, OSError) as error:
            yield _broken(file, number, error)

    def _record(self, row: dict[str, Any] | UnicodeDecodeError, where: str, default_id: str) -> SourceRecord:
        if isinstance(row, UnicodeDecodeError):
            reason = f"invalid UTF-8: byte {row.start + 1} of a string is 0x{row.object[row.start]:02x}"
            return MalformedRecord("invalid_utf8", where, reason)
        return self.document(row, where, default_id)

    def _rows(self, parquet: Any) -> Iterator[dict[str, Any] | UnicodeDecodeError]:
        wanted = {"id", self.text_column, self.conversations_column}
        names = [name for name in parquet.schema_arrow.names if name in wanted]
        for batch in parquet.iter_batches(batch_size=_ROWS, columns=names):
            try:
                yield from batch.to_pylist()
            except UnicodeDecodeError:  # the error does not name the row
                yield from map(_row, batch.to_struct_array())


def _row(scalar: Any) -> dict[str, Any] | UnicodeDecodeError:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        return error


def _broken(file: Path, number: int, error: Exception) -> MalformedRecord:
    if not file.stat().st_size:
        return MalformedRecord("empty_file", str(file), "the file has no records")
    if "magic bytes" in str(error) or "footer" in str(error):
        reason = f"the file has no footer: the file is cut off, or not a Parquet file ({error})"
        return MalformedRecord("truncated", str(file), reason)
    reason = f"the file is damaged: {error}; the rest is lost"
    return MalformedRecord("corrupt", f"{file}, after record {number}", reason)
