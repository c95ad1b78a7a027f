"""Where documents come from: small frozen dataclasses that a config picks by `_target_`.

Each follows the protocol `beacon_lit.data.records.Source`. One file per kind: `json`, `parquet`, `tokens`, `hub`,
`library`, `synthetic`. What they share: `files` (paths, globs), `columns` (record -> document), `record_files` (both),
`settings` (checks).
`compressed` and `splitting` cut a file's bytes into JSON records.
"""

from beacon_lit.data.records import Source
from beacon_lit.data.sources.hub import HubSource
from beacon_lit.data.sources.json import JsonSource
from beacon_lit.data.sources.library import StandardLibrarySource
from beacon_lit.data.sources.parquet import ParquetSource
from beacon_lit.data.sources.synthetic import SyntheticSource
from beacon_lit.data.sources.tokens import TokensSource

__all__ = [
    "HubSource", "JsonSource", "ParquetSource", "StandardLibrarySource", "SyntheticSource", "TokensSource", "as_source",
]  # fmt: skip


def as_source(source: Source | str, data_root: str | None) -> Source:
    """A string is short for `JsonSource(path, data_root)`."""
    return JsonSource(source, data_root) if isinstance(source, str) else source
