"""The text that needles are hidden in: files of text, or the subject's held-out documents."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path

from beacon_lit.data.retrieval.token_ids import token_ids
from beacon_lit.data.sources.files import FileSource
from beacon_lit.evaluation.task import Subject


@dataclass(frozen=True)
class TextFiles(FileSource):
    """Text files in UTF-8: those of a folder, one, or those that a glob matches; sorted by name.

    path, data_root: see `FileSource`; of a folder the `*.txt` are read

    Raises ValueError if nothing is there.
    """

    @property
    def files(self) -> list[Path]:
        """See `FileSource`."""
        parts = (sorted(found.glob("*.txt")) if found.is_dir() else [found] for found in super().files)
        return [*chain.from_iterable(parts)][: self.limit]

    @property
    def wanted(self) -> str:
        """See `FileSource`."""
        return "a text file, or a folder with *.txt in it (such as PaulGrahamEssays of the long-llm data)"

    def accepts(self, file: Path) -> bool:
        """See `FileSource`."""
        return file.is_file() or any(file.glob("*.txt"))

    def texts(self) -> Iterator[str]:
        """What is in the files, those without text left out. Raises ValueError at one that is not UTF-8."""
        for file in self.files:
            try:
                text = file.read_text(encoding="utf-8-sig").strip()
            except UnicodeDecodeError as error:
                raise ValueError(f"path={self.path}: {file} is not UTF-8 (byte {error.start})") from error
            if text:
                yield text


@dataclass(frozen=True, eq=False)
class Haystack:
    """Token ids of texts, at least one, each with an empty line behind it."""

    texts: Sequence[Sequence[int]]

    def cut(self, first: int, tokens: int) -> list[int]:
        """So many ids from the start of text number `first` on; behind the last text the first comes again."""
        in_turn = (self.texts[(first + i) % len(self.texts)] for i in count())
        return list(islice(chain.from_iterable(in_turn), tokens))


def read_haystack(files: TextFiles | None, subject: Subject, tokens: int, texts: int) -> Haystack:
    """As many texts of the files as are needed for `tokens` tokens and `texts` beginnings; without files, of the
    subject's held-out documents, less their special tokens.

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
