"""Tokenises the documents of a source, in one or several processes; the order never changes."""

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np

from beacon_lit.data.corpus.token_stream import DocumentTokens
from beacon_lit.data.encoding import all_token_ids
from beacon_lit.data.records import Document, SkippedRecords, Source, Tolerance, read_documents
from beacon_lit.data.tokenize import in_chunks
from beacon_lit.data.workers import Workers

_CHUNK = 64  # documents that are tokenised in one call
_CHUNK_CHARACTERS = 1_000_000  # most characters of a call, so that long documents do not fill memory

Raw = tuple[str | np.ndarray, dict[str, int]]  # text or ids, and malformed records by kind up to the next document


@dataclass(frozen=True)
class DocumentTokenizer:
    """Tokenises documents.

    Args:
        tokenizer: a Hugging Face tokenizer.
        bos, eos: whether every document begins and ends with the token of this name; an existing one is not doubled.

    Raises:
        ValueError: the tokenizer lacks such a token.
    """

    tokenizer: Any
    bos: bool = False
    eos: bool = True

    def __post_init__(self) -> None:
        for name in ("bos", "eos"):
            if getattr(self, name) and getattr(self.tokenizer, f"{name}_token_id") is None:
                raise ValueError(f"{name}=True: the tokenizer {self.tokenizer.name_or_path!r} has no {name} token")

    def __call__(self, chunk: list[Raw]) -> list[DocumentTokens]:
        """Tokenise some documents."""
        texts = [document for document, _ in chunk if isinstance(document, str)]
        ids = iter(all_token_ids(self.tokenizer, texts))
        return [
            DocumentTokens(self._with_ends(next(ids) if isinstance(raw, str) else raw), malformed)
            for raw, malformed in chunk
        ]

    def _with_ends(self, ids: list[int] | np.ndarray) -> np.ndarray:
        tokens = np.asarray(ids, np.int32)
        first = [self.tokenizer.bos_token_id] if self.bos else []
        last = [self.tokenizer.eos_token_id] if self.eos else []
        first = [] if tokens[:1].tolist() == first else first
        last = [] if tokens[-1:].tolist() == last else last
        return np.concatenate([np.array(first, np.int32), tokens, np.array(last, np.int32)])


class TokenizerPool(AbstractContextManager):
    """Tokenises sources in `workers` processes (1 = in this process) that end with this process."""

    def __init__(self, tokenizer: DocumentTokenizer, workers: int = 1) -> None:
        self._tokenizer = tokenizer.tokenizer
        self._workers: Workers[list[Raw], list[DocumentTokens]] = Workers(tokenizer, workers)

    def __exit__(self, *error: object) -> None:
        self._workers.__exit__(*error)

    def documents(self, source: Source, tolerance: Tolerance, skip: int = 0) -> Iterator[DocumentTokens]:
        """Yield the tokenised documents of a source; the first `skip` are read, but neither tokenised nor yielded.

        Raises:
            ValueError: a document that is not text (a conversation, or tokens some of which are not trained), or too
                many malformed records.
        """
        raw = islice(_read(source, self._tokenizer, tolerance), skip, None)
        parts = in_chunks(raw, lambda item: len(item[0]), _CHUNK, _CHUNK_CHARACTERS)
        return chain.from_iterable(self._workers.results(parts))


def _read(source: Source, tokenizer: Any, tolerance: Tolerance) -> Iterator[Raw]:
    """Yield each document with the malformed records up to the next one, so that the last records count, too."""
    malformed: Counter[str] = Counter()
    previous: str | np.ndarray | None = None
    for document in read_documents(source, tokenizer, SkippedRecords(tolerance, source.name, malformed)):
        if previous is not None:
            yield previous, dict(sorted(malformed.items()))
        previous = _raw(document, source)
    if previous is not None:
        yield previous, dict(sorted(malformed.items()))


def _raw(document: Document, source: Source) -> str | np.ndarray:
    if "text" in document:
        return document["text"]
    trained = document.get("trained")
    if "input_ids" in document and (trained is None or np.all(trained)):
        return np.asarray(document["input_ids"], np.int32)
    found = "conversations" if "conversations" in document else "tokens that are not to be trained on"
    raise ValueError(f"{source.name}: document {document['id']} must be text, to be cut anywhere, but has {found}")
