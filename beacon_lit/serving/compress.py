"""The job of an upload: compress a document once, and keep it on disk."""

from collections.abc import Generator
from contextlib import closing
from dataclasses import replace

from beacon_lit.chat.reading import HELD_BACK, Reading
from beacon_lit.serving.documents import Document
from beacon_lit.serving.errors import ApiError
from beacon_lit.serving.inbox import Emit, Ended, Progress
from beacon_lit.serving.service import SEPARATOR, Service


class Compress:
    """Compresses a document. A `worker.Job`.

    Args:
        service: what all jobs share.
        document: with counts of 0, which the reading fills in.
        text: the document's text.
        emit: called with the job's events, the last of which has the `Document`.
    """

    def __init__(self, service: Service, document: Document, text: str, emit: Emit) -> None:
        self.service, self.document, self.text, self.emit = service, document, text, emit

    def run(self) -> Generator[int, None, None]:
        """See `worker.Job`."""
        yield from compress(self.service, self.document, self.text, self.emit)
        self.emit(Ended(result=self.service.documents.get(self.document.id)))


def compress(
    service: Service, document: Document, text: str, emit: Emit = lambda event: None, again: bool = False
) -> Generator[int, None, Reading]:
    """Read a document as the beginning of a user's turn, and write it to disk; pause after every chunk.

    Args:
        service: what all jobs share.
        document: its counts are filled in.
        text: the document's text.
        emit: called with the events of the work.
        again: whether the document is on disk already; one that is removed meanwhile is not written.

    Returns:
        what has been read.

    Raises:
        ApiError: 413, more tokens than the model's positions allow, or more bytes than documents may take.
    """
    opened = service.template.render_open(service.tokenizer, [], text + SEPARATOR)
    tokenized = service.prefixes.tokenize(opened, service.tokenizer)
    ids = tokenized.ids[:-HELD_BACK]
    reading, _ = yield from service.known(ids)
    known = len(reading.ids)
    try:
        reading.check_room(service.lm, max(len(ids) - known, 1))
    except ValueError as error:
        raise ApiError(413, f"the document is too long: {error}", "file_too_large", "file") from error
    emit(service.started(len(ids), known))
    chunks = service.read(reading, tokenized, ids, boundary=True)
    with closing(chunks):
        reading = yield from _reported(chunks, emit)
    document, end = _counted(service, document, len(ids), reading), replace(reading, marks=reading.marks[-1:])
    try:
        yield from service.in_background(
            lambda: service.documents.add(document, text, end, service.template, service.tokenizer, again)
        )
    except GeneratorExit:  # nobody waits for it any more
        if not again:
            service.files.submit(service.documents.delete, document.id)
        raise
    return reading


def _reported(chunks: Generator[int, None, Reading], emit: Emit) -> Generator[int, None, Reading]:
    """Report every chunk that is read."""
    while True:
        try:
            read = next(chunks)
        except StopIteration as end:
            return end.value
        emit(Progress(read))
        yield read


def _counted(service: Service, document: Document, tokens: int, reading: Reading) -> Document:
    """Fill in a document's counts."""
    cache = reading.cache
    return replace(
        document,
        tokens=tokens,
        slots=0 if cache is None else cache.rows[0].slots,
        cache_bytes=0 if cache is None else cache.nbytes,
        dense_bytes=service.dense_bytes(tokens),
    )
