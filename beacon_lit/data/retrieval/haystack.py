"""The text that samples are cut from: a bounded pool of tokens, drawn once from a source of any size."""

import heapq
import json
import os
import tempfile
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import islice
from random import Random
from typing import Any

import numpy as np

from beacon_lit.data.encoding import all_token_ids
from beacon_lit.data.records import Document, MalformedRecord, Source
from beacon_lit.data.tokenize import tokenizer_key

POOL_CHARACTERS = 16_000_000  # most text of a pool, about 4 million tokens
_PARTS = 16  # no document has more than 1/16 of the pool

PoolReader = Generator[MalformedRecord, None, "Pool"]  # yields malformed records, returns the pool


@dataclass(frozen=True, eq=False)
class Pool:
    """Tokens of many documents, one behind the other, in a ring. Processes that a pool is sent to share its memory.

    Attributes:
        ids: (T,) int32, token ids.
        malformed: malformed records of the source.
    """

    ids: np.ndarray
    malformed: tuple[MalformedRecord, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def cut(self, start: int, count: int) -> list[int]:
        """Cut `count` ids from `start` on, at most T; behind the end the ring continues at its beginning."""
        return self.ids.take(range(start, start + count), mode="wrap").tolist()

    @cached_property
    def _file(self) -> str:
        """A file with the ids, which lasts as long as this pool."""
        descriptor, name = tempfile.mkstemp(prefix="beacon-pool-", suffix=".npy")
        weakref.finalize(self, os.unlink, name)
        with os.fdopen(descriptor, "wb") as out:
            np.save(out, self.ids)
        return name

    def __reduce__(self) -> tuple[Any, ...]:
        return _mapped_pool, (self._file,)


@lru_cache(maxsize=2)
def _mapped_pool(file: str) -> Pool:
    return Pool(np.load(file, mmap_mode="r"))


_RECENT: deque[tuple[str, Pool]] = deque(maxlen=2)


def shared_pool(source: Source, tokenizer: Any, seed: int) -> PoolReader:
    """Read a pool, or reuse one of the last two: the sources of a mixture mostly share a haystack."""
    key = json.dumps([source.key(), tokenizer_key(tokenizer), seed], default=str)
    for known, pool in _RECENT:
        if known == key:
            yield from pool.malformed
            return pool
    pool = yield from read_pool(source, tokenizer, seed)
    _RECENT.append((key, pool))
    return pool


def read_pool(source: Source, tokenizer: Any, seed: int, characters: int = POOL_CHARACTERS) -> PoolReader:
    """Read a pool of a source's documents: all of them, or as many random ones as `characters` allow.

    The source is read once from end to end, so that all documents are equally likely; at most `characters` are kept at
    a time, and of a long document an excerpt from a random place. Only the kept text is tokenised.

    Args:
        source: documents of text.
        tokenizer: a Hugging Face tokenizer.
        seed: of the random choices.
        characters: most characters of the pool.

    Returns:
        A generator that yields the source's malformed records and returns the pool.

    Raises:
        ValueError: a document without text.
    """
    kept: list[tuple[float, int, str]] = []  # a heap: the document with the lowest random number is removed first
    malformed: list[MalformedRecord] = []
    size = reported = 0
    for number, document in enumerate(source.documents(tokenizer)):
        if isinstance(document, MalformedRecord):
            document, reported = replace(document, read=number + 1 - reported), number + 1
            malformed.append(document)
            yield document
            continue
        rng = Random(f"pool/{seed}/{number}")
        text = _excerpt(_text(document, source), characters // _PARTS, rng)
        heapq.heappush(kept, (rng.random(), number, text))
        size += len(text)
        while size > characters:
            size -= len(heapq.heappop(kept)[2])
    texts = (text for _, _, text in sorted(kept, key=lambda entry: entry[1]))
    return replace(tokenised(texts, tokenizer), malformed=tuple(malformed))


def made_up_pool(line: Callable[[Random], str], tokenizer: Any, seed: int, tokens: int) -> Pool:
    """Make a pool of at least `tokens` tokens from made-up lines."""
    rng = Random(f"filler/{seed}")
    ids = np.zeros(0, np.int32)
    while len(ids) < tokens:
        # About as many paragraphs as are still needed.
        paragraphs = (" ".join(line(rng) for _ in range(12)) for _ in range(1 + (tokens - len(ids)) // 150))
        ids = np.concatenate([ids, tokenised(paragraphs, tokenizer).ids])
    return Pool(ids)


def tokenised(texts: Iterable[str], tokenizer: Any) -> Pool:
    """Tokenise texts into a pool, with an empty line between two texts."""
    parts = [np.zeros(0, np.int32)]
    remaining = iter(texts)
    while chunk := [text + "\n\n" for text in islice(remaining, 32)]:
        parts += [np.array(ids, np.int32) for ids in all_token_ids(tokenizer, chunk)]
    return Pool(np.concatenate(parts))


def _text(document: Document, source: Source) -> str:
    if "text" not in document:
        raise ValueError(
            f"haystack={source.name} must be a source of text; its document {document['id']} has none, "
            f"but {', '.join(sorted(set(document) - {'id'}))}"
        )
    return document["text"]


def _excerpt(text: str, characters: int, rng: Random) -> str:
    """Cut at most `characters` from a random place of a text, starting at a blank if there is one near."""
    if len(text) <= characters:
        return text
    start = rng.randint(0, len(text) - characters)
    excerpt = text[start : start + characters]
    blank = excerpt.find(" ", 0, 200) if start else -1
    return excerpt[blank + 1 :]
