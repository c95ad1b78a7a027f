"""Text that every Python has."""

import importlib
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beacon_lit.data.records import Record, Shard
from beacon_lit.data.sample import check_int
from beacon_lit.data.sources.files import file_key
from beacon_lit.data.sources.settings import check_limit, check_shares


@dataclass(frozen=True)
class StandardLibrarySource:
    """Text that every Python has: long standard-library modules and the topics of the language reference.

    One file is one document.

    split: "train" or "validation". Every `every`-th file is for validation, the others for training; none is in both
    min_characters: shorter files are left out
    every: share of the files that is for validation, as its inverse
    limit, weight, answer_share: see `beacon_lit.data.records.Source`

    Raises ValueError: a setting out of range, or a Python without these files.
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

    def key(self) -> dict[str, Any]:
        """JSON-able; the limit, weight and answer_share change no document and are left out."""
        return {"source": type(self).__name__, "files": file_key(self.files)}

    def documents(self, tokenizer: Any = None) -> Iterator[Record]:
        """This split's files, one document each. `tokenizer` is not used."""
        for file in self.files:
            yield {"id": file.relative_to(_library()).as_posix(), "text": _module_text(file)}

    def shards(self, tokenizer: Any = None) -> Sequence[Shard]:
        """All in one."""
        return [self.documents]


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _module_text(file: Path) -> str:
    if file.parent.name == "pydoc_data":  # prose inside a dict of string literals
        topics = importlib.import_module("pydoc_data.topics").topics
        return "\n\n".join(topics[title] for title in sorted(topics))
    return file.read_text(encoding="utf-8")
