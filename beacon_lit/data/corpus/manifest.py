"""The manifest of a corpus: settings, counts and checksums."""

import json
import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from beacon_lit.data.corpus.corpus import Corpus
from beacon_lit.data.corpus.shards import Shard, write_json
from beacon_lit.data.corpus.token_stream import TokenPosition

MANIFEST = "manifest.json"

log = logging.getLogger(__name__)


def claim(folder: Path, settings: dict[str, Any]) -> None:
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


def make_manifest(
    corpus: Corpus, settings: dict[str, Any], made: Mapping[str, tuple[list[Shard], TokenPosition]]
) -> dict[str, Any]:
    """Summarise a corpus: settings, counts by source, and every shard with its checksums.

    Args:
        corpus: the settings of the corpus.
        settings: all that the shards depend on.
        made: the shards of each source, and the source's position behind them.
    """
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


def check_shortage(corpus: Corpus, manifest: Mapping[str, Any]) -> None:
    """Raise a ValueError, or log a warning, if a source has too little text."""
    missing = [
        f"{name} lacks {tokens:,} tokens in pieces of {int(length):,}"
        for name, source in manifest["sources"].items()
        for length, tokens in source["missing_tokens"].items()
    ]
    if missing and corpus.shortage == "error":
        raise ValueError(f"too little text: {'; '.join(missing)}; shortage=warn uses the text that there is")
    for message in missing:
        log.warning(f"too little text: {message}")
