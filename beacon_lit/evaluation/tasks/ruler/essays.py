"""Sentences to hide needles between: of held-out documents, of files, or made up."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from random import Random
from textwrap import wrap

from beacon_lit.data.records import MalformedRecord
from beacon_lit.data.retrieval import made_up
from beacon_lit.data.sources.json_files import JsonSource
from beacon_lit.evaluation.task import Subject
from beacon_lit.evaluation.tasks.needle.haystack import in_published_layout

MADE_UP, DOCUMENTS = "made-up", "documents"

_CHARACTERS = 4_000_000  # maximum amount of text, about a million tokens
_LONGEST = 400  # characters of a sentence; a longer one (a table, source code) is cut
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True)
class _EssayFiles(JsonSource):
    """Files of text or JSON: one file, all files of a folder, or the matches of a glob."""

    @property
    def files(self) -> list[Path]:
        """See `FileSource`."""
        parts = (sorted(found.iterdir()) if found.is_dir() else [found] for found in super().files)
        return [file for file in chain.from_iterable(parts) if file.is_file()]

    def accepts(self, file: Path) -> bool:
        """See `FileSource`."""
        return file.is_file() or any(inner.is_file() for inner in file.iterdir())


def read_sentences(essays: str, subject: Subject, data_root: str | None, seed: int) -> list[str]:
    """Read the sentences that a setting names.

    Args:
        essays: "made-up"; "documents" for the subject's; or a folder, a file or a glob of .txt, .json or .jsonl
            (.gz, .zst), whose records have `text`.
        subject: has the documents.
        data_root: the folder that `long-llm:` stands for.
        seed: changes the made-up sentences.

    Raises:
        ValueError: no text, a missing file or a malformed record.
    """
    if essays == MADE_UP:
        return [*_made_up(seed)]
    if essays == DOCUMENTS:
        decode = subject.tokenizer.decode
        texts: Iterable[str] = (decode(list(ids), skip_special_tokens=True) for _, ids in subject.documents)
    else:
        texts = _read(essays, data_root)
    found = list(_sentences(texts))
    if not found:
        raise ValueError(f"essays={essays!r} has no text; allowed: made-up, documents (if there are any), or files")
    return found


@lru_cache(2)  # each subset reads them
def _made_up(seed: int) -> tuple[str, ...]:
    rng = Random(f"essays/{seed}")
    return tuple(made_up.sentence(rng) for _ in range(20_000))


def _read(path: str, data_root: str | None) -> Iterator[str]:
    try:
        source = _EssayFiles(in_published_layout(path, data_root), data_root)
    except ValueError as error:
        raise ValueError(f"essays={path!r}: {error}; also allowed: made-up, documents") from error
    for file in source.files:
        if file.suffix == ".txt":
            yield file.read_text()
            continue
        for record in source.read_file(file):
            if isinstance(record, MalformedRecord) or "text" not in record:
                raise ValueError(
                    f"essays={path!r}: {record if isinstance(record, MalformedRecord) else f'{file}: no text'}"
                )
            yield record["text"]


def _sentences(texts: Iterable[str]) -> Iterator[str]:
    size = 0
    for text in texts:
        for sentence in _SENTENCE_END.split(text[: _CHARACTERS - size]):
            yield from wrap(" ".join(sentence.split()), _LONGEST)
        size += len(text)
        if size >= _CHARACTERS:
            return
