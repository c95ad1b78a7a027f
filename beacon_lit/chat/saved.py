"""A chat in a folder: `chat.json` with the conversation, and one file per cache."""

import json
import secrets
from pathlib import Path
from typing import Any

from beacon_lit.arch import BeaconCache, check_cache
from beacon_lit.chat.reading import Mark, Reading
from beacon_lit.files import write_text
from beacon_lit.tokenizer_state import vocabulary_hash

CHAT_FILE = "chat.json"
_FORMAT = 1
_FIELDS = {
    "messages": list, "documents": list, "template": dict, "ids": list, "ratios": list, "marks": list, "tokenizer": dict
}  # fmt: skip
_PROBE = "Ünïcode, 1234  two spaces\n\n\ttabs? don't... 你好 🙂 CamelCase"


def save(folder: Path, chat: dict[str, Any], reading: Reading, tokenizer: Any) -> None:
    """Write a chat. `chat.json` is replaced last, in one step, so that the folder always holds a complete chat.

    Raises:
        ValueError: the folder has other contents.
    """
    file = folder / CHAT_FILE
    check_target(folder)
    folder.mkdir(parents=True, exist_ok=True)
    marks = []
    for mark in reading.marks:
        name = f"cache-{mark.tokens}-{secrets.token_hex(4)}.safetensors"
        mark.cache.save(folder / name)
        marks.append({"file": name, "tokens": mark.tokens, "document": mark.document})
    held = {**chat, "ids": reading.ids, "ratios": reading.ratios, "marks": marks}
    values = {"format": _FORMAT, "tokenizer": _tokenizer(tokenizer), **held}
    write_text(file, json.dumps(values))
    for old in folder.glob("cache-*.safetensors"):
        if old.name not in {mark["file"] for mark in marks}:
            old.unlink()


def check_target(folder: Path) -> None:
    """Raise a ValueError unless the folder is new, empty, or that of a saved chat."""
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / CHAT_FILE).is_file())):
        raise ValueError(f"{folder} holds something other than a chat; allowed: a new folder, or a saved chat's")


def check_source(folder: Path) -> None:
    """Raise a ValueError unless the folder holds a saved chat."""
    if not (folder / CHAT_FILE).is_file():
        raise ValueError(
            f"{folder} holds no saved chat; allowed: a folder with {CHAT_FILE}, written by BeaconChat.save"
        )


def load(folder: Path, lm: Any, tokenizer: Any) -> tuple[dict[str, Any], Reading]:
    """Read what `save` wrote: the chat, and its reading, on the model's device.

    Raises:
        ValueError: see `BeaconChat.load`.
    """
    check_source(folder)
    found = _parse(folder / CHAT_FILE)
    for part, value in _tokenizer(tokenizer).items():
        if found["tokenizer"].get(part) != value:
            raise ValueError(f"the chat in {folder} has another tokenizer: the {part} differs")
    marks = []
    for mark in found["marks"]:
        path = folder / mark["file"]
        cache = BeaconCache.load(path, lm.device).to(lm.dtype)
        check_cache(cache, lm)
        if cache.seen_tokens != mark["tokens"]:
            raise ValueError(f"{path} has read {cache.seen_tokens} tokens, not the {mark['tokens']} of {CHAT_FILE}")
        marks.append(Mark(mark["tokens"], cache, mark["document"]))
    return found, Reading(found["ids"], tuple(marks), tuple(found["ratios"]))


def _parse(file: Path) -> dict[str, Any]:
    """Read `chat.json`, or raise a ValueError if the file is damaged."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    version = found.get("format") if isinstance(found, dict) else None
    if version != _FORMAT:
        raise ValueError(f"{file} has format={version!r}; allowed: {_FORMAT}")
    for name, kind in _FIELDS.items():
        if not isinstance(found.get(name), kind):
            raise ValueError(f"{file} is damaged: {name} is {str(found.get(name))[:80]}")
    read = found["marks"][-1]["tokens"] if found["marks"] else 0
    if len(found["ids"]) != read:
        raise ValueError(f"{file} is damaged: it has {len(found['ids'])} ids for the {read} tokens read")
    return found


def _tokenizer(tokenizer: Any) -> dict[str, Any]:
    return {
        "vocabulary": vocabulary_hash(tokenizer),
        "splitting of a probe": tokenizer(_PROBE, add_special_tokens=False, verbose=False)["input_ids"],
    }
