"""Writes records to disk as they come, so that a run that was killed can be resumed."""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from beacon_lit.evaluation.task import Record
from beacon_lit.files import replacing

RECORDS_FILE = "predictions.jsonl"
_PARTS = "predictions.rank*.jsonl"


class Journal:
    """The records in the folder of a run.

    During a run each rank appends to its own file, `predictions.rank0.jsonl` and so on. At the end `close` replaces
    these files by one `predictions.jsonl`, in order.

    Args:
        folder: the folder of the run, created if necessary; records in it are read.
        rank: the rank of this process.

    Raises:
        ValueError: another running process has this rank of the run, or a file has a malformed line.
    """

    def __init__(self, folder: Path, rank: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.file = folder / _PARTS.replace("*", str(rank))
        self._out = self.file.open("a")
        _hold(self._out)
        files = [path for path in (folder / RECORDS_FILE, *sorted(folder.glob(_PARTS))) if path.is_file()]
        self._known = {_key(record): record for path in files for record in read_records(path)}
        _end_line(self.file)

    def find(self, task: str, mode: str, ids: Sequence[str]) -> list[Record] | None:
        """Return the records of a batch, or None if one is missing: batches are asked as a whole."""
        keys = [(task, mode, id) for id in ids]
        return [self._known[key] for key in keys] if all(key in self._known for key in keys) else None

    def add(self, records: Sequence[Record]) -> None:
        """Append records. They are on the disk when this returns."""
        self._out.write("".join(json.dumps(record) + "\n" for record in records))
        self._out.flush()
        os.fsync(self._out.fileno())

    @staticmethod
    def close(folder: Path, records: Iterator[Record]) -> None:
        """Write all records of a finished run, in this order, and delete the files of the ranks."""
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / RECORDS_FILE) as partial, partial.open("w") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)
        for part in folder.glob(_PARTS):
            part.unlink()


def read_records(path: Path) -> Iterator[Record]:
    """Yield the records of a file, without a last line that a kill cut short.

    Raises:
        ValueError: any other line is malformed.
    """
    with path.open(encoding="utf-8") as file:
        lines = file.readlines()  # str.splitlines would split at U+2028, too
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            _key(record)
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines) and not line.endswith("\n"):
                return
            raise ValueError(f"{path}, line {number}: malformed record: {error!r}") from error
        yield record


def _key(record: Record) -> tuple[str, str, str]:
    return record["task"], record["mode"], record["id"]


def _hold(file: TextIO) -> None:
    """Lock a file until it is closed or this process ends."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(
            f"{Path(file.name).parent} is the folder of a running evaluation; allowed: after its end"
        ) from None
    except OSError:  # a file system without locks
        return


def _end_line(file: Path) -> None:
    """Remove an incomplete last line, which a kill left."""
    if file.is_file() and (text := file.read_bytes()) and not text.endswith(b"\n"):
        os.truncate(file, text.rfind(b"\n") + 1)
