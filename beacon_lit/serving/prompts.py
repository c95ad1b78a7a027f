"""Write the text of a prompt: the messages of a chat through the chat template, or plain text."""

from collections.abc import Sequence
from dataclasses import dataclass

from beacon_lit.chat.template import Message
from beacon_lit.data.encoding import start_ids
from beacon_lit.serving.errors import ApiError
from beacon_lit.serving.schemas import ChatMessage, FilePart, TextPart
from beacon_lit.serving.service import SEPARATOR, Service

_LONG = 256  # characters of a system message from which it is worth a cache of its own


@dataclass(frozen=True)
class Prompt:
    """What the model is to read.

    Attributes:
        text: the text.
        start: token ids before the text.
        ids: token ids in place of a text.
        beginnings: parts of the text, each from its start, that other prompts are likely to share.
        files: ids of the documents in it.
        end: the id of a token that ends the answer, besides those of the model's own.
    """

    text: str = ""
    start: tuple[int, ...] = ()
    ids: tuple[int, ...] = ()
    beginnings: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    end: int | None = None


def chat_prompt(service: Service, messages: Sequence[ChatMessage]) -> Prompt:
    """Write a conversation. In each turn the documents come first, whatever the order of its parts.

    Raises:
        ApiError: 404, a document that does not exist; 400, messages that the chat template refuses.
    """
    turns: list[Message] = []
    beginnings, files = [], []
    try:
        for message in messages:
            documents, said = _parts(service, message)
            if documents:
                opened = SEPARATOR.join([*documents, ""])
                beginnings.append(service.template.render_open(service.tokenizer, turns, opened))
                files += _names(message)
            turns.append({"role": _role(message), "content": SEPARATOR.join([*documents, *said])})
            if message.role in ("system", "developer") and len(turns[-1]["content"]) > _LONG:
                beginnings.append(service.template.render_open(service.tokenizer, turns, ""))
        text = service.template.render(service.tokenizer, turns, prompt=True)
    except ValueError as error:
        raise ApiError(400, str(error), param="messages") from error
    return Prompt(text, beginnings=tuple(beginnings), files=tuple(files), end=service.end_of_turn)


def plain_prompt(service: Service, prompt: str | Sequence[int]) -> Prompt:
    """Take a text as it is, behind the ids that stand before every text of the tokenizer; or token ids as they are.

    Raises:
        ApiError: 400, ids that are outside the vocabulary.
    """
    if isinstance(prompt, str):
        return Prompt(prompt, start=tuple(start_ids(service.tokenizer)))
    size = service.lm.config.vocab_size
    if not all(0 <= id < size for id in prompt):
        raise ApiError(400, f"prompt has ids outside the vocabulary; allowed: 0 to {size - 1}", param="prompt")
    return Prompt(ids=tuple(prompt))


def _parts(service: Service, message: ChatMessage) -> tuple[list[str], list[str]]:
    """Return the texts of a message's documents, and what it says besides."""
    if isinstance(message.content, str):
        return [], [message.content]
    said = [part.text for part in message.content if isinstance(part, TextPart)]
    return [service.documents.text(name) for name in _names(message)], said


def _names(message: ChatMessage) -> list[str]:
    parts = [] if isinstance(message.content, str) else message.content
    return [part.file.file_id for part in parts if isinstance(part, FilePart)]


def _role(message: ChatMessage) -> str:
    return "system" if message.role == "developer" else message.role
