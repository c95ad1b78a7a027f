"""Rows of Arrow batches, whichever kind of file they come from."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from beacon_lit.data.records import MalformedRecord
from beacon_lit.data.sources.files import Row, Rows

Broken = Callable[[Path, int, Exception], MalformedRecord]


def read_batches(file: Path, batches: Iterable[Any], broken: Broken) -> Rows:
    """Yield the rows of a file.

    Args:
        file: the file, which names the rows.
        batches: the file's Arrow batches; reading them may raise an error.
        broken: describes a damaged file, from the file, the number of rows before the damage, and the error.
    """
    number = 0
    try:
        for number, row in enumerate(_python_rows(batches), 1):
            yield _named(row, file, number)
        if not number:
            yield MalformedRecord("empty_file", str(file), "the file has no records")
    except (FileNotFoundError, PermissionError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    except (pa.ArrowException, OSError) as error:
        yield broken(file, number, error)


def _named(row: dict[str, Any] | UnicodeDecodeError, file: Path, number: int) -> Row | MalformedRecord:
    """Name a row of an Arrow table, or report invalid UTF-8 in the row."""
    where = f"{file}, record {number}"
    if isinstance(row, UnicodeDecodeError):
        reason = f"invalid UTF-8: byte {row.start + 1} of a string is 0x{row.object[row.start]:02x}"
        return MalformedRecord("invalid_utf8", where, reason)
    return Row(row, where, f"{file.name}:{number}")


def _python_rows(batches: Iterable[Any]) -> Iterator[dict[str, Any] | UnicodeDecodeError]:
    """Convert Arrow batches to rows; for a row with invalid UTF-8 the error is returned."""
    for batch in batches:
        try:
            yield from batch.to_pylist()
        except UnicodeDecodeError:  # the error does not name the row
            yield from map(_row, batch.to_struct_array())


def _row(scalar: Any) -> dict[str, Any] | UnicodeDecodeError:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        return error
