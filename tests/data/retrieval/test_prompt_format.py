"""Questions and answers are written as plain text or through the chat template."""

import re

import pytest

from beacon_lit.data.retrieval.drafts import Exchange
from beacon_lit.data.retrieval.prompt_format import chat_format, plain_format
from beacon_lit.data.sources.synthetic import SyntheticSource
from beacon_lit.tiny import byte_tokenizer
from tests.data import families
from tests.data.retrieval.making import LENGTHS, runs, samples


def test_plain_answers_end_in_a_line_break_and_the_last_in_the_end_of_text(any_tokenizer):
    (document,) = SyntheticSource("needle", 1, LENGTHS, questions=3).documents(any_tokenizer)
    answers = [any_tokenizer.decode(document["input_ids"][slice(*span)]) for span in runs(document["answer"])]
    assert all(answer.endswith("\n") and answer.strip() for answer in answers[:-1])
    assert answers[-1].endswith(any_tokenizer.eos_token) and len(answers) == 3


@pytest.mark.parametrize("questions", [1, 3])
def test_a_chat_is_what_the_template_renders(tokenizer, questions):
    source = SyntheticSource("needle", 5, LENGTHS, chat=True, questions=questions)
    for document, sample in zip(source.documents(tokenizer), samples(source, tokenizer), strict=True):
        ids, body = document["input_ids"], tokenizer.decode(document["input_ids"][slice(*sample.document)])
        messages, said = [], f"{sample.draft.announcement}{body}\n\n"
        for exchange in sample.draft.exchanges:
            messages.append({"role": "user", "content": said + exchange.question})
            messages.append({"role": "assistant", "content": exchange.answer})
            said = ""
        text = tokenizer.decode(ids)
        assert text == tokenizer.apply_chat_template(messages, tokenize=False)
        assert text.endswith("<|im_end|>\n") and not document["answer"][-1]
        answers = [tokenizer.decode(ids[slice(*span)]) for span in runs(document["answer"])]
        assert answers == [f"{exchange.answer}<|im_end|>" for exchange in sample.draft.exchanges]


@pytest.mark.parametrize("questions", [1, 3])
@pytest.mark.parametrize(
    ("make", "template", "end"),
    [
        (families.chatml, families.SMOLLM2, "<|im_end|>"),
        (families.chatml, families.QWEN2_5, "<|im_end|>"),
        (families.chatml, families.QWEN3, "<|im_end|>"),
        (families.llama_3, families.LLAMA_3_1, "<|eot_id|>"),
        (families.deepseek, families.DEEPSEEK_R1, "<eos>"),
    ],
    ids=["smollm2", "qwen2.5", "qwen3", "llama-3.1", "deepseek"],
)
def test_a_chat_of_any_family_is_asked_and_answered_in_turns(make, template, end, questions):
    tokenizer = make()
    tokenizer.chat_template = template
    exchanges = [Exchange(f"How many are there of x{i}?", "Stem:", f"all {i} fine") for i in range(questions)]
    prompt = chat_format(tokenizer).prompt("Let me see:\n\n", exchanges)
    said, messages = "Let me see:\n\nDOCUMENT\n\n", []
    for exchange in exchanges:
        messages.append({"role": "user", "content": said + exchange.question})
        messages.append({"role": "assistant", "content": exchange.answer})
        said = ""
    rendered = tokenizer.apply_chat_template(messages, tokenize=False)
    assert tokenizer.decode(prompt.opening) + "DOCUMENT" + tokenizer.decode(prompt.closing) == rendered
    answers = [tokenizer.decode(prompt.closing[slice(*span)]) for span in runs(prompt.answers)]
    assert answers == [f"{exchange.answer}{end}" for exchange in exchanges]


@pytest.mark.parametrize("train_on", ["answer", "all"])
def test_what_a_template_puts_around_an_answer_is_trained_only_with_all_else(train_on):
    tokenizer = byte_tokenizer()
    content = "{{ message.content }}"
    thinking = "{% if message.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}" + content
    tokenizer.chat_template = tokenizer.chat_template.replace(content, thinking)
    source = SyntheticSource("passkey", 1, LENGTHS, chat=True, train_on=train_on, questions=2)
    (document,) = source.documents(tokenizer)
    ids, text = document["input_ids"], tokenizer.decode(document["input_ids"])
    answers = [tokenizer.decode(ids[slice(*span)]) for span in runs(document["answer"])]
    assert all(re.fullmatch(r"\d{5}<\|im_end\|>", answer) for answer in answers) and len(answers) == 2
    assert text.count("<think>") == 1 and text.endswith(f"<think>\n\n</think>\n\n{answers[1]}\n")
    assert (document["trained"] == (document["answer"] | (train_on == "all"))).all()


def test_plain_text_starts_with_bos_where_the_tokenizer_puts_one(any_tokenizer):
    prompt_format = plain_format(any_tokenizer)
    (document,) = SyntheticSource("needle", 1, LENGTHS).documents(any_tokenizer)
    put = any_tokenizer("")["input_ids"][:1] == [any_tokenizer.bos_token_id]
    assert prompt_format.prefix == ((any_tokenizer.bos_token_id,) if put else ())
    assert (document["input_ids"][0] == any_tokenizer.bos_token_id) == put
    assert document["input_ids"][-1] == any_tokenizer.eos_token_id
