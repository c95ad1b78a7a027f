"""Sources of files: paths with globs, the prefix `long-llm:`, and a number of samples in brackets."""

import glob
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from beacon_lit.data.checks import check_shares, check_text
from beacon_lit.data.records import MalformedRecord, Partition, SourceRecord
from beacon_lit.data.sources.columns import Columns

DATA_ROOT_PREFIX = "long-llm:"
# The files are in the key themselves, wherever they are; the other settings choose among samples and weight them.
_NOT_IN_KEY = ("path", "data_root", "limit", "weight", "answer_share")
_LIMIT = re.compile(r"\[(\d+)\]$")


@dataclass(frozen=True)
class FileSource:
    """Base of sources that read files; a subclass provides `read_file`.

    Settings of a subclass are keyword-only (`@dataclass(frozen=True, kw_only=True)`), as `weight` is here.

    Args:
        path: a file or a glob (`**` matches any folders). A leading `long-llm:` stands for `data_root`. A number in
            brackets at the end, as in `books.jsonl[5000]`, is the source's limit.
        data_root: the folder that `long-llm:` stands for.
        weight, answer_share: see `Source`.

    Raises:
        ValueError: no such file, or a setting is out of range.
    """

    path: str
    data_root: str | None = None
    _: KW_ONLY
    weight: float | None = None
    answer_share: float | None = None

    def __post_init__(self) -> None:
        check_text("path", self.path)
        check_shares(self.weight, self.answer_share)
        if self.path.startswith(DATA_ROOT_PREFIX) and self.data_root is None:
            raise ValueError(
                f"data_root=None must name a folder, because path={self.path!r} starts with {DATA_ROOT_PREFIX}"
            )
        if self.limit == 0:
            raise ValueError(f"path={self.path!r}: the number in brackets must be at least 1")
        _ = self.files  # so that a missing file is an error before a model is loaded

    @property
    def name(self) -> str:
        return self.path

    @property
    def limit(self) -> int | None:
        count = _LIMIT.search(self.path)
        return int(count[1]) if count else None

    @property
    def files(self) -> list[Path]:
        """The files that `path` stands for, sorted."""
        path = _LIMIT.sub("", self.path)
        if path.startswith(DATA_ROOT_PREFIX):
            path = str(Path(str(self.data_root)) / path.removeprefix(DATA_ROOT_PREFIX))
        literal = Path(path).expanduser()
        found = [literal] if literal.exists() else [Path(name) for name in glob.glob(str(literal), recursive=True)]
        accepted = sorted({file for file in found if self.accepts(file)})
        if not accepted:
            raise ValueError(f"path={self.path!r} must name {self.wanted} or match some; {literal} does not")
        return accepted

    @property
    def wanted(self) -> str:
        """What `path` must name, for an error message."""
        return "an existing file"

    def accepts(self, file: Path) -> bool:
        """Whether this source can read an existing path."""
        return file.is_file()

    def documents(self, tokenizer: Any = None) -> Iterator[SourceRecord]:
        """Yield all records of all files, in order."""
        return chain.from_iterable(partition() for partition in self.partitions(tokenizer))

    def partitions(self, tokenizer: Any = None) -> Sequence[Partition]:
        """Return one partition per file."""
        return [partial(self.read_file, file) for file in self.files]

    def key(self) -> dict[str, Any]:
        """See `Source`."""
        return source_key(self, self.files)

    def read_file(self, file: Path) -> Iterator[SourceRecord]:
        """Yield all records of one file."""
        raise NotImplementedError


class Row(NamedTuple):
    """A record of a file, as the file has it.

    Attributes:
        record: a mapping of columns, if the record is well-formed.
        where: file, and line or number of the record.
        default_id: the document's id if the record has no `id`.
    """

    record: Any
    where: str
    default_id: str


Rows = Iterator[Row | MalformedRecord]


@dataclass(frozen=True)
class RecordFileSource(Columns, FileSource):
    """Base of sources whose files consist of records, one document each; a subclass provides `rows`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_columns()

    def read_file(self, file: Path) -> Iterator[SourceRecord]:
        """See `FileSource`."""
        for row in self.rows(file):
            yield row if isinstance(row, MalformedRecord) else self.document(*row)

    def rows(self, file: Path) -> Rows:
        """Yield the records of one file as the file has them."""
        raise NotImplementedError


def source_key(source: Any, files: Iterable[Path]) -> dict[str, Any]:
    """Return the key of a dataclass source of files: its settings, except for those that change no document."""
    settings = {field.name: getattr(source, field.name) for field in fields(source) if field.name not in _NOT_IN_KEY}
    return {"source": type(source).__name__, **settings, "files": file_key(files)}


def file_key(files: Iterable[Path]) -> list[list[str | int]]:
    """Return [name, size in bytes, time of the last change in ns] of files, which changes with their content."""
    return [[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
