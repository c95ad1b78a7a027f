"""`vllm serve` answers about documents over HTTP: a tiny model, and a language model of the library."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from transformers import AutoTokenizer

from beacon_lit import BeaconConfig, BeaconLM
from beacon_lit.demo import smollm2
from tests.vllm.served import ENVIRONMENT, Question, asked, compressing, saved, transfer

pytestmark = pytest.mark.vllm
ROOT = Path(__file__).parents[2]
PATIENCE = 400  # seconds that the server may need to start on a busy machine
COUNT = 16


@pytest.fixture(scope="module", params=["qwen2", "smollm2"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, BeaconLM]:
    """The folder of a backbone, a folder for caches, and our model."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "qwen2":
        return saved(folder / "backbone"), folder / "caches", compressing()
    config = BeaconConfig(window=256, eval_ratio=8, sink=4, overlap=64, placement="select", params=("k", "v"))
    return smollm2(), folder / "caches", BeaconLM.from_pretrained(smollm2(), config).eval()


@pytest.fixture(scope="module")
def questions(served: tuple[Path, Path, BeaconLM]) -> list[Question]:
    """A question about each of two texts, which end early in a window, so that the answer fits."""
    backbone, folder, lm = served
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    texts = {"licence": (ROOT / "LICENSE").read_text(), "readme": (ROOT / "README.md").read_text()}
    ids = tokenizer("\n\nWhat is a contributor? A contributor", add_special_tokens=False)["input_ids"]
    found = []
    for (name, text), windows in zip(texts.items(), (8, 5), strict=True):
        document = tokenizer(text)["input_ids"][: windows * lm.beacon.window + 10]
        found.append(asked(lm, folder, name, document, ids, COUNT))
    return found


@pytest.fixture(scope="module")
def client(served: tuple[Path, Path, BeaconLM], questions: list[Question]) -> Iterator[openai.OpenAI]:
    backbone, folder, _ = served
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [
        str(Path(sys.executable).with_name("vllm")), "serve", str(backbone), "--host", "127.0.0.1", "--port", port,
        "--served-model-name", "model", "--dtype", "float32", "--enforce-eager", "--gpu-memory-utilization", "0.1",
        "--max-model-len", "512", "--no-enable-prefix-caching", "--kv-transfer-config", json.dumps(transfer(folder)),
        "--middleware", "beacon_lit.vllm.refusals.Refusals",
    ]  # fmt: skip
    variables = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    with (folder / "log").open("w") as log, subprocess.Popen(command, env=variables, stdout=log, stderr=log) as server:
        try:
            client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
            _await(client, server, folder / "log")
            yield client
        finally:
            server.terminate()


def _await(client: openai.OpenAI, server: subprocess.Popen, log: Path) -> None:
    """Return when the server answers."""
    for _ in range(PATIENCE):
        try:
            client.models.list()
            return
        except openai.APIConnectionError:
            assert server.poll() is None, log.read_text()[-4000:]
            time.sleep(1)
    pytest.fail(f"the server did not start: {log.read_text()[-4000:]}")


def answer(client: openai.OpenAI, prompt: list[int], cache: str) -> list[int]:
    """The token ids of the answer."""
    extra: dict[str, Any] = {
        "kv_transfer_params": {"beacon_cache": cache},
        "return_token_ids": True,
        "ignore_eos": True,
    }
    out = client.completions.create(model="model", prompt=prompt, max_tokens=COUNT, temperature=0, extra_body=extra)
    return out.choices[0].model_extra["token_ids"]


def test_questions_sent_together_are_answered_as_by_our_model(client: openai.OpenAI, questions: list[Question]) -> None:
    assert questions[0].answer != questions[1].answer
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda question: answer(client, question.prompt, question.cache), questions * 2))
    assert found == [question.answer for question in questions * 2]


def test_refusals_reach_the_client(
    client: openai.OpenAI, served: tuple[Path, Path, BeaconLM], questions: list[Question]
) -> None:
    question = questions[0]
    for prompt, cache, message in (
        (question.prompt[1:], question.cache, f"begins with {question.slots - 1} times token 0"),
        (question.prompt, "missing", "cannot load the cache"),
    ):
        with pytest.raises(openai.BadRequestError, match=message):
            answer(client, prompt, cache)
    with pytest.raises(openai.InternalServerError):  # a text: only the connector knows its tokens
        answer(client, "a text", question.cache)  # type: ignore[arg-type]
    assert "allowed: one token" in (served[1] / "log").read_text()
    assert answer(client, question.prompt, question.cache) == question.answer
