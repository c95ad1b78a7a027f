"""Prepares a corpus: raw sources -> pieces of exact lengths, in shards that training reads without tokenising."""

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

from beacon_lit.data.checks import check_int
from beacon_lit.data.corpus.amounts import allot, parse_amounts, parse_mixture, piece_lengths, shard_bounds
from beacon_lit.data.corpus.shards import Shard, find_shard, write_json, write_shard
from beacon_lit.data.corpus.token_stream import TokenPosition, TokenStream
from beacon_lit.data.corpus.tokenizer_pool import DocumentTokenizer, TokenizerPool
from beacon_lit.data.records import Source, Tolerance
from beacon_lit.data.tokenize import tokenizer_key

MANIFEST = "manifest.json"
SHARDS = "shards"
SHORTAGE = ("error", "warn")
Advance = Callable[[int], None]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Corpus:
    """Settings of a corpus.

    The documents of a source are put one behind the other and cut into pieces; no piece has text of two sources.

    Args:
        sources: by name, which becomes part of the shards' names; documents must be text, or tokens that are all
            trained.
        amounts: tokens by length of the pieces, such as "8192:500M 20480:500M"; rounded up to whole pieces.
        mixture: share of each source in per cent, exact to less than one piece for every length; None = equal shares.
        bos, eos: whether every document begins and ends with the tokenizer's token of this name.
        shard_tokens: most tokens of a shard, unless a single piece has more.
        shortage: what a source with too little text is: "error" (after all its text was written) or "warn".
        seed: of the order of the lengths.
        tolerance: how many malformed records are skipped.

    Raises:
        ValueError: a setting is out of range.
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
        if wrong := [name for name in self.sources if not re.fullmatch(r"\w[\w.-]*", str(name))]:
            raise ValueError(f"sources: {wrong[0]!r} must be a name of letters, digits, dots, dashes and underscores")
        for name, source in self.sources.items():
            for setting, instead in (("limit", "amounts"), ("weight", "mixture")):
                if (value := getattr(source, setting)) is not None:
                    raise ValueError(
                        f"sources.{name}: {setting}={value} must be null in a corpus; set {instead} instead"
                    )
        if self.shortage not in SHORTAGE:
            raise ValueError(f"shortage={self.shortage!r} must be one of {', '.join(SHORTAGE)}")
        check_int("shard_tokens", self.shard_tokens, 1)
        check_int("seed", self.seed, 0)
        self.needed()

    def needed(self) -> dict[str, dict[int, int]]:
        """Return the number of pieces by source and length."""
        return allot(parse_amounts(self.amounts), parse_mixture(list(self.sources), self.mixture))

    @property
    def tokens(self) -> int:
        """Tokens of all pieces."""
        return sum(length * count for pieces in self.needed().values() for length, count in pieces.items())

    def settings(self, tokenizer: Any) -> dict[str, Any]:
        """Return all that the shards depend on, JSON-able."""
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

    Shards that exist are kept, so that an interrupted run continues; the files are the same for any interruption and
    any number of workers.

    Args:
        corpus: the settings.
        tokenizer: a Hugging Face tokenizer.
        folder: where the corpus is written.
        workers: processes that tokenise.
        advance: called with the number of tokens that were added, for a progress bar.

    Returns:
        The manifest: settings, counts by source, and every shard with its checksums.

    Raises:
        ValueError: the folder has another corpus, another process writes to it, there is too little text
            (`shortage="error"`), or a source cannot be read.
    """
    documents = DocumentTokenizer(tokenizer, corpus.bos, corpus.eos)
    settings = corpus.settings(tokenizer)
    shards = folder / SHARDS
    shards.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0), TokenizerPool(documents, workers) as pool:
            _claim(folder, settings)
            for left_over in shards.glob(".*.tmp"):
                shutil.rmtree(left_over)
            made = {
                name: _prepare_source(corpus, name, needed, pool, shards, advance)
                for name, needed in corpus.needed().items()
            }
            manifest = _manifest(corpus, settings, made)
            _check_shortage(corpus, manifest)
            write_json(folder / MANIFEST, manifest)
    except Timeout as error:
        raise ValueError(f"output={str(folder)!r}: another process writes to this folder") from error
    return manifest


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """Write the settings into a new folder, or raise a ValueError if the folder has other settings."""
    file = folder / MANIFEST
    if not file.is_file():
        write_json(file, {"complete": False, "settings": settings})
        return
    found = json.loads(file.read_text())["settings"]
    names = sorted(name for name in {*found, *settings} if found.get(name) != settings.get(name))
    if names:
        raise ValueError(
            f"output={str(folder)!r} holds another corpus: {names[0]} is {settings.get(names[0])!r} now and was "
            f"{found.get(names[0])!r}; allowed: a new folder, or the same settings"
        )


def _prepare_source(
    corpus: Corpus, name: str, needed: Mapping[int, int], pool: TokenizerPool, folder: Path, advance: Advance
) -> tuple[list[Shard], TokenPosition]:
    """Write a source's shards, or find them in the folder; return the shards and the source's position behind them."""
    lengths = piece_lengths(needed, corpus.seed, name)
    found: list[Shard] = []
    position, stream = TokenPosition(), None
    for number, (first, last) in enumerate(shard_bounds(lengths, corpus.shard_tokens)):
        shard = find_shard(folder, f"{name}-{number:05d}")
        if shard is not None:
            stream = None  # behind this shard, a new stream is needed
        else:
            if stream is None:
                documents = pool.documents(corpus.sources[name], corpus.tolerance, skip=position.documents)
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
    """Cut pieces of these lengths; return them, and whether the source has ended.

    Where the source ends, its last tokens fill the first pieces that still fit, `later` ones included.
    """
    pieces: list[np.ndarray] = []
    for i, length in enumerate(lengths.tolist()):
        piece = stream.take(length)
        if piece is None:
            rest = [*lengths[i:].tolist(), *later.tolist()]
            return pieces + [last for each in rest if (last := _take_available(stream, each)) is not None], True
        pieces.append(piece)
    return pieces, False


def _take_available(stream: TokenStream, length: int) -> np.ndarray | None:
    return stream.take(length) if stream.available >= length else None


def _manifest(
    corpus: Corpus, settings: dict[str, Any], made: Mapping[str, tuple[list[Shard], TokenPosition]]
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
        raise ValueError(f"too little text: {'; '.join(missing)}; shortage=warn uses the text that there is")
    for message in missing:
        log.warning(f"too little text: {message}")
