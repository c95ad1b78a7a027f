"""What sources of files of records have in common."""

from dataclasses import dataclass
from typing import Any

from beacon_lit.data.sources.columns import Columns
from beacon_lit.data.sources.files import FileSource, file_key


@dataclass(frozen=True)
class RecordFiles(Columns, FileSource):
    """Files of records, of which each has a document; a kind of file gives `read_file`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_columns()

    def key(self) -> dict[str, Any]:
        """JSON-able; the limit, weight and answer_share change no document and are left out."""
        return {"source": type(self).__name__, **self.columns, "files": file_key(self.files)}
