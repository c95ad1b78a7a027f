"""Chats with a small model, and what they should have read and answered."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from beacon_lit import BeaconChat, BeaconConfig, BeaconLM
from tests.arch.tiny import tiny
from tests.chat.tokenizers import LINES, TEMPLATES, tokenizer

NEW = 6
GREEDY = {"max_new_tokens": NEW, "do_sample": False}
DOCUMENT = " ".join(LINES)
_models: dict[int, BeaconLM] = {}


def model(kind: str, **values: Any) -> BeaconLM:
    """A small model for a tokenizer's vocabulary."""
    size = len(tokenizer(kind))
    if values or size not in _models:
        beacon = BeaconConfig(window=16, ratios=4, sink=2, overlap=3, placement="interleave")
        options = {"vocab_size": size, "max_position_embeddings": 4096, "eos_token_id": None, **values}
        lm = tiny("llama", beacon, **options).double().eval()
        return lm if values else _models.setdefault(size, lm)
    return _models[size]


def chat_with(kind: str, template: str = "chatml", system: str | None = None) -> BeaconChat:
    return BeaconChat(model(kind), tokenizer(kind), system, chat_template=TEMPLATES.get(template))


def whole(chat: BeaconChat, messages: list[dict[str, str]], template: str, prompt: bool = False) -> list[int]:
    """All of a conversation, tokenised in one piece."""
    text = chat.tokenizer.apply_chat_template(
        messages, chat_template=TEMPLATES.get(template), tokenize=False, add_generation_prompt=prompt
    )
    return chat.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def check(chat: BeaconChat, template: str) -> None:
    """The cache has read the beginning of the conversation, however an open turn goes on."""
    messages = chat.messages
    continuations = [""]
    if messages and messages[-1]["role"] == "user":
        continuations = ["\n\nWho?", "\n\n\nWho?", "\n\n1", "\n\n...", "\n\nÉ\n\nsecond"]
    for continuation in continuations:
        opened = (
            [*messages[:-1], {**messages[-1], "content": messages[-1]["content"] + continuation}] if messages else []
        )
        assert chat.ids == (whole(chat, opened, template) if opened else [])[: len(chat.ids)]
    assert (chat.cache.seen_tokens if chat.cache else 0) == len(chat.ids)
    if chat.ids:
        anew = chat.lm.compress(torch.tensor([[*chat.ids, 5]]))
        further = chat.lm.compress(torch.tensor([[5]]), cache=chat.cache)
        assert further.rows[0].slots == anew.rows[0].slots and further.rows[0].open_ids == anew.rows[0].open_ids
        torch.testing.assert_close(further.last_hidden, anew.last_hidden, atol=1e-8, rtol=1e-8)


def answer_anew(chat: BeaconChat, question: str, template: str, **options: Any) -> str:
    """The answer of a model that reads the whole conversation at once."""
    messages = chat.messages
    documents = [messages.pop()["content"]] if messages and messages[-1]["role"] == "user" else []
    turn = {"role": "user", "content": "\n\n".join([*documents, question])}
    ids = torch.tensor([whole(chat, [*messages, turn], template, prompt=True)])
    eos = chat.tokenizer.eos_token_id
    out = chat.lm.generate(ids, eos_token_id=eos, pad_token_id=eos, **{**GREEDY, **options})[0, ids.shape[1] :].tolist()
    return chat.tokenizer.decode(out[:-1] if out[-1] == eos else out, skip_special_tokens=True)


class Says(LogitsProcessor):
    """Makes the model say given tokens."""

    def __init__(self, ids: list[int]) -> None:
        self.ids = iter(ids)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return torch.full_like(scores, -1e9).index_fill(1, torch.tensor([next(self.ids)]), 0.0)


def saying(chat: BeaconChat, text: str) -> dict[str, Any]:
    """Options under which the model answers `text`, as its tokenizer splits it, and ends."""
    ids = chat.tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = [*ids, chat.tokenizer.eos_token_id]
    return {"logits_processor": LogitsProcessorList([Says(ids)]), "max_new_tokens": len(ids), "do_sample": False}


def interrupt(after: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        nonlocal after
        after -= 1
        if after == 0:
            raise KeyboardInterrupt

    return progress
