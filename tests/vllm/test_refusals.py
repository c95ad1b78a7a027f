"""The middleware answers what the connector would refuse, and hands everything else to vLLM unchanged."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from transformers import AutoConfig

from beacon_lit.vllm import save_for_vllm
from beacon_lit.vllm.refusals import Refusals
from tests.arch.caches import model
from tests.arch.tiny import tokens


@pytest.fixture
def client(tmp_path: Path) -> httpx.AsyncClient:
    """A client of an application that answers with the request's body, with a cache of 3 tokens named book."""
    lm = model()
    lm.save_backbone(tmp_path / "backbone")
    save_for_vllm(lm.compress(tokens(1, 3)), tmp_path / "caches" / "book")
    vllm_config = SimpleNamespace(
        model_config=SimpleNamespace(
            hf_text_config=AutoConfig.from_pretrained(tmp_path / "backbone"),
            model=str(tmp_path / "backbone"),
            revision=None,
        ),
        kv_transfer_config=SimpleNamespace(get_from_extra_config=lambda name, default: str(tmp_path / "caches")),
    )

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await Refusals(echo)(
            scope | {"app": SimpleNamespace(state=SimpleNamespace(vllm_config=vllm_config))}, receive, send
        )

    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://vllm")


async def posted(client: httpx.AsyncClient, **body: Any) -> httpx.Response:
    return await client.post("/v1/completions", json=body)


def run(coroutine: Any) -> Any:
    import asyncio

    return asyncio.run(coroutine)


BOOK = {"beacon_cache": "book"}


@pytest.mark.parametrize(
    "body, message",
    [
        ({"prompt": [0, 0, 5], "kv_transfer_params": BOOK}, "begins with 2 times token 0; allowed: one token 3 times"),
        ({"prompt": [[0, 0, 0, 5], [0, 0, 5]], "kv_transfer_params": BOOK}, "begins with 2 times"),
        ({"token_ids": [0, 0, 5], "kv_transfer_params": BOOK}, "begins with 2 times"),
        ({"prompt": [0, 0, 0, 5], "prompt_logprobs": 1, "kv_transfer_params": BOOK}, "prompt_logprobs=1"),
        ({"prompt": "text", "kv_transfer_params": {"beacon_cache": "none"}}, "cannot load the cache"),
        ({"messages": [], "kv_transfer_params": {"beacon_cache": "../backbone/config.json"}}, "outside"),
    ],
)
def test_what_is_wrong_is_said(client: httpx.AsyncClient, body: dict[str, Any], message: str) -> None:
    response = run(posted(client, **body))
    assert response.status_code == 400
    assert message in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": [0, 0, 0, 5], "kv_transfer_params": BOOK},
        {"prompt": [[0, 0, 0, 5], [1, 1, 1, 2]], "kv_transfer_params": BOOK},
        {"prompt": "a text, which vLLM tokenizes", "kv_transfer_params": BOOK},
        {"prompt": "a text", "kv_transfer_params": None},
        {"prompt": "kv_transfer_params"},
        ["kv_transfer_params"],
    ],
)
def test_all_else_goes_on_to_vllm(client: httpx.AsyncClient, body: Any) -> None:
    response = run(client.post("/v1/completions", json=body))
    assert response.status_code == 200 and response.json() == body


def test_a_body_in_pieces_and_one_that_is_not_json(client: httpx.AsyncClient) -> None:
    async def pieces() -> Any:
        for piece in (b'{"prompt": [0, 0, 5], "kv_transfer', b'_params": {"beacon_cache": "book"}}'):
            yield piece

    assert run(client.post("/v1/completions", content=pieces())).status_code == 400
    response = run(client.post("/v1/completions", content=b'{"kv_transfer_params": '))
    assert response.status_code == 200 and response.content == b'{"kv_transfer_params": '
    assert run(client.get("/health")).status_code == 200
    assert json.loads(run(posted(client, prompt="hello")).content) == {"prompt": "hello"}
