"""Documents in files and folders of any known format, recognised by suffix and schema."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

from beacon_lit.data.checks import check_text
from beacon_lit.data.records import MalformedRecord
from beacon_lit.data.sources.files import RecordFileSource, Rows
from beacon_lit.data.sources.folders import files_of, is_aside
from beacon_lit.data.sources.formats import format_of, suffix
from beacon_lit.data.sources.messages import from_json

_LOOKED_AT = 100  # records, at most, among which one must be well-formed


@dataclass(frozen=True, kw_only=True)
class AutoSource(RecordFileSource):
    """Documents in files of any format of `formats.FORMATS`, chosen by suffix, with records of any schema of `schemas`.

    Args:
        path: a file, a folder or a glob of both (`**` matches files). A folder is one that `save_to_disk` of `datasets`
            wrote, a clone of a data set on the hub, or any folder of files; otherwise see `FileSource`.
        config, split: of a folder; see `folders.files_of`.
        data_root, weight, answer_share: see `FileSource`.
        text_column, conversations_column, columns, max_bytes: see `Columns`.

    Raises:
        ValueError: a file of no known format, a folder without data or without the split; see also `FileSource`.
    """

    config: str | None = None
    split: str = "train"

    def __post_init__(self) -> None:
        check_text("split", self.split)
        if self.config is not None:
            check_text("config", self.config)
        super().__post_init__()
        for file in self.files:
            format_of(file)

    @property
    def wanted(self) -> str:
        return "an existing file or folder (for a data set on the hub: data=hub data.train.0.dataset=OWNER/NAME)"

    def accepts(self, file: Path) -> bool:
        return not is_aside(file)

    @cached_property
    def files(self) -> list[Path]:  # type: ignore[override]
        """The files that `path` stands for, those of a folder in place of the folder."""
        found = super().files
        if "**" in self.path:  # matches the files of folders as well
            return [path for path in found if path.is_file()]
        folders = {path: files_of(path, self.config, self.split) for path in found if path.is_dir()}
        return [file for path in found for file in folders.get(path, [path])]

    def key(self) -> dict[str, Any]:
        """See `Source`. The files say which configuration and split these are."""
        return {name: value for name, value in super().key().items() if name not in ("config", "split")}

    def rows(self, file: Path) -> Rows:
        """See `RecordFileSource`."""
        return format_of(file)(file, self)

    def recognised(self) -> str:
        """Say what the files are, by suffix, and the schema of the first well-formed record.

        Raises:
            ValueError: none of the first records is well-formed; the message has the reason of the first.
        """
        counts = Counter(suffix(file) for file in self.files)
        files = ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()))
        malformed: list[MalformedRecord] = []
        for row in islice(chain.from_iterable(map(self.rows, self.files)), _LOOKED_AT):
            if not isinstance(row, MalformedRecord):
                record = self.document(*row)
                if not isinstance(record, MalformedRecord):
                    return f"{self.path} ({files}), read as {self._description(row.record)}"
                row = record
            malformed.append(row)
        if malformed and not any(record.blank for record in malformed):
            raise ValueError(
                f"{malformed[0]}; none of the first {len(malformed)} records of {self.path} is well-formed"
            )
        return f"{self.path} ({files}): no text among the first records"

    def _description(self, record: Mapping[str, Any]) -> str:
        known = self.schema(record)
        columns = [column for column in known.columns.values() if record.get(column) is not None]
        parts = from_json(record[columns[0]])
        of = f" ({', '.join(parts[0])})" if isinstance(parts, list) and isinstance(parts[0], Mapping) else ""
        return f"{known.schema.name}: {', '.join(columns)}{of}"
