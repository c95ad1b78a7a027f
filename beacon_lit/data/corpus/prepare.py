"""A corpus: raw sources -> pieces of given lengths, in shards of tokens that training reads as they are."""

import json
import logging
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from beacon_lit.data.corpus.amounts import allot, parse_amounts, parse_mixture, piece_lengths, shard_bounds
from beacon_lit.data.corpus.encoders import Encoder, Encoders
from beacon_lit.data.corpus.shards import Shard, find_shard, write_json, write_shard
from beacon_lit.data.corpus.stream import Position, TokenStream
from beacon_lit.data.records import Source, Tolerance
from beacon_lit.data.sample import check_int
from beacon_lit.data.tokenize import tokenizer_key

MANIFEST = "manifest.json"
SHARDS = "shards"
SHORTAGE = ("error", "warn")
Advance = Callable[[int], None]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Corpus:
    """What a corpus is made of.

    sources: by name, a folder's name; documents must be text, or tokens all of which are trained
    amounts: tokens by length of the pieces, such as "8192:500M 20480:500M"; of each, the fewest pieces that hold them
    mixture: share of each source in per cent, kept to less than one piece for every length; None = as much of each
    bos, eos: whether every document begins and ends with these
    shard_tokens: most tokens of a shard, unless a single piece has more
    shortage: a source that has too little is an "error", after all that there is was written; or "warn"
    seed: of the order of the lengths
    tolerance: for bad records

    A source's documents are put one behind the other and cut into pieces; a piece never holds text of two sources.

    Raises ValueError: a setting out of range.
    """

    sources: Mapping[str, Source]
    amounts: str
    mixture: Mapping[str, float] | None = None
    bos: bool = False
    eos: bool = True
    shard_tokens: int = 2**24
    shortage: str = "error"
    seed: int = 0
    tolerance: Tolerance = field(default_factory=Tolerance)

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources is empty; it must name at least one source")
        if bad := [name for name in self.sources if not re.fullmatch(r"\w[\w.-]*", str(name))]:
            raise ValueError(f"sources: {bad[0]!r} must be a name of letters, digits, dots, dashes and underscores")
        for name, source in self.sources.items():
            for setting, instead in (("limit", "amounts"), ("weight", "mixture")):
                if (value := getattr(source, setting)) is not None:
                    raise ValueError(f"sources.{name}: {setting}={value} means nothing here; {instead} says how much")
        if self.shortage not in SHORTAGE:
            raise ValueError(f"shortage={self.shortage!r} must be one of {', '.join(SHORTAGE)}")
        check_int("shard_tokens", self.shard_tokens, 1)
        check_int("seed", self.seed, 0)
        self.needed()

    def needed(self) -> dict[str, dict[int, int]]:
        """Pieces by source and length."""
        return allot(parse_amounts(self.amounts), parse_mixture(list(self.sources), self.mixture))

    @property
    def tokens(self) -> int:
        """Tokens of all pieces."""
        return sum(length * count for pieces in self.needed().values() for length, count in pieces.items())

    def settings(self, tokenizer: Any) -> dict[str, Any]:
        """What the shards depend on, JSON-able."""
        names = ("amounts", "mixture", "bos", "eos", "shard_tokens", "seed")
        settings = {name: getattr(self, name) for name in names}
        settings["mixture"] = None if self.mixture is None else dict(self.mixture)
        settings |= {f"sources.{name}": source.key() for name, source in self.sources.items()}
        settings["tokenizer"] = tokenizer_key(tokenizer)
        return json.loads(json.dumps(settings))


def prepare_corpus(
    corpus: Corpus, tokenizer: Any, folder: Path, workers: int = 1, advance: Advance = lambda tokens: None
) -> dict[str, Any]:
    """Write a corpus: `folder/shards/*`, each a folder for `datasets.load_from_disk`, and `folder/manifest.json`.

    What is there already is kept, so that an interrupted run goes on; the files are the same whether it was
    interrupted or not, and for any number of workers.

    workers: processes that tokenise
    advance: told how many tokens were added, for a progress bar
    Returns the manifest: settings, counts by source, and every shard with its checksums.
    Raises ValueError: another corpus in the folder, a process at work there, too little text (`shortage="error"`), and
    what sources raise.
    """
    encoder = Encoder(tokenizer, corpus.bos, corpus.eos)
    settings = corpus.settings(tokenizer)
    shards = folder / SHARDS
    shards.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0), Encoders(encoder, workers) as encoders:
            _claim(folder, settings)
            for left_over in shards.glob(".*.tmp"):
                shutil.rmtree(left_over)
            made = {
                name: _prepare_source(corpus, name, needed, encoders, shards, advance)
                for name, needed in corpus.needed().items()
            }
            manifest = _manifest(corpus, settings, made)
            _check_shortage(corpus, manifest)
            write_json(folder / MANIFEST, manifest)
    except Timeout as error:
        raise ValueError(f"output={str(folder)!r}: another process is writing there") from error
    return manifest


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """Leave the settings in a new folder; make sure that those of an old one are the same."""
    file = folder / MANIFEST
    if not file.is_file():
        write_json(file, {"complete": False, "settings": settings})
        return
    found = json.loads(file.read_text())["settings"]
    names = sorted(name for name in {*found, *settings} if found.get(name) != settings.get(name))
    if names:
        raise ValueError(
            f"output={str(folder)!r} holds another corpus: {names[0]} is {settings.get(names[0])!r} here and "
            f"{found.get(names[0])!r} there. Take another folder, or delete it"
        )


def _prepare_source(
    corpus: Corpus, name: str, needed: Mapping[int, int], encoders: Encoders, folder: Path, advance: Advance
) -> tuple[list[Shard], Position]:
    """A source's shards, and where in the source they end."""
    lengths = piece_lengths(needed, corpus.seed, name)
    found: list[Shard] = []
    position, stream = Position(), None
    for number, (first, last) in enumerate(shard_bounds(lengths, corpus.shard_tokens)):
        shard = find_shard(folder, f"{name}-{number:05d}")
        if shard is not None:
            stream = None  # it would have to pass what this shard holds
        else:
            if stream is None:
                documents = encoders.documents(corpus.sources[name], corpus.tolerance, skip=position.documents)
                stream = TokenStream(documents, position)
            pieces, exhausted = _pieces(stream, lengths[first:last], lengths[last:])
            if pieces:
                shard = write_shard(folder, f"{name}-{number:05d}", name, pieces, stream.position, exhausted)
            if exhausted and shard is None:
                return found, stream.position
        assert shard is not None
        advance(shard.tokens)
        found.append(shard)
        position = shard.end
        if shard.exhausted:
            break
    return found, position


def _pieces(stream: TokenStream, lengths: np.ndarray, later: np.ndarray) -> tuple[list[np.ndarray], bool]:
    """Pieces of these lengths. If the source ends among them: of those of all lengths to come that it still fills."""
    pieces: list[np.ndarray] = []
    for i, length in enumerate(lengths.tolist()):
        piece = stream.take(length)
        if piece is None:
            rest = [*lengths[i:].tolist(), *later.tolist()]
            return pieces + [taken for each in rest if (taken := _take_if_there(stream, each)) is not None], True
        pieces.append(piece)
    return pieces, False


def _take_if_there(stream: TokenStream, length: int) -> np.ndarray | None:
    return stream.take(length) if stream.available >= length else None


def _manifest(
    corpus: Corpus, settings: dict[str, Any], made: Mapping[str, tuple[list[Shard], Position]]
) -> dict[str, Any]:
    sources, shards = {}, []
    for name, needed in corpus.needed().items():
        found, end = made[name]
        pieces: Counter[int] = Counter()
        for shard in found:
            pieces.update({int(length): count for length, count in shard.pieces.items()})
            shards.append({"name": shard.name, "tokens": shard.tokens, "pieces": shard.pieces, "files": shard.files})
        sources[name] = {
            "tokens": sum(shard.tokens for shard in found),
            "documents": sum(end.lengths.values()),
            "pieces": {str(length): pieces[length] for length in needed},
            "missing_tokens": {str(n): (needed[n] - pieces[n]) * n for n in needed if needed[n] > pieces[n]},
            "left_over_tokens": end.rest,
            "bad_records": dict(end.bad),
            "document_lengths": dict(end.lengths),
        }
    return {"complete": True, "settings": settings, "sources": sources, "shards": shards}


def _check_shortage(corpus: Corpus, manifest: Mapping[str, Any]) -> None:
    missing = [
        f"{name} lacks {tokens:,} tokens in pieces of {int(length):,}"
        for name, source in manifest["sources"].items()
        for length, tokens in source["missing_tokens"].items()
    ]
    if missing and corpus.shortage == "error":
        raise ValueError(f"too little text: {'; '.join(missing)}. shortage=warn does with what there is")
    for message in missing:
        log.warning(f"too little text: {message}")
