"""Documents -> token ids, in processes of their own where that is asked for; in order, whatever their number."""

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
from types import TracebackType
from typing import Any

import numpy as np

from beacon_lit.data.corpus.stream import Tokens
from beacon_lit.data.records import BadRecords, Document, Source, Tolerance, read
from beacon_lit.data.sample import check_int
from beacon_lit.data.tokenize import chunks

_CHUNK = 64  # documents that are tokenised in one call
_CHUNK_CHARACTERS = 1_000_000  # at most, so that long documents do not pile up
_AHEAD = 4  # chunks per process that are read ahead

Raw = tuple[str | np.ndarray, dict[str, int]]  # text or ids, and bad records by kind up to the next


@dataclass(frozen=True)
class Encoder:
    """Tokenises documents.

    tokenizer: a Hugging Face tokenizer
    bos, eos: whether every document is to begin and end with these; one that is there already is not doubled
    """

    tokenizer: Any
    bos: bool = False
    eos: bool = True

    def __post_init__(self) -> None:
        for name in ("bos", "eos"):
            if getattr(self, name) and getattr(self.tokenizer, f"{name}_token_id") is None:
                raise ValueError(f"{name}=True: the tokenizer {self.tokenizer.name_or_path!r} has no {name} token")

    def __call__(self, chunk: list[Raw]) -> list[Tokens]:
        """The tokens of some documents."""
        texts = [document for document, _ in chunk if isinstance(document, str)]
        ids = iter(self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else [])
        return [Tokens(self._framed(next(ids) if isinstance(raw, str) else raw), bad) for raw, bad in chunk]

    def _framed(self, ids: list[int] | np.ndarray) -> np.ndarray:
        tokens = np.asarray(ids, np.int32)
        first = [self.tokenizer.bos_token_id] if self.bos else []
        last = [self.tokenizer.eos_token_id] if self.eos else []
        first = [] if tokens[:1].tolist() == first else first
        last = [] if tokens[-1:].tolist() == last else last
        return np.concatenate([np.array(first, np.int32), tokens, np.array(last, np.int32)])


class Encoders(AbstractContextManager):
    """Runs an encoder over sources, with `workers` processes (1 = in this one) that end with this one."""

    def __init__(self, encoder: Encoder, workers: int = 1) -> None:
        check_int("workers", workers, 1)
        self._encoder = encoder
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None
        if workers > 1:
            context = multiprocessing.get_context("spawn")  # a forked process would inherit locks of other threads
            self._pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=(encoder,))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def documents(self, source: Source, tolerance: Tolerance, skip: int = 0) -> Iterator[Tokens]:
        """The documents of a source but for the first `skip`, which are read and not tokenised. See `read`.

        Raises ValueError: a document that is no text: a conversation, or tokens some of which are not to be trained on.
        """
        raw = islice(_read(source, self._encoder.tokenizer, tolerance), skip, None)
        parts = chunks(raw, lambda item: len(item[0]), _CHUNK, _CHUNK_CHARACTERS)
        if self._pool is None:
            for chunk in parts:
                yield from self._encoder(chunk)
            return
        waiting: deque[Future[list[Tokens]]] = deque()
        for chunk in parts:
            waiting.append(self._pool.submit(_encode, chunk))
            if len(waiting) >= _AHEAD * self._workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _read(source: Source, tokenizer: Any, tolerance: Tolerance) -> Iterator[Raw]:
    """Each document with the bad records up to the next one, so that those behind the last are counted, too."""
    bad: Counter[str] = Counter()
    previous: str | np.ndarray | None = None
    for document in read(source, tokenizer, BadRecords(tolerance, source.name, bad)):
        if previous is not None:
            yield previous, dict(sorted(bad.items()))
        previous = _raw(document, source)
    if previous is not None:
        yield previous, dict(sorted(bad.items()))


def _raw(document: Document, source: Source) -> str | np.ndarray:
    if "text" in document:
        return document["text"]
    trained = document.get("trained")
    if "input_ids" in document and (trained is None or np.all(trained)):
        return np.asarray(document["input_ids"], np.int32)
    found = "conversations" if "conversations" in document else "tokens that are not to be trained on"
    raise ValueError(f"{source.name}: document {document['id']} must be text, to be cut anywhere; it has {found}")


# In a worker. It is told of its parent's end by the parent's sentinel: the queue it waits on would never tell.
_worker: list[Encoder] = []


def _start(encoder: Encoder) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _worker[:] = [encoder]
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _encode(chunk: list[Raw]) -> list[Tokens]:
    return _worker[0](chunk)
