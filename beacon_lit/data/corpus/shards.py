"""Corpus shards: folders that `datasets` reads, each written whole or not at all."""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetInfo, Features, List, Value
from datasets.table import InMemoryTable

from beacon_lit.data.corpus.token_stream import TokenPosition
from beacon_lit.files import write_text

RECORD = "shard.json"
_FEATURES = Features({"input_ids": List(Value("int32")), "length": Value("int32"), "source": Value("string")})


@dataclass(frozen=True)
class Shard:
    """Contents of a corpus shard.

    Attributes:
        name: of the folder.
        source: name of the source.
        pieces: number of pieces by length.
        tokens: of all pieces.
        end: the source's position behind the shard.
        exhausted: whether the source ends here.
        files: sha256 of each file.
    """

    name: str
    source: str
    pieces: Mapping[str, int]
    tokens: int
    end: TokenPosition
    exhausted: bool
    files: Mapping[str, str]


def write_shard(
    folder: Path, name: str, source: str, pieces: Sequence[np.ndarray], end: TokenPosition, exhausted: bool
) -> Shard:
    """Write pieces, (length,) int32 each, as the folder `folder/name`, which appears when complete.

    A folder of this name is replaced.
    """
    temporary = folder / f".{name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    lengths = np.array([len(piece) for piece in pieces], np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    columns = {
        "input_ids": pa.ListArray.from_arrays(offsets, np.concatenate(pieces)),
        "length": pa.array(lengths),
        "source": pa.array([source] * len(pieces)),
    }
    # The default fingerprint is random, and the files would differ each time.
    fingerprint = hashlib.sha256(b"".join(piece.tobytes() for piece in pieces)).hexdigest()[:16]
    table = InMemoryTable(pa.table(columns))
    Dataset(table, info=DatasetInfo(features=_FEATURES), fingerprint=fingerprint).save_to_disk(temporary)
    counts = Counter(lengths.tolist())
    shard = Shard(
        name=name,
        source=source,
        pieces={str(length): counts[length] for length in sorted(counts)},
        tokens=int(lengths.sum()),
        end=end,
        exhausted=exhausted,
        files=_checksums(temporary),
    )
    write_json(temporary / RECORD, asdict(shard))
    shutil.rmtree(folder / name, ignore_errors=True)
    temporary.rename(folder / name)
    return shard


def find_shard(folder: Path, name: str) -> Shard | None:
    """Read the shard `folder/name`; None if the folder is missing or its files have changed since they were written."""
    try:
        record = json.loads((folder / name / RECORD).read_text())
        shard = Shard(**record | {"end": TokenPosition(**record["end"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return shard if shard.files == _checksums(folder / name) else None


def write_json(file: Path, content: Any) -> None:
    """Write JSON in one step."""
    write_text(file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _checksums(folder: Path) -> dict[str, str]:
    sums = {}
    for file in sorted(folder.iterdir()):
        if file.name != RECORD:
            with file.open("rb") as stream:
                sums[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return sums
