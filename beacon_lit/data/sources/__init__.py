"""Sources of documents: small frozen dataclasses that a config picks by `_target_`, one file per kind.

    auto               files and folders of any format: `formats` (by suffix), `folders`
    json_files         JSON and JSON lines (`json_records` splits bytes into records)
    parquet_files      Parquet
    pretokenized       token ids in folders of `datasets`
    hub                datasets of the Hugging Face hub
    standard_library   text that every Python has
    synthetic          retrieval samples

All follow the protocol `beacon_lit.data.records.Source`. Sources of files share `files` (paths, globs), and sources of
records share `columns` (record -> document, by the schema of the record, see `schemas`). Bytes come from `compressed`
and `utf8`; further formats are in `text_files`, `csv_files` and `arrow_files`.
"""

import logging
from collections.abc import Callable

from beacon_lit.data.records import Source
from beacon_lit.data.sources.auto import AutoSource
from beacon_lit.data.sources.hub import HubSource
from beacon_lit.data.sources.json_files import JsonSource
from beacon_lit.data.sources.parquet_files import ParquetSource
from beacon_lit.data.sources.pretokenized import TokensSource
from beacon_lit.data.sources.standard_library import StandardLibrarySource
from beacon_lit.data.sources.synthetic import SyntheticSource

__all__ = [
    "AutoSource", "HubSource", "JsonSource", "ParquetSource", "StandardLibrarySource", "SyntheticSource",
    "TokensSource", "as_source",
]  # fmt: skip


_log = logging.getLogger(__name__).info


def as_source(
    source: Source | str, data_root: str | None, split: str = "train", log: Callable[[str], None] = _log
) -> Source:
    """Convert a path to an `AutoSource`; a source stays the same. Log what the files of an `AutoSource` are.

    Args:
        source: a path or a source.
        data_root: see `FileSource`.
        split: of a folder with splits; see `AutoSource`.
        log: called with what the files are.

    Raises:
        ValueError: a path to nothing that can be read; see `AutoSource`.
    """
    found = AutoSource(source, data_root, split=split) if isinstance(source, str) else source
    if isinstance(found, AutoSource):
        log(found.recognised())
    return found
