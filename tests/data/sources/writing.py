"""Writes records in every format that sources read."""

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESS = {".gz": gzip.compress, ".zst": zstd.compress}
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
SCHEMA = pa.schema([("id", pa.string()), ("text", pa.string()), ("conversations", MESSAGES)])


def as_lines(records: list[Any]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def write(path: Path, content: str | bytes) -> str:
    """Text or bytes, compressed as the suffix says."""
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(COMPRESS.get(path.suffix, bytes)(data))
    return str(path)


def write_parquet(path: Path, records: list[dict[str, Any]], schema: pa.Schema = SCHEMA, **options: Any) -> str:
    pq.write_table(pa.Table.from_pylist(records, schema=schema), path, **options)
    return str(path)


def turns(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    """A conversation: what user and assistant say in turns."""
    spoken = [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]
    return [*([{"role": "system", "content": system}] if system is not None else []), *spoken]
