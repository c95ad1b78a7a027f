"""Sources -> stores: all sources of a split are tokenised side by side, each once.

This process reads the records and writes the samples, both in order. Between the two, workers make samples of a few
documents at a time, whatever source these come from. The stores are the same for any number of workers.
"""

import json
import logging
import shutil
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock
from tqdm import tqdm  # type: ignore[import-untyped]

from beacon_lit.data.length_rule import LengthRule
from beacon_lit.data.records import Document, MalformedRecord, SkippedRecords, Source, SourceRecord, Tolerance, deferred
from beacon_lit.data.sample_maker import Made, SampleMaker, Task
from beacon_lit.data.store import ABOUT, SAMPLES, Row, Store, store_key, write_rows
from beacon_lit.data.tokenize import CHUNK, CHUNK_CHARACTERS, in_chunks, size, tokenizer_key
from beacon_lit.data.workers import Workers

log = logging.getLogger(__name__)
_TASK = 16  # most documents of a task
_TASK_CHARACTERS = 250_000  # a task with so many characters is full


class Part(NamedTuple):
    """What was read of a source for one task.

    Attributes:
        records: records that were read since the task before; the documents of several tasks are read together.
        documents: the documents of the task.
        last: whether the source ends here; without documents.
    """

    records: list[SourceRecord]
    documents: list[Document]
    last: bool = False


Parts = Iterator[tuple[Part, Made]]


def make_stores(
    sources: Sequence[Source], tokenizer: Any, rule: LengthRule, tolerance: Tolerance, cache: Path, workers: int = 1
) -> list[Store]:
    """Tokenise sources into stores, or find the stores on disk.

    The key of a store is all that samples depend on: the source's files and settings, the tokenizer and its chat
    template, the rule. A store appears whole or not at all; other processes wait for the first that makes the store.

    Args:
        sources: where documents come from.
        tokenizer: a Hugging Face tokenizer with an end-of-text token.
        rule: lengths of samples.
        tolerance: how many malformed records are skipped.
        cache: the folder of all stores.
        workers: most processes that tokenise; 1 = this process alone.

    Raises:
        ValueError: too many malformed records; the message names file and line.
    """
    tokens = tokenizer_key(tokenizer), tokenizer.chat_template
    folders = [cache / store_key(source, tokens, rule) for source in sources]
    cache.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        # All processes take locks in the same order, so that none waits for another that waits for the first.
        for folder in sorted({folder for folder in folders if not folder.is_dir()}):
            stack.enter_context(FileLock(f"{folder}.lock"))
        missing: dict[Path, Source] = {}
        for folder, source in zip(folders, sources, strict=True):
            if not folder.is_dir():
                missing.setdefault(folder, source)  # several sources may differ in weight and limit alone
        pool = stack.enter_context(Workers(SampleMaker(tokenizer, rule), workers, "data.tokenize_workers"))
        # Alone, this process tokenises many documents in one call, with the threads of the tokenizers library.
        limits = (_TASK, _TASK_CHARACTERS) if workers > 1 else (CHUNK, CHUNK_CHARACTERS)
        parts = _made(missing.values(), tokenizer, pool, limits)
        for number, (folder, source) in enumerate(missing.items(), 1):
            where = f"{number} of {len(missing)}: {source.name}"
            shown = tqdm(desc=f"tokenising {where}", unit=" documents", leave=False, disable=None)
            _write(folder, source, parts, tolerance, shown)
            log.info(f"tokenised {where}")
    return [Store(folder) for folder in folders]


def _made(sources: Iterable[Source], tokenizer: Any, workers: Workers[Task, Made], limits: tuple[int, int]) -> Parts:
    """Yield the parts of all sources, one source behind the other, and what workers made of them."""
    read: deque[Part] = deque()  # and not made yet

    def tasks() -> Iterator[Task]:
        for source in sources:
            for part in chain(_parts(deferred(source, tokenizer), limits), [Part([], [], last=True)]):
                read.append(part)
                yield Task(part.documents, source.answer_share)

    for made in workers.results(tasks()):
        yield read.popleft(), made


def _parts(records: Iterable[SourceRecord], limits: tuple[int, int]) -> Iterator[Part]:
    """Divide the records of a source; `limits` are the most documents of a part and the characters that fill it."""
    for runs in in_chunks(_runs(records), lambda run: size(run[-1]), CHUNK, CHUNK_CHARACTERS):
        read = list(chain.from_iterable(runs))
        documents = [record for record in read if not isinstance(record, MalformedRecord)]
        tasks = [*in_chunks(documents, size, *limits)] or [[]]
        yield Part(read, tasks[0])
        yield from (Part([], task) for task in tasks[1:])


def _runs(records: Iterable[SourceRecord]) -> Iterator[list[SourceRecord]]:
    """Group records: each document with the malformed records before it, and those behind the last document."""
    run = []
    for record in records:
        run.append(record)
        if not isinstance(record, MalformedRecord):
            yield run
            run = []
    if run:
        yield run


def _write(folder: Path, source: Source, parts: Parts, tolerance: Tolerance, shown: tqdm) -> None:
    """Write the store of the source that is next among `parts`."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    left_out: Counter[str] = Counter()
    skipped = SkippedRecords(tolerance, source.name, left_out)
    with shown:
        write_rows(_rows(parts, skipped, shown), partial / SAMPLES)
    skipped.finish()
    (partial / ABOUT).write_text(json.dumps({"source": source.name, "left_out": left_out}, indent=2) + "\n")
    partial.rename(folder)


def _rows(parts: Parts, skipped: SkippedRecords, shown: tqdm) -> Iterator[Row]:
    """Yield the rows of a source, and count what is left out in the order of the records."""
    for part, (rows, left_out) in parts:
        if part.last:
            return
        for record in part.records:
            skipped.taken(record)
        for counts, malformed in left_out:
            skipped.counts.update(counts)
            if malformed is not None:
                skipped.skip(malformed)
        yield from rows
        shown.update(len(part.documents))
