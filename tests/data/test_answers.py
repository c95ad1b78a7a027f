"""Assistant turns are found with every kind of chat template."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beacon_lit.data.answers import rendered_answers
from beacon_lit.data.conversation import tokenize_conversation
from tests.data import families
from tests.data.conversations import (
    CHATML,
    EOS_AT_THE_END,
    MARKED,
    MARKED_IN_MACRO,
    MARKED_MISTRAL,
    MISTRAL,
    NO_PROMPT,
    PLAIN,
    THINKING,
    TWO_TURNS,
    WORDED_END,
    spans,
)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHATML, ["fine, hello there<|im_end|>", " fine! \n<|im_end|>"]),
        (MARKED["content"], ["fine, hello there<|im_end|>", " fine! \n<|im_end|>"]),
        (MARKED["turn"], ["fine, hello there<|im_end|>", " fine! \n<|im_end|>"]),
        (MARKED["turn and line break"], ["fine, hello there<|im_end|>", " fine! \n<|im_end|>"]),
        (MARKED_IN_MACRO, ["fine, hello there<|im_end|>", " fine! \n<|im_end|>"]),
        (EOS_AT_THE_END, ["fine, hello there<|im_end|>", " fine! \n<|im_end|>"]),
        (WORDED_END, ["fine, hello there\n### End", " fine! \n\n### End"]),
        (NO_PROMPT, [" fine, hello there</s>", " fine! \n</s>"]),
        (MISTRAL, [" fine, hello there</s>", " fine!</s>"]),
        (THINKING, ["fine, hello there<|im_end|>", " fine! \n<|im_end|>"]),
        (PLAIN, [" fine, hello there\n", "  fine! \n\n"]),
    ],
    ids=[
        *(
            "chatml",
            "marked-content",
            "marked-turn",
            "marked-line-break",
            "marked-in-macro",
            "eos-at-the-end",
            "worded-end",
            "no-prompt",
        ),
        *("mistral", "thinking", "plain"),
    ],
)
def test_trains_the_assistant_and_its_end_of_turn_only(tokenizer, template: str, expected: list[str]) -> None:
    assert spans(TWO_TURNS, tokenizer, template) == expected


def test_answers_that_repeat_or_are_empty(tokenizer) -> None:
    turns = [{"role": role, "content": "hello"} for role in ("user", "assistant") * 3]
    assert spans(turns, tokenizer, CHATML) == ["hello<|im_end|>"] * 3
    turns[3] = {"role": "assistant", "content": ""}
    assert spans(turns, tokenizer, CHATML) == ["hello<|im_end|>", "<|im_end|>", "hello<|im_end|>"]


def test_an_answer_of_one_token_ends_too(tokenizer) -> None:
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant") * 2]
    assert spans(turns, tokenizer, MARKED_MISTRAL) == ["x</s>"] * 2
    assert spans(turns, tokenizer, MARKED["turn"]) == ["x<|im_end|>"] * 2


def test_a_question_without_an_answer_trains_nothing(tokenizer) -> None:
    assert spans(TWO_TURNS[1:2], tokenizer, CHATML) == []


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (CHATML.replace("m.content", "m.content | replace('fine', m.content | length)"), r"message 3 of 5 \(assistant"),
        (CHATML.replace("m.content", "m.content | truncate(11, true, '')"), r"message 3 of 5 \(assistant"),
        (
            CHATML.replace("%}<|im_start|>{{", "%}{% if m.role != 'system' %}<|im_start|>{{", 1).replace(
                "\n{% endfor", "\n{% endif %}{% endfor"
            ),
            r"message 1 of 5 \(system",
        ),
        (MARKED_MISTRAL.replace("{% else %}", "{% elif m.role == 'assistant' %}"), r"message 1 of 5 \(system"),
        ("{{ raise_exception('no system messages') }}", "refuses these messages: no system messages"),
        ("{{ messages[9].content }}", "refuses these messages: .*no element 9"),
        (MARKED["turn"].replace("'assistant'", "'model'"), "marks no answer"),
    ],
    ids=["replace", "truncate", "system", "marked-system", "raise", "undefined", "no-mark"],
)
def test_a_template_that_loses_or_rewrites_messages_is_refused(tokenizer, template: str, message: str) -> None:
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match=message):
        tokenize_conversation(TWO_TURNS, tokenizer)


def test_white_space_around_contents_is_trained_where_the_template_keeps_it(tokenizer) -> None:
    turns = [{"role": "user", "content": "hello \n\n"}, {"role": "assistant", "content": "\n fine \n"}]
    assert spans(turns, tokenizer, CHATML) == ["\n fine \n<|im_end|>"]
    assert spans(turns, tokenizer, CHATML.replace("m.content", "m.content | trim")) == ["fine<|im_end|>"]
    assert spans(turns, tokenizer, PLAIN) == [" \n fine \n\n"]
    assert spans(turns, tokenizer, PLAIN.replace("m.content", "m.content | trim")) == [" fine\n"]
    blank = [turns[0], {"role": "assistant", "content": " \n"}]
    assert spans(blank, tokenizer, CHATML) == [" \n<|im_end|>"]
    assert spans(blank, tokenizer, CHATML.replace("m.content", "m.content | trim")) == ["<|im_end|>"]


def test_contents_that_look_like_the_template_do_not_confuse_it(tokenizer) -> None:
    question = {"role": "user", "content": "[/INST] hello</s>[INST] [/INST]"}
    turns = [question, {"role": "assistant", "content": "[/INST] fine"}] * 2
    assert spans(turns, tokenizer, MISTRAL) == [" [/INST] fine</s>"] * 2


def test_the_number_of_renderings_does_not_depend_on_the_number_of_turns(tokenizer, monkeypatch) -> None:
    tokenizer.chat_template = CHATML
    rendered = []
    original = tokenizer.apply_chat_template
    monkeypatch.setattr(
        tokenizer,
        "apply_chat_template",
        lambda messages, **rest: rendered.append(messages) or original(messages, **rest),
    )
    turns = [{"role": role, "content": f"hello {i}"} for i in range(50) for role in ("user", "assistant")]
    ids, trained = tokenize_conversation(turns, tokenizer)
    assert sum(len(messages) for messages in rendered) < 3 * len(turns)
    answers = np.flatnonzero(np.diff(np.concatenate([[0], trained, [0]]))).reshape(-1, 2)
    assert [tokenizer.decode(ids[a:b]) for a, b in answers] == [f"hello {i}<|im_end|>" for i in range(50)]


@given(
    contents=st.lists(st.text(alphabet="ab \n\t<|>:user\u00a0é😀", max_size=6), min_size=1, max_size=6),
    strip=st.booleans(),
)
def test_spans_of_any_contents(contents: list[str], strip: bool) -> None:
    tokenizer = families.chatml()
    tokenizer.chat_template = CHATML.replace("m.content", "m.content | trim") if strip else CHATML
    expected_text, expected_spans = "", []
    for number, content in enumerate(contents):
        role, written = ("user", "assistant")[number % 2], content.strip() if strip else content
        expected_text += f"<|im_start|>{role}\n"
        if role == "assistant":
            expected_spans.append((len(expected_text), len(expected_text + written + "<|im_end|>")))
        expected_text += f"{written}<|im_end|>\n"
    turns = [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(contents)]
    assert rendered_answers(turns, tokenizer) == (expected_text, expected_spans)
