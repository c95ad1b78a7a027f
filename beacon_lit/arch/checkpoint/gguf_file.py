"""Read a GGUF file: its metadata, and its tensors one at a time.

The reader of the package `gguf` takes tens of seconds for a vocabulary, since it makes a memory map of every token.
Here the header is read as a stream, in a second, and the package only dequantises tensors.

The format: "GGUF", a version, the numbers of tensors and of key-value pairs, the pairs, a description of each tensor,
and the tensors' data, aligned (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

_MAGIC, _VERSIONS = b"GGUF", (2, 3)
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor of a GGUF file is.

    Attributes:
        shape: as in torch, the last dimension contiguous.
        kind: number of the quantisation type.
        start: position in the file, in bytes.
    """

    shape: tuple[int, ...]
    kind: int
    start: int


@dataclass(frozen=True)
class GgufFile:
    """The header of a GGUF file.

    Attributes:
        path: the file.
        metadata: the key-value pairs.
        tensors: the tensors' places, by name.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorEntry]

    @classmethod
    def read(cls, path: Path) -> "GgufFile":
        """Read the header.

        Raises:
            ValueError: the file is not a GGUF file, or not whole.
        """
        try:
            with path.open("rb") as file:
                metadata, tensors = _header(file)
            header = cls(path, metadata, tensors)
            end = max((entry.start + _size(entry) for entry in tensors.values()), default=0)
            if end > path.stat().st_size:
                raise ValueError(f"{path.stat().st_size} bytes of {end}")
        except (ValueError, KeyError, struct.error, MemoryError, OverflowError) as error:
            raise ValueError(f"{path} is not a whole GGUF model file ({type(error).__name__}: {error})") from error
        return header

    def tensor(self, name: str) -> Tensor:
        """Read and dequantise a tensor, to float32."""
        from gguf import GGMLQuantizationType, dequantize

        entry = self.tensors[name]
        raw = np.memmap(self.path, np.uint8, "r", entry.start, (_size(entry),))
        rows = raw.reshape(*entry.shape[:-1], -1)
        values = dequantize(rows, GGMLQuantizationType(entry.kind))
        return torch.from_numpy(np.array(values, dtype=np.float32).reshape(entry.shape))


def _size(entry: TensorEntry) -> int:
    """Return the bytes of a tensor."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    block, size = GGML_QUANT_SIZES[GGMLQuantizationType(entry.kind)]
    return prod(entry.shape) // block * size


def _header(file: BinaryIO) -> tuple[dict[str, Any], dict[str, TensorEntry]]:
    magic, version, tensors, pairs = _unpack(file, "4sIQQ")
    if magic != _MAGIC or version not in _VERSIONS:
        raise ValueError(f"it begins with {magic!r}, version {version}")
    metadata = {}
    for _ in range(pairs):
        name = _string(file)
        metadata[name] = _value(file, *_unpack(file, "I"))
    found = {}
    for _ in range(tensors):
        name = _string(file)
        dims = _unpack(file, f"{_unpack(file, 'I')[0]}Q")
        found[name] = (tuple(reversed(dims)), *_unpack(file, "IQ"))
    step = metadata.get("general.alignment", 32)
    data = -(-file.tell() // step) * step
    return metadata, {name: TensorEntry(shape, kind, data + start) for name, (shape, kind, start) in found.items()}


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind != _ARRAY:
        return _unpack(file, _NUMBERS[kind])[0]
    inner, count = _unpack(file, "IQ")
    if inner in (_STRING, _ARRAY):
        return list(_values(file, inner, count))
    return list(_unpack(file, f"{count}{_NUMBERS[inner]}"))


def _values(file: BinaryIO, kind: int, count: int) -> Iterator[Any]:
    return (_value(file, kind) for _ in range(count))


def _string(file: BinaryIO) -> str:
    (length,) = _unpack(file, "Q")
    raw = file.read(length)
    if len(raw) < length:
        raise ValueError("the end of the file is missing")
    return raw.decode("utf-8", "replace")


def _unpack(file: BinaryIO, form: str) -> tuple[Any, ...]:
    form = f"<{form}"
    return struct.unpack(form, file.read(struct.calcsize(form)))
