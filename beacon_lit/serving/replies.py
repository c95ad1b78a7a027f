"""The responses of OpenAI's API."""

import secrets
from dataclasses import dataclass, field
from typing import Any

from beacon_lit.serving.documents import Document, now
from beacon_lit.serving.inbox import Ended, Started


@dataclass(frozen=True)
class Reply:
    """The parts of the response to one question that stay the same while it is written.

    Attributes:
        model: the model's name.
        chat: whether messages or plain text were asked for.
        id, created: of the answer.
    """

    model: str
    chat: bool
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=now)

    def whole(self, text: str, started: Started, ended: Ended) -> dict[str, Any]:
        """Return the response with the whole answer."""
        said: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": ended.reason}
        return self._body([choice], "") | {"usage": usage(started, ended)}

    def opening(self) -> list[dict[str, Any]]:
        """Return what a stream starts with."""
        return [self._piece({"role": "assistant", "content": ""})] if self.chat else []

    def piece(self, text: str) -> dict[str, Any]:
        """Return one piece of a stream."""
        return self._piece({"content": text} if self.chat else {"text": text})

    def closing(self, ended: Ended) -> dict[str, Any]:
        """Return the piece with the reason why the answer ends."""
        return self._piece({} if self.chat else {"text": ""}, ended.reason)

    def counted(self, started: Started, ended: Ended) -> dict[str, Any]:
        """Return the piece with the numbers of tokens."""
        return self._body([], ".chunk") | {"usage": usage(started, ended)}

    def _piece(self, said: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        said = {"delta": said} if self.chat else said
        return self._body([{"index": 0, **said, "logprobs": None, "finish_reason": reason}], ".chunk")

    def _body(self, choices: list[dict[str, Any]], kind: str) -> dict[str, Any]:
        prefix, name = ("chatcmpl", f"chat.completion{kind}") if self.chat else ("cmpl", "text_completion")
        about = {"id": f"{prefix}-{self.id}", "object": name, "created": self.created, "model": self.model}
        return {**about, "choices": choices}


def usage(started: Started, ended: Ended) -> dict[str, Any]:
    """Return the numbers of tokens; cached ones were read for earlier requests."""
    return {
        "prompt_tokens": started.prompt,
        "completion_tokens": ended.tokens,
        "total_tokens": started.prompt + ended.tokens,
        "prompt_tokens_details": {"cached_tokens": started.known},
    }


def file_body(document: Document) -> dict[str, Any]:
    """Return a document as OpenAI's file object, with the counts of its cache."""
    about = {name: getattr(document, name) for name in ("id", "filename", "purpose", "bytes", "created_at")}
    counts = {name: getattr(document, name) for name in ("tokens", "slots", "cache_bytes", "dense_bytes")}
    return {**about, "object": "file", "status": "processed", "beacon": counts}


def progress_body(read: int, tokens: int) -> dict[str, Any]:
    """Return how far a document has been read."""
    return {"object": "file.progress", "read": read, "tokens": tokens}


def model_body(name: str, created: int) -> dict[str, Any]:
    """Return a model as OpenAI's model object."""
    return {"id": name, "object": "model", "created": created, "owned_by": "beacon_lit"}


def listed(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a list as OpenAI's list object."""
    ends = {"first_id": entries[0]["id"], "last_id": entries[-1]["id"]} if entries else {}
    return {"object": "list", "data": entries, "has_more": False, **ends}
