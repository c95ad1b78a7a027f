"""The text that samples are cut from: a bounded pool, drawn once, of a source of any size."""

import heapq
import json
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from itertools import islice
from random import Random
from typing import Any

import numpy as np

from beacon_lit.data.records import BadRecord, Document, Source
from beacon_lit.data.tokenize import tokenizer_key

POOL_CHARACTERS = 16_000_000  # the most text that is kept, 4 million tokens or so
_PARTS = 16  # no document has more than this part of the pool

Bad = Generator[BadRecord, None, "Pool"]


@dataclass(frozen=True, eq=False)
class Pool:
    """Tokens of many documents, one behind the other, in a ring.

    ids: (T,) int32
    bad: records of the source that are no documents
    """

    ids: np.ndarray
    bad: tuple[BadRecord, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def cut(self, start: int, count: int) -> list[int]:
        """`count` ids from `start` on, which goes on at the beginning behind the end; `count` is at most T."""
        return self.ids.take(range(start, start + count), mode="wrap").tolist()


_RECENT: deque[tuple[str, Pool]] = deque(maxlen=2)


def shared_pool(source: Source, tokenizer: Any, seed: int) -> Bad:
    """As `read_pool`, but the last two pools are kept: the sources of a mixture mostly share a haystack."""
    key = json.dumps([source.key(), tokenizer_key(tokenizer), seed], default=str)
    for known, pool in _RECENT:
        if known == key:
            yield from pool.bad
            return pool
    pool = yield from read_pool(source, tokenizer, seed)
    _RECENT.append((key, pool))
    return pool


def read_pool(source: Source, tokenizer: Any, seed: int, characters: int = POOL_CHARACTERS) -> Bad:
    """A pool of a source's documents: all of them, or as many of them, drawn at random, as `characters` allow.

    The source is read once from end to end, so that every document is as likely as any other; what is kept meanwhile
    is at most `characters`, of a long document an excerpt from a random place. Only what is kept is tokenised.
    Yields the source's bad records; returns the pool. Raises ValueError at a document without text.
    """
    kept: list[tuple[float, int, str]] = []  # a heap: the document with the lowest draw goes first
    bad: list[BadRecord] = []
    size = 0
    for number, document in enumerate(source.documents(tokenizer)):
        if isinstance(document, BadRecord):
            bad.append(document)
            yield document
            continue
        rng = Random(f"pool/{seed}/{number}")
        text = _excerpt(_text(document, source), characters // _PARTS, rng)
        heapq.heappush(kept, (rng.random(), number, text))
        size += len(text)
        while size > characters:
            size -= len(heapq.heappop(kept)[2])
    texts = (text for _, _, text in sorted(kept, key=lambda entry: entry[1]))
    return replace(tokenised(texts, tokenizer), bad=tuple(bad))


def made_up_pool(line: Callable[[Random], str], tokenizer: Any, seed: int, tokens: int) -> Pool:
    """A pool of at least `tokens` tokens of made-up lines."""
    rng = Random(f"filler/{seed}")
    ids = np.zeros(0, np.int32)
    while len(ids) < tokens:
        # Paragraphs of lines; about as many as are still needed, at some characters per token.
        paragraphs = (" ".join(line(rng) for _ in range(12)) for _ in range(1 + (tokens - len(ids)) // 150))
        ids = np.concatenate([ids, tokenised(paragraphs, tokenizer).ids])
    return Pool(ids)


def tokenised(texts: Iterable[str], tokenizer: Any) -> Pool:
    """The pool of some texts, with an empty line between two."""
    parts = [np.zeros(0, np.int32)]
    remaining = iter(texts)
    while chunk := [text + "\n\n" for text in islice(remaining, 32)]:
        encoded = tokenizer(chunk, add_special_tokens=False, verbose=False)["input_ids"]
        parts += [np.array(ids, np.int32) for ids in encoded]
    return Pool(np.concatenate(parts))


def _text(document: Document, source: Source) -> str:
    if "text" not in document:
        raise ValueError(
            f"haystack={source.name} must be a source of text; its document {document['id']} has none, "
            f"but {', '.join(sorted(set(document) - {'id'}))}"
        )
    return document["text"]


def _excerpt(text: str, characters: int, rng: Random) -> str:
    """At most `characters` of a text; where it is cut, at a blank if there is one near."""
    if len(text) <= characters:
        return text
    start = rng.randint(0, len(text) - characters)
    excerpt = text[start : start + characters]
    blank = excerpt.find(" ", 0, 200) if start else -1
    return excerpt[blank + 1 :]
