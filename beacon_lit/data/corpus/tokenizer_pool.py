"""Tokenises the documents of a source, in one or several processes; the order never changes."""

import multiprocessing
import os
import threading
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import wait
from typing import Any

import numpy as np

from beacon_lit.data.checks import check_int
from beacon_lit.data.corpus.token_stream import DocumentTokens
from beacon_lit.data.encoding import all_token_ids
from beacon_lit.data.records import Document, SkippedRecords, Source, Tolerance, read_documents
from beacon_lit.data.tokenize import in_chunks

_CHUNK = 64  # documents that are tokenised in one call
_CHUNK_CHARACTERS = 1_000_000  # most characters of a call, so that long documents do not fill memory
_AHEAD = 4  # chunks per process that are read ahead

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
        check_int("workers", workers, 1)
        self._tokenizer = tokenizer
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None
        if workers > 1:
            context = multiprocessing.get_context("spawn")  # forked processes would inherit locks of other threads
            self._pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=(tokenizer,))

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def documents(self, source: Source, tolerance: Tolerance, skip: int = 0) -> Iterator[DocumentTokens]:
        """Yield the tokenised documents of a source; the first `skip` are read, but neither tokenised nor yielded.

        Raises:
            ValueError: a document that is not text (a conversation, or tokens some of which are not trained), or too
                many malformed records.
        """
        raw = islice(_read(source, self._tokenizer.tokenizer, tolerance), skip, None)
        parts = in_chunks(raw, lambda item: len(item[0]), _CHUNK, _CHUNK_CHARACTERS)
        if self._pool is None:
            for chunk in parts:
                yield from self._tokenizer(chunk)
            return
        waiting: deque[Future[list[DocumentTokens]]] = deque()
        for chunk in parts:
            waiting.append(self._pool.submit(_tokenize, chunk))
            if len(waiting) >= _AHEAD * self._workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


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


# The tokenizer of a worker. A worker watches its parent's sentinel, since its queue would not tell of the parent's end.
_worker: list[DocumentTokenizer] = []


def _start(tokenizer: DocumentTokenizer) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _worker[:] = [tokenizer]
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _tokenize(chunk: list[Raw]) -> list[DocumentTokens]:
    return _worker[0](chunk)
