"""Where documents come from: small classes that a config picks by `_target_`.

A document is a dict: {"id": str, "text": str}, or {"id": str, "conversations": [{"role": str, "content": str}, ...]}.
"""

import glob
import gzip
import importlib
import json
import re
import sysconfig
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from beacon_lit.data.sample import check_int

Document = dict[str, Any]
DATA_ROOT_PREFIX = "long-llm:"


class Source(Protocol):
    """Iterates over documents, in the same order every time.

    name: for logs
    limit: keep a random sample of this many samples (after those of unfit length are left out); None = all
    """

    @property
    def name(self) -> str: ...

    @property
    def limit(self) -> int | None: ...

    def __iter__(self) -> Iterator[Document]: ...


@dataclass(frozen=True)
class JsonSource:
    """Documents in JSON files: one record per line, or one array per file; plain or .gz.

    A record has `text` or `conversations`, and may have an `id` (default: file:line).

    path: a file or a glob. A leading `long-llm:` stands for `data_root`; a trailing `[5000]` draws
        5,000 samples
    data_root: the folder that `long-llm:` stands for

    Raises ValueError, naming file and line: no such file, empty file, invalid JSON, a record without text and
    conversations.
    """

    path: str
    data_root: str | None = None

    def __post_init__(self) -> None:
        if self.path.startswith(DATA_ROOT_PREFIX) and self.data_root is None:
            raise ValueError(
                f"data_root=None must name a folder, because path={self.path!r} starts with {DATA_ROOT_PREFIX}"
            )
        if self.limit == 0:
            raise ValueError(f"path={self.path!r}: the number in brackets must be at least 1")
        _ = self.files  # a missing file is an error now, not after a model was loaded

    @property
    def name(self) -> str:
        return self.path

    @property
    def limit(self) -> int | None:
        count = re.search(r"\[(\d+)\]$", self.path)
        return int(count[1]) if count else None

    @property
    def files(self) -> list[Path]:
        """The files that `path` stands for, sorted."""
        path = re.sub(r"\[\d+\]$", "", self.path)
        if path.startswith(DATA_ROOT_PREFIX):
            path = str(Path(str(self.data_root)) / path.removeprefix(DATA_ROOT_PREFIX))
        found = [path] if Path(path).is_file() else sorted(glob.glob(path, recursive=True))
        files = [Path(name) for name in found if Path(name).is_file()]
        if not files:
            raise ValueError(f"path={self.path!r} must name an existing file or match some: {path} is none")
        return files

    @property
    def weight(self) -> float | None:
        return None

    @property
    def answer_share(self) -> float | None:
        return None

    def key(self) -> Any:
        """See `beacon_lit.data.records.Source`."""
        stats = [(file.name, file.stat()) for file in self.files]
        return ["JsonSource", self.limit, [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]]

    def documents(self, tokenizer: Any) -> Iterator[Document]:
        """See `beacon_lit.data.records.Source`."""
        return iter(self)

    def __iter__(self) -> Iterator[Document]:
        for file in self.files:
            yield from _read_json(file)


def _read_json(file: Path) -> Iterator[Document]:
    number, unit = 0, "line"
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            start = next((line.lstrip()[:1] for line in stream if line.strip()), None)
            if start is None:
                raise ValueError("the file is empty")
            stream.seek(0)
            if start == b"[":
                records, unit = json.load(stream), "record"
                for number, record in enumerate(records, 1):
                    yield _document(record, f"{file.name}:{number}")
            else:
                for number, line in enumerate(stream, 1):
                    if line.strip():
                        yield _document(json.loads(line), f"{file.name}:{number}")
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}, line {number or error.lineno}: invalid JSON: {error.msg}") from error
    except (ValueError, EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{file}, {unit} {number}: {error}" if number else f"{file}: {error}") from error


def _document(record: Any, default_id: str) -> Document:
    if not isinstance(record, dict):
        raise ValueError(f"a record must be an object, not {type(record).__name__}")
    kinds = [kind for kind in ("text", "conversations") if record.get(kind) is not None]
    if len(kinds) != 1:
        raise ValueError(f"a record needs either text or conversations; this one has {sorted(record)}")
    kind = kinds[0]
    wanted = str if kind == "text" else list
    if not isinstance(record[kind], wanted):
        raise ValueError(f"{kind} must be a {wanted.__name__}, not {type(record[kind]).__name__}")
    return {"id": str(record.get("id", default_id)), kind: record[kind]}


@dataclass(frozen=True)
class StandardLibrarySource:
    """Text that every Python has: long standard-library modules and the topics of the language reference.

    One file is one document.

    split: "train" or "validation". Every `every`-th file is for validation, the others for training; none is in both
    min_characters: shorter files are left out
    every: share of the files that is for validation, as its inverse
    """

    split: str
    min_characters: int = 20_000
    every: int = 16
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.split not in ("train", "validation"):
            raise ValueError(f"split={self.split!r} must be train or validation")
        check_int("min_characters", self.min_characters, 0)
        check_int("every", self.every, 2)
        if not self.files:
            raise ValueError(
                f"split={self.split!r}: no module of min_characters={self.min_characters} or more in {_library()}; "
                "this Python comes without the sources of its standard library"
            )

    @property
    def name(self) -> str:
        return f"standard library ({self.split})"

    @property
    def files(self) -> list[Path]:
        """This split's files, sorted by name."""
        # Top level only: packages hold tests, tables of character sets and vendored wheels.
        modules = [path for path in sorted(_library().glob("*.py")) if not path.name.startswith("_sysconfigdata")]
        long = [path for path in modules if path.stat().st_size >= self.min_characters]
        validation = long[self.every // 2 :: self.every]
        if self.split == "validation":
            return validation
        topics = _library() / "pydoc_data" / "topics.py"
        return [path for path in long if path not in validation] + ([topics] if topics.is_file() else [])

    def __iter__(self) -> Iterator[Document]:
        for file in self.files:
            yield {"id": file.relative_to(_library()).as_posix(), "text": _module_text(file)}


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _module_text(file: Path) -> str:
    if file.parent.name == "pydoc_data":  # prose inside a dict of string literals
        topics = importlib.import_module("pydoc_data.topics").topics
        return "\n\n".join(topics[title] for title in sorted(topics))
    return file.read_text(encoding="utf-8")
