"""Documents in Parquet files."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from beacon_lit.data.records import BadRecord, Document
from beacon_lit.data.sources.record_files import RecordFiles

_ROWS = 32  # rows read at a time: even books stay far from filling memory
_BUFFER = 2**20  # bytes; else the columns of a row group, which may be the whole file, are read at once


@dataclass(frozen=True)
class ParquetSource(RecordFiles):
    """Documents in Parquet files with a column `text`, `conversations` (list of {"role", "content"}), or both.

    In a row, the column that is null does not count. A column `id` is optional (default: file:number).

    path, data_root, weight, answer_share: see `FileSource`
    text_column, conversations_column, max_bytes: see `Columns`

    Raises ValueError also if the first file has neither column.

    Kinds of bad records, besides those of `Columns.document`: of files: empty_file; truncated (no footer, which a file
    that is cut off lacks: nothing can be read); corrupt (what came before is kept).
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        with suppress(pa.ArrowException, OSError):  # a broken file is told when its turn comes
            names = pq.read_schema(self.files[0]).names
            if not {self.text_column, self.conversations_column} & set(names):
                raise ValueError(
                    f"{self.files[0]} has neither text_column={self.text_column!r} nor "
                    f"conversations_column={self.conversations_column!r}, but {names}"
                )

    def read_file(self, file: Path) -> Iterator[Document | BadRecord]:
        """See `FileSource`."""
        number = 0
        try:
            with pq.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False) as parquet:
                for number, row in enumerate(self._rows(parquet), 1):
                    yield self._record(row, f"{file}, record {number}", f"{file.name}:{number}")
                if not number:
                    yield BadRecord("empty_file", str(file), "the file has no records")
        except (FileNotFoundError, PermissionError) as error:
            raise ValueError(f"{file} cannot be read: {error}") from error
        except (pa.ArrowException, OSError) as error:
            yield _broken(file, number, error)

    def _record(self, row: dict[str, Any] | UnicodeDecodeError, where: str, default_id: str) -> Document | BadRecord:
        if isinstance(row, UnicodeDecodeError):
            reason = f"invalid UTF-8: byte {row.start + 1} of a string is 0x{row.object[row.start]:02x}"
            return BadRecord("invalid_utf8", where, reason)
        return self.document(row, where, default_id)

    def _rows(self, parquet: Any) -> Iterator[dict[str, Any] | UnicodeDecodeError]:
        wanted = {"id", self.text_column, self.conversations_column}
        names = [name for name in parquet.schema_arrow.names if name in wanted]
        for batch in parquet.iter_batches(batch_size=_ROWS, columns=names):
            try:
                yield from batch.to_pylist()
            except UnicodeDecodeError:  # tells not which row
                yield from map(_row, batch.to_struct_array())


def _row(scalar: Any) -> dict[str, Any] | UnicodeDecodeError:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        return error


def _broken(file: Path, number: int, error: Exception) -> BadRecord:
    if not file.stat().st_size:
        return BadRecord("empty_file", str(file), "the file has no records")
    if "magic bytes" in str(error) or "footer" in str(error):
        return BadRecord("truncated", str(file), f"the file has no footer: it is cut off, or no Parquet file ({error})")
    return BadRecord("corrupt", f"{file}, after record {number}", f"the file is damaged: {error}; the rest is lost")
