"""Records in CSV files with a header: one row is one record."""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from beacon_lit.data.records import MalformedRecord
from beacon_lit.data.sources.columns import Columns
from beacon_lit.data.sources.compressed import BrokenFileError, read_chunks
from beacon_lit.data.sources.files import Row, Rows
from beacon_lit.data.sources.utf8 import WAY_OUT, as_utf8


def read_csv(file: Path, columns: Columns, delimiter: str = ",") -> Rows:
    """Yield the rows of a CSV file; lists (messages) are cells of JSON.

    Kinds of malformed records: invalid_csv, invalid_utf8; for a whole file empty_file; for the rest of a file those of
    `read_chunks`.
    """
    csv.field_size_limit(max(csv.field_size_limit(), columns.max_bytes))
    reader = csv.reader(_lines(as_utf8(read_chunks(file))), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    found = False
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
            if header is None:
                header = cells
            elif cells:  # blank lines are no rows
                found = True
                yield _row(header, cells, f"{file}, line {line}", f"{file.name}:{line}")
        except StopIteration:
            break
        except csv.Error as error:
            found = True
            yield MalformedRecord("invalid_csv", f"{file}, line {line}", f"invalid CSV: {error}")
        except BrokenFileError as broken:
            yield MalformedRecord(broken.kind, f"{file}, line {line}", broken.reason)
            return
    if not found:
        yield MalformedRecord("empty_file", str(file), "the file has no records")


def _row(header: list[str], cells: list[str], where: str, default_id: str) -> Row | MalformedRecord:
    if len(cells) != len(header):
        reason = f"the row has {len(cells)} cells, and the header has {len(header)}"
        return MalformedRecord("invalid_csv", where, reason)
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return MalformedRecord("invalid_utf8", where, f"the row is not in UTF-8; {WAY_OUT}")
    return Row(dict(zip(header, cells, strict=True)), where, default_id)


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Yield lines with their ends; bytes that are not UTF-8 become half surrogates, so that the reader goes on."""
    rest = b""
    for chunk in chunks:
        *ends, rest = (rest + chunk).split(b"\n")
        yield from (f"{end.decode(errors='surrogateescape')}\n" for end in ends)
    if rest:
        yield rest.decode(errors="surrogateescape")
