"""Documents that every Python has: its standard library and the language reference."""

import importlib
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beacon_lit.data.checks import check_int, check_limit, check_shares
from beacon_lit.data.records import Partition, SourceRecord
from beacon_lit.data.sources.files import file_key


@dataclass(frozen=True)
class StandardLibrarySource:
    """Text that every Python has: long standard-library modules and the topics of the language reference.

    One file is one document.

    Args:
        split: "train" or "validation".
        min_characters: shorter files are left out.
        every: every `every`-th file is for validation, all others for training.
        limit, weight, answer_share: see `Source`.

    Raises:
        ValueError: a setting is out of range, or this Python lacks the files.
    """

    split: str
    min_characters: int = 20_000
    every: int = 16
    limit: int | None = None
    weight: float | None = None
    answer_share: float | None = None

    def __post_init__(self) -> None:
        if self.split not in ("train", "validation"):
            raise ValueError(f"split={self.split!r} must be train or validation")
        check_int("min_characters", self.min_characters, 0)
        check_int("every", self.every, 2)
        check_limit(self.limit)
        check_shares(self.weight, self.answer_share)
        if not self.files:
            raise ValueError(
                f"split={self.split!r}: no module of min_characters={self.min_characters} or more in {_library()}; "
                "this Python comes without the source code of its standard library"
            )

    @property
    def name(self) -> str:
        return f"standard library ({self.split})"

    @property
    def files(self) -> list[Path]:
        """The files of this split, sorted by name."""
        # Top level only, since packages contain tests, tables of character sets and wheels.
        modules = [path for path in sorted(_library().glob("*.py")) if not path.name.startswith("_sysconfigdata")]
        long = [path for path in modules if path.stat().st_size >= self.min_characters]
        validation = long[self.every // 2 :: self.every]
        if self.split == "validation":
            return validation
        topics = _library() / "pydoc_data" / "topics.py"
        return [path for path in long if path not in validation] + ([topics] if topics.is_file() else [])

    def key(self) -> dict[str, Any]:
        """See `Source`. The limit, weight and answer_share change no document and are left out."""
        return {"source": type(self).__name__, "files": file_key(self.files)}

    def documents(self, tokenizer: Any = None) -> Iterator[SourceRecord]:
        """Yield the files of this split, one document each."""
        for file in self.files:
            yield {"id": file.relative_to(_library()).as_posix(), "text": _module_text(file)}

    def partitions(self, tokenizer: Any = None) -> Sequence[Partition]:
        """Return one partition of all documents."""
        return [self.documents]


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _module_text(file: Path) -> str:
    if file.parent.name == "pydoc_data":  # prose inside a dict of string literals
        topics = importlib.import_module("pydoc_data.topics").topics
        return "\n\n".join(topics[title] for title in sorted(topics))
    return file.read_text(encoding="utf-8")
