"""Reads the text that needles are hidden in: text files, or the held-out documents."""

import glob
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path

from beacon_lit.data.encoding import token_ids
from beacon_lit.data.sources.files import DATA_ROOT_PREFIX, FileSource
from beacon_lit.evaluation.task import Subject


@dataclass(frozen=True)
class TextFiles(FileSource):
    """Text files in UTF-8: one file, the `*.txt` of a folder, or the matches of a glob; sorted by name.

    See `FileSource` for the arguments. Raises ValueError if there are no files.
    """

    @property
    def files(self) -> list[Path]:
        """See `FileSource`."""
        parts = (sorted(found.glob("*.txt")) if found.is_dir() else [found] for found in super().files)
        return [*chain.from_iterable(parts)][: self.limit]

    @property
    def wanted(self) -> str:
        """See `FileSource`."""
        return "a text file, or a folder with *.txt in it (such as needle/PaulGrahamEssays of the long-llm data)"

    def accepts(self, file: Path) -> bool:
        """See `FileSource`."""
        return file.is_file() or any(file.glob("*.txt"))

    def texts(self) -> Iterator[str]:
        """Yield the text of each file, except for empty ones. Raises ValueError for a file that is not UTF-8."""
        for file in self.files:
            try:
                text = file.read_text(encoding="utf-8-sig").strip()
            except UnicodeDecodeError as error:
                raise ValueError(f"path={self.path}: {file} is not UTF-8 (byte {error.start})") from error
            if text:
                yield text


def in_published_layout(path: str, data_root: str | None) -> str:
    """Return `long-llm:needle/NAME`, as in the published data, for `long-llm:NAME` if only the former exists."""
    nested = path.replace(DATA_ROOT_PREFIX, f"{DATA_ROOT_PREFIX}needle/", 1)
    if nested == path or data_root is None:
        return path
    exist = [glob.glob(str(Path(data_root) / name.removeprefix(DATA_ROOT_PREFIX))) for name in (path, nested)]
    return nested if exist[1] and not exist[0] else path


@dataclass(frozen=True, eq=False)
class Haystack:
    """Token ids of one or more texts, each followed by an empty line."""

    texts: Sequence[Sequence[int]]

    def cut(self, first: int, tokens: int) -> list[int]:
        """Return `tokens` ids from the start of text number `first`; the first text follows the last one."""
        in_turn = (self.texts[(first + i) % len(self.texts)] for i in count())
        return list(islice(chain.from_iterable(in_turn), tokens))


def read_haystack(files: TextFiles | None, subject: Subject, tokens: int, texts: int) -> Haystack:
    """Read as many texts as `tokens` tokens and `texts` beginnings need.

    Args:
        files: where the texts are; None = the subject's held-out documents, without their special tokens.
        subject: has the tokenizer and the documents.
        tokens: tokens of the longest text that will be cut from the haystack.
        texts: number of different texts that this may begin with.

    Raises:
        ValueError: there is no text.
    """
    tokenizer = subject.tokenizer
    special = set(tokenizer.all_special_ids)
    found: Iterable[list[int]]
    if files is None:
        found = ([id for id in ids if id not in special] for _, ids in subject.documents)
    else:
        found = (token_ids(tokenizer, text) for text in files.texts())
    gap = token_ids(tokenizer, "\n\n")
    kept: list[list[int]] = []
    size = 0
    for ids in found:
        if ids:
            kept.append([*ids, *gap])
            size += len(kept[-1])
        if size >= tokens and len(kept) >= texts:
            break
    if not kept:
        where = "the held-out documents have no text" if files is None else f"path={files.path} has no text in it"
        raise ValueError(f"{where}; a needle needs a haystack: set path to a folder of *.txt, or data to some text")
    return Haystack(kept)
