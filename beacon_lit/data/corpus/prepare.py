"""Prepares a corpus: raw sources -> pieces of exact lengths, in shards that training reads without tokenising."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from beacon_lit.data.corpus.amounts import piece_lengths, shard_bounds
from beacon_lit.data.corpus.corpus import Corpus
from beacon_lit.data.corpus.manifest import MANIFEST, check_shortage, claim, make_manifest
from beacon_lit.data.corpus.shards import Shard, find_shard, write_json, write_shard
from beacon_lit.data.corpus.token_stream import TokenPosition, TokenStream
from beacon_lit.data.corpus.tokenizer_pool import DocumentTokenizer, TokenizerPool
from beacon_lit.files import remove_partials

SHARDS = "shards"
Advance = Callable[[int], None]  # called with a number of tokens


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
            remove_partials(folder)
            claim(folder, settings)
            for left_over in shards.glob(".*.tmp"):
                shutil.rmtree(left_over)
            made = {
                name: _prepare_source(corpus, name, needed, pool, shards, advance)
                for name, needed in corpus.needed().items()
            }
            manifest = make_manifest(corpus, settings, made)
            check_shortage(corpus, manifest)
            write_json(folder / MANIFEST, manifest)
    except Timeout as error:
        raise ValueError(f"output={str(folder)!r}: another process writes to this folder") from error
    return manifest


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
            fitting = (stream.take(each) for each in rest if stream.available >= each)
            return pieces + [last for last in fitting if last is not None], True
        pieces.append(piece)
    return pieces, False
