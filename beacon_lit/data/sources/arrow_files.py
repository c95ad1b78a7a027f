"""Records in Arrow files, as `save_to_disk` of `datasets` writes them."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from beacon_lit.data.records import MalformedRecord
from beacon_lit.data.sources.columns import Columns
from beacon_lit.data.sources.files import Rows
from beacon_lit.data.sources.parquet_files import named_row, python_rows

_ROWS = 32  # rows that are converted together; the file itself is mapped into memory


def read_arrow(file: Path, columns: Columns) -> Rows:
    """Yield the rows of an Arrow file or stream. Malformed: empty_file, and corrupt for the rest of a file."""
    number = 0
    try:
        with pa.memory_map(str(file)) as mapped:
            for batch in _batches(mapped):
                parts = (batch.slice(first, _ROWS) for first in range(0, batch.num_rows, _ROWS))
                for row in python_rows(parts):
                    number += 1
                    yield named_row(row, file, number)
        if not number:
            yield MalformedRecord("empty_file", str(file), "the file has no records")
    except (FileNotFoundError, PermissionError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    except (pa.ArrowException, OSError) as error:
        where = f"{file}, after record {number}" if number else str(file)
        yield MalformedRecord("corrupt", where, f"the file is damaged, or not an Arrow file: {error}; the rest is lost")


def _batches(mapped: Any) -> Any:
    """Return the batches of a stream, which `datasets` writes, or of a file with a footer."""
    if mapped.read(6) == b"ARROW1":
        opened = pa.ipc.open_file(mapped)
        return (opened.get_batch(i) for i in range(opened.num_record_batches))
    mapped.seek(0)
    return pa.ipc.open_stream(mapped)
