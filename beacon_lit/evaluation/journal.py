"""Records on disk, from the moment there are any: a run that was killed goes on where it was."""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from beacon_lit.evaluation.task import Record

RECORDS_FILE = "predictions.jsonl"
_PARTS = "predictions.rank*.jsonl"


class Journal:
    """The records in a run's folder.

    While a run goes on each rank adds to a file of its own, `predictions.rank0.jsonl` and so on; at its end `close`
    makes one `predictions.jsonl` of them, in order.

    Args:
        folder: the run's, made if need be; records that are there already count.
        rank: of this process.

    Raises:
        ValueError: another process that goes on is this rank of the run.
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
        """The records of a batch, or None if one is not there: then all are to be made, in one batch as before."""
        keys = [(task, mode, id) for id in ids]
        return [self._known[key] for key in keys] if all(key in self._known for key in keys) else None

    def add(self, records: Sequence[Record]) -> None:
        """Write records down. They are on the disk when this returns."""
        self._out.write("".join(json.dumps(record) + "\n" for record in records))
        self._out.flush()
        os.fsync(self._out.fileno())

    @staticmethod
    def close(folder: Path, records: Iterator[Record]) -> None:
        """Write all records of a run that is done, in this order, in place of what the ranks have written."""
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{RECORDS_FILE}.{os.getpid()}"
        with partial.open("w") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)
        partial.replace(folder / RECORDS_FILE)
        for part in folder.glob(_PARTS):
            part.unlink()


def read_records(path: Path) -> Iterator[Record]:
    """The records of a file. A last line that a kill has cut short is left out.

    Raises:
        ValueError: another line that is no record.
    """
    lines = path.read_text().splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            _key(record)
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines) and not line.endswith("\n"):
                return
            raise ValueError(f"{path}, line {number} is no record: {error!r}") from error
        yield record


def _key(record: Record) -> tuple[str, str, str]:
    return record["task"], record["mode"], record["id"]


def _hold(file: TextIO) -> None:
    """Keep a file from other processes until it is closed, or this one is gone."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(
            f"{Path(file.name).parent} is the folder of an evaluation that is going on; wait for its end, or stop it"
        ) from None
    except OSError:  # a file system without locks
        return


def _end_line(file: Path) -> None:
    """Take away what a kill has left of a line."""
    if file.is_file() and (text := file.read_bytes()) and not text.endswith(b"\n"):
        os.truncate(file, text.rfind(b"\n") + 1)
