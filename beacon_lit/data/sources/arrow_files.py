"""Records in Arrow files, as `save_to_disk` of `datasets` writes them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from beacon_lit.data.records import MalformedRecord
from beacon_lit.data.sources.arrow_rows import read_batches
from beacon_lit.data.sources.columns import Columns
from beacon_lit.data.sources.files import Rows

_ROWS = 32  # rows that are converted together; the file itself is mapped into memory


def read_arrow(file: Path, columns: Columns) -> Rows:
    """Yield the rows of an Arrow file or stream. Malformed: empty_file, and corrupt for the rest of a file."""
    return read_batches(file, _batches(file), _broken)


def _batches(file: Path) -> Iterator[Any]:
    """Yield the batches of a stream, which `datasets` writes, or of a file with a footer, in small parts."""
    with pa.memory_map(str(file)) as mapped:
        if mapped.read(6) == b"ARROW1":
            opened = pa.ipc.open_file(mapped)
            batches = map(opened.get_batch, range(opened.num_record_batches))
        else:
            mapped.seek(0)
            batches = pa.ipc.open_stream(mapped)
        for batch in batches:
            yield from (batch.slice(first, _ROWS) for first in range(0, batch.num_rows, _ROWS))


def _broken(file: Path, number: int, error: Exception) -> MalformedRecord:
    where = f"{file}, after record {number}" if number else str(file)
    return MalformedRecord("corrupt", where, f"the file is damaged, or not an Arrow file: {error}; the rest is lost")
