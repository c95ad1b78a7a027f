"""Tell clients why a request is refused, where vLLM alone answers "Internal server error".

vllm serve ... --middleware beacon_lit.vllm.refusals.Refusals
"""

import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from beacon_lit.vllm.requests import check_prompt, find, served_by

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class Refusals:
    """ASGI middleware: answers what the connector would refuse with status 400 and the reason.

    The number of placeholders is checked in prompts of token ids; vLLM has yet to tokenize prompts of text.

    Args:
        app: vLLM's application.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._engine: tuple[Path, dict[str, Any]] | None = None  # the folder of caches, and the backbone

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self._app(scope, receive, send)
        messages = [await receive()]
        while messages[-1].get("more_body"):
            messages.append(await receive())
        body = b"".join(message.get("body", b"") for message in messages)
        if refusal := self._refusal(body, scope["app"].state.vllm_config):
            return await _answer(send, refusal)

        async def again() -> Message:
            return messages.pop(0) if messages else await receive()

        return await self._app(scope, again, send)

    def _refusal(self, body: bytes, vllm_config: Any) -> str:
        """Return why a request is refused, "" if it is not."""
        try:
            request = json.loads(body) if b"kv_transfer_params" in body else {}
            params = request.get("kv_transfer_params") if isinstance(request, dict) else None
        except ValueError:
            params = None  # vLLM says what is wrong
        if not isinstance(params, dict) or not params:
            return ""
        try:
            self._engine = self._engine or served_by(vllm_config)
            _, file = find(params, *self._engine)
            for ids in _prompts(request.get("prompt", request.get("token_ids"))):
                check_prompt(ids, file, request.get("prompt_logprobs"))
        except ValueError as error:
            return str(error)
        return ""


def _prompts(prompt: Any) -> Sequence[list[int]]:
    """Return the prompts that are lists of token ids: of one prompt or a list of prompts."""
    several = prompt if isinstance(prompt, list) and prompt and isinstance(prompt[0], list) else [prompt]
    return [ids for ids in several if isinstance(ids, list) and all(isinstance(token, int) for token in ids)]


async def _answer(send: Send, message: str) -> None:
    """Send an error in OpenAI's schema."""
    error = {"message": message, "type": "BadRequestError", "param": "kv_transfer_params", "code": 400}
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": body})
