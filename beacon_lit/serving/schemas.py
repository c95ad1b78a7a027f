"""The requests of OpenAI's API, as far as this server answers them. Fields that change nothing here are ignored."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from beacon_lit.serving.errors import ApiError

_MOST = 2**20  # tokens of an answer, so that whether it fits is known at once
# Fields that would change the answer, and the values of each that ask for nothing.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "best_of": (None, 1),
    "tools": (None, []),
    "functions": (None, []),
    "tool_choice": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
    "logprobs": (None, False, 0),
    "top_logprobs": (None, 0),
    "logit_bias": (None, {}),
    "echo": (None, False),
    "suffix": (None, ""),
    "audio": (None,),
    "modalities": (None, ["text"]),
}


def _whole(text: str) -> str:
    """Refuse half a character, which JSON can have, but no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"character {error.start} is half of a surrogate pair; allowed: whole ones") from error
    return text


Text = Annotated[str, AfterValidator(_whole)]


class TextPart(BaseModel):
    """Text in a message."""

    type: Literal["text"]
    text: Text


class FileName(BaseModel):
    """The id of an uploaded document."""

    file_id: str


class FilePart(BaseModel):
    """A document in a message, named by the id that its upload returned."""

    type: Literal["file"]
    file: FileName


Part = Annotated[TextPart | FilePart, Field(discriminator="type")]


class ChatMessage(BaseModel):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[Part]


class StreamOptions(BaseModel):
    """What a stream contains besides the answer."""

    include_usage: bool = False


class Options(BaseModel):
    """What requests for chats and for plain completions share."""

    model_config = ConfigDict(extra="allow")
    text_field: ClassVar[str]

    model: str
    max_tokens: int | None = Field(None, ge=1, le=_MOST)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    presence_penalty: float = Field(0, ge=-2, le=2)
    frequency_penalty: float = Field(0, ge=-2, le=2)
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None

    @property
    def limit(self) -> int | None:
        """Most tokens of the answer; None: the server's default."""
        return self.max_tokens

    @property
    def limit_field(self) -> str:
        """Name of the field that `limit` comes from."""
        return "max_tokens"

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end the answer."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(text for text in given if text)

    @property
    def shows_usage(self) -> bool:
        """Whether a stream ends with the numbers of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    @model_validator(mode="after")
    def _refuse_unsupported(self) -> "Options":
        for name, allowed in _UNSUPPORTED.items():
            value = (self.model_extra or {}).get(name)
            if value not in allowed:
                raise ApiError(400, f"{name} is not supported; allowed: to leave it out", param=name)
        return self


class ChatRequest(Options):
    """The body of POST /v1/chat/completions."""

    text_field = "messages"

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, le=_MOST)

    @property
    def limit(self) -> int | None:
        """See `Options.limit`."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def limit_field(self) -> str:
        """See `Options.limit_field`."""
        return "max_completion_tokens" if self.max_completion_tokens else "max_tokens"


class CompletionRequest(Options):
    """The body of POST /v1/completions."""

    text_field = "prompt"

    prompt: Text | Annotated[list[int], Field(min_length=1)]
