from types import SimpleNamespace

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from beacon_lit.data.conversation import tokenize_conversation
from beacon_lit.data.rendering import template_name
from beacon_lit.data.templates import TEMPLATES, with_template
from tests.data import families

SYSTEM = [{"role": "system", "content": "Be brief. "}]
CHAT = [
    {"role": "user", "content": " Hi there\n"},
    {"role": "assistant", "content": "All fine "},
    {"role": "user", "content": "And you?"},
    {"role": "assistant", "content": "Fine too!"},
]
# The text by hand, with what is trained between brackets.
BY_HAND = {
    "chatml": (
        families.chatml,
        "<|im_start|>system\nBe brief. <|im_end|>\n",
        "<|im_start|>user\n Hi there\n<|im_end|>\n<|im_start|>assistant\n⟦All fine <|im_end|>⟧\n"
        "<|im_start|>user\nAnd you?<|im_end|>\n<|im_start|>assistant\n⟦Fine too!<|im_end|>⟧\n",
    ),
    "llama-3": (
        families.llama_3,
        "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>",
        "<|start_header_id|>user<|end_header_id|>\n\nHi there<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n⟦All fine<|eot_id|>⟧"
        "<|start_header_id|>user<|end_header_id|>\n\nAnd you?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n⟦Fine too!<|eot_id|>⟧",
    ),
    "llama-2": (
        families.llama_2,
        "<<SYS>>\nBe brief.\n<</SYS>>\n\n",
        "[INST] Hi there [/INST]⟦ All fine </s>⟧<s>[INST] And you? [/INST]⟦ Fine too! </s>⟧",
    ),
    "mistral": (
        families.llama_2,
        "Be brief.\n\n",
        "[INST] Hi there [/INST]⟦ All fine</s>⟧[INST] And you? [/INST]⟦ Fine too!</s>⟧",
    ),
    "vicuna": (
        families.llama_2,
        "Be brief. ",
        "USER: Hi there ASSISTANT:⟦ All fine</s>⟧USER: And you? ASSISTANT:⟦ Fine too!</s>⟧",
    ),
    "plain": (families.llama_2, "Be brief.\n\n", "Hi there⟦ All fine</s>⟧\nAnd you?⟦ Fine too!</s>⟧"),
}
VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)


def text_and_trained(conversation: list[dict], tokenizer) -> str:
    ids, trained = tokenize_conversation(conversation, tokenizer)
    encoded = tokenizer(tokenizer.apply_chat_template(conversation, tokenize=False), add_special_tokens=False)
    assert ids == encoded["input_ids"]
    text = tokenizer.apply_chat_template(conversation, tokenize=False)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], trained, [0]])))
    characters = [encoded.token_to_chars(edge).start if edge < len(ids) else len(text) for edge in edges]
    for bracket, place in reversed(list(zip("⟦⟧" * len(edges), characters, strict=False))):
        text = text[:place] + bracket + text[place:]
    return text


@pytest.mark.parametrize("name", TEMPLATES)
def test_named_templates_as_written_by_hand(name: str) -> None:
    make, system, turns = BY_HAND[name]
    tokenizer = with_template(make(), name)
    bos = tokenizer.bos_token or ""
    assert text_and_trained(CHAT, tokenizer) == bos + (VICUNA_SYSTEM if name == "vicuna" else "") + turns
    inside = turns.replace("[INST] ", f"[INST] {system}", 1) if name in ("llama-2", "mistral") else system + turns
    assert text_and_trained(SYSTEM + CHAT, tokenizer) == bos + inside


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_prompt_is_what_stands_before_an_answer(name: str) -> None:
    tokenizer = with_template(BY_HAND[name][0](), name)
    ids, trained = tokenize_conversation(CHAT[:2], tokenizer)
    prompt = tokenizer.apply_chat_template(CHAT[:1], add_generation_prompt=True)["input_ids"]
    assert ids[: len(prompt)] == prompt and trained.argmax() == len(prompt)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_marks_of_the_template_and_the_places_of_the_contents_agree(name: str) -> None:
    tokenizer = with_template(BY_HAND[name][0](), name)
    by_marks = tokenize_conversation(SYSTEM + CHAT, tokenizer)
    unmarked = tokenizer.chat_template.replace("{%- generation %}", "{%- if true %}").replace(
        "{% endgeneration %}", "{% endif %}"
    )
    tokenizer.chat_template = unmarked
    by_contents = tokenize_conversation(SYSTEM + CHAT, tokenizer)
    assert "generation %" not in unmarked and by_marks[0] == by_contents[0]
    np.testing.assert_array_equal(by_marks[1], by_contents[1])


def test_a_token_that_texts_are_never_split_into_does_not_count() -> None:
    backend = Tokenizer(models.WordLevel({"<|im_start|>": 0, "<|im_end|>": 1, "x": 2}, unk_token="x"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="x", eos_token="x")
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") == 1 and 1 not in tokenizer.encode("<|im_end|>")
    with pytest.raises(ValueError, match="needs special tokens"):
        with_template(tokenizer, "chatml")


def test_the_tokenizer_passed_in_stays_as_it_is() -> None:
    tokenizer = families.chatml()
    named = with_template(tokenizer, "chatml")
    assert tokenizer.chat_template is None and named.chat_template
    named.add_special_tokens({"additional_special_tokens": ["<|more|>"]})
    assert len(named) == len(tokenizer) + 1


def test_no_name_is_the_tokenizer_s_own() -> None:
    tokenizer = families.chatml()
    tokenizer.chat_template = families.QWEN2
    assert with_template(tokenizer) is tokenizer
    assert with_template(tokenizer, "plain").chat_template != families.QWEN2
    assert tokenizer.chat_template == families.QWEN2


@pytest.mark.parametrize(
    ("make", "name", "message"),
    [
        (families.chatml, None, "template=None .* has none: .* chatml, llama-2, llama-3, mistral, vicuna, plain"),
        (families.chatml, "qwen", "template='qwen' must be one of chatml, llama-2, llama-3, mistral, vicuna, plain"),
        (families.llama_3, "chatml", r"template='chatml' needs special tokens .*\['<\|im_start\|>', '<\|im_end\|>'\]"),
        (families.llama_2, "chatml", r"lacks: \['<\|im_start\|>', '<\|im_end\|>'\]"),
        (families.chatml, "llama-3", r"'<\|start_header_id\|>', '<\|end_header_id\|>', '<\|eot_id\|>'\]"),
        (lambda: families.byte_level(["<|im_start|>"], None, "<|im_start|>"), "chatml", r"lacks: \['<\|im_end\|>'\]"),
        (lambda: families.byte_level([], None, None), "plain", "template='plain' needs an eos_token"),
    ],
)
def test_what_cannot_be(make, name: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_template(make(), name)


def test_a_template_is_named_by_its_tokenizer_if_that_has_a_name() -> None:
    assert template_name(SimpleNamespace(name_or_path="org/model")) == "the chat template of 'org/model'"
    assert template_name(SimpleNamespace(name_or_path="")) == "the chat template"
