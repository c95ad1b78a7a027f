"""Sources of documents: small frozen dataclasses that a config picks by `_target_`, one file per kind.

    json_files         JSON and JSON lines (`compressed` reads the bytes, `json_records` splits them into records)
    parquet_files      Parquet
    pretokenized       token ids in folders of `datasets`
    hub                datasets of the Hugging Face hub
    standard_library   text that every Python has
    synthetic          retrieval samples

All follow the protocol `beacon_lit.data.records.Source`. Sources of files share `files` (paths, globs) and sources of
records share `columns` (record -> document).
"""

from beacon_lit.data.records import Source
from beacon_lit.data.sources.hub import HubSource
from beacon_lit.data.sources.json_files import JsonSource
from beacon_lit.data.sources.parquet_files import ParquetSource
from beacon_lit.data.sources.pretokenized import TokensSource
from beacon_lit.data.sources.standard_library import StandardLibrarySource
from beacon_lit.data.sources.synthetic import SyntheticSource

__all__ = [
    "HubSource", "JsonSource", "ParquetSource", "StandardLibrarySource", "SyntheticSource", "TokensSource", "as_source",
]  # fmt: skip


def as_source(source: Source | str, data_root: str | None) -> Source:
    """Convert a path to `JsonSource(path, data_root)`; a source stays the same."""
    return JsonSource(source, data_root) if isinstance(source, str) else source
