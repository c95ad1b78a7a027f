"""Uploaded documents on disk, each in a folder of its own: `file.json`, `content`, and `cache`, a saved chat.

A folder appears in one step once the document is compressed, and disappears in one step. A saved chat can be continued
by `generate.py load=...` as well. The documents that were used least recently make room for new ones.
"""

import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from beacon_lit.chat import saved
from beacon_lit.chat.reading import Reading
from beacon_lit.chat.template import ChatTemplate
from beacon_lit.serving.errors import ApiError

_ABOUT, _CONTENT, _CACHE = "file.json", "content", "cache"
_PARTIAL = ".partial-"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Document:
    """What is known about a document.

    Attributes:
        id: its name in requests.
        filename, purpose: as given by the upload.
        bytes: size of the text in UTF-8.
        created_at: seconds since 1970.
        tokens: tokens read; the last few are read with each question.
        slots: slots of the cache.
        cache_bytes: bytes of the cache.
        dense_bytes: bytes that keys and values of all tokens would take without compression.
    """

    id: str
    filename: str
    purpose: str
    bytes: int
    created_at: int
    tokens: int
    slots: int
    cache_bytes: int
    dense_bytes: int


class Documents:
    """All documents of a folder. Any thread may use it.

    Args:
        folder: created if necessary; documents of an earlier server are found again.
        limit: most bytes of all documents and caches together.
        evicted: called for each document that had to make room.
    """

    def __init__(self, folder: Path, limit: int, evicted: Callable[[], None] = lambda: None) -> None:
        self.folder, self.limit, self.evicted = folder, limit, evicted
        self._lock = Lock()
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"{_PARTIAL}*"):
            shutil.rmtree(left, ignore_errors=True)
        files = sorted(folder.glob(f"*/{_ABOUT}"), key=lambda file: file.stat().st_mtime)
        read = (document for document in map(_read, files) if document is not None)
        # Least recently used first, with the bytes of each.
        self._known = {document.id: (document, _size(folder / document.id)) for document in read}

    def __len__(self) -> int:
        return len(self._known)

    @property
    def nbytes(self) -> int:
        """Bytes of all documents and caches."""
        with self._lock:
            return sum(size for _, size in self._known.values())

    def all(self) -> list[Document]:
        """Return all documents, the newest first."""
        with self._lock:
            return sorted((doc for doc, _ in self._known.values()), key=lambda doc: doc.created_at, reverse=True)

    def get(self, id: str) -> Document:
        """Return a document, which now counts as used.

        Raises:
            ApiError: 404.
        """
        with self._lock:
            if id not in self._known:
                raise _missing(id)
            self._known[id] = self._known.pop(id)
            os.utime(self.folder / id / _ABOUT)
            return self._known[id][0]

    def text(self, id: str) -> str:
        """Return a document's text; see `get`."""
        self.get(id)
        try:
            return (self.folder / id / _CONTENT).read_bytes().decode()  # without changes to line ends
        except FileNotFoundError:  # removed just now
            raise _missing(id) from None

    def reading(self, id: str, lm: Any, tokenizer: Any) -> Reading | None:
        """Load what was read of a document; None if another model or tokenizer has read it. See `get`."""
        self.get(id)
        try:
            return saved.load(self.folder / id / _CACHE, lm, tokenizer)[1]
        except FileNotFoundError:  # removed just now
            raise _missing(id) from None
        except ValueError:
            return None

    def add(
        self, document: Document, text: str, reading: Reading, template: ChatTemplate, tokenizer: Any,
        again: bool = False,
    ) -> None:  # fmt: skip
        """Write a document, and make room for it; an older one of the same id is replaced.

        Args:
            document: with its counts.
            text: the document's text.
            reading: what was read of it.
            template: the chat template that the text was read with.
            tokenizer: the tokenizer.
            again: whether the document is there already; without effect if it was removed meanwhile.

        Raises:
            ApiError: 413, the document alone is beyond the limit.
        """
        partial = self.folder / f"{_PARTIAL}{secrets.token_hex(8)}"
        try:
            (partial / _CACHE).mkdir(parents=True)
            (partial / _CONTENT).write_text(text, encoding="utf-8", newline="")
            (partial / _ABOUT).write_text(json.dumps(asdict(document)), encoding="utf-8")
            chat = {
                "messages": [],
                "documents": [text],
                "template": {"source": template.source, "options": dict(template.options)},
            }
            saved.save(partial / _CACHE, chat, reading, tokenizer)
            size = _size(partial)
            if size > self.limit:
                raise ApiError(
                    413, f"the document and its cache take {size} bytes on disk; allowed: {self.limit} in all",
                    "file_too_large", "file",
                )  # fmt: skip
            with self._lock:
                if document.id in self._known:
                    self._remove(document.id)
                elif again:
                    return
                partial.rename(self.folder / document.id)
                self._known[document.id] = document, size
                while sum(size for _, size in self._known.values()) > self.limit:
                    self._remove(next(iter(self._known)))
                    self.evicted()
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def delete(self, id: str) -> None:
        """Delete a document; see `get` for errors."""
        self.get(id)
        with self._lock:
            if id in self._known:
                self._remove(id)

    def _remove(self, id: str) -> None:
        del self._known[id]
        left = self.folder / f"{_PARTIAL}{secrets.token_hex(8)}"
        (self.folder / id).rename(left)
        shutil.rmtree(left, ignore_errors=True)


def _missing(id: str) -> ApiError:
    message = f"no file {id!r}: it was never uploaded, or it was deleted or had to make room"
    return ApiError(404, message, "file_not_found")


def new_id() -> str:
    """Return an id for a document."""
    return f"file-{secrets.token_hex(12)}"


def now() -> int:
    """Return seconds since 1970."""
    return int(time.time())


def _read(file: Path) -> Document | None:
    """Read `file.json`; None, with a warning in the log, if the file is damaged."""
    try:
        document = Document(**json.loads(file.read_text(encoding="utf-8")))
        if document.id != file.parent.name:
            raise ValueError(f"id {document.id!r} in folder {file.parent.name!r}")
        return document
    except (ValueError, TypeError) as error:
        log.warning("%s is damaged, and its document left out: %s", file, error)
        return None


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
