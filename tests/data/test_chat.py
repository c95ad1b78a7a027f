import numpy as np
import pytest

from beacon_lit.data.chat import encode_chat

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def chatml_marked(answer: str) -> str:
    return (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
        + answer
        + "{% else %}{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


MARKED = {
    "content": chatml_marked("{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>\n"),
    "turn": chatml_marked("{% generation %}{{ m.content }}<|im_end|>{%- endgeneration %}\n"),
}
MARKED_MISTRAL = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]"
    "{% else %}{% generation %}{{ m.content }}{% endgeneration %}</s>{% endif %}{% endfor %}"
)
# Strips contents; an end of text behind every answer; the system message goes into the *last* user message.
MISTRAL = (
    "<s>{% set system = messages[0].content if messages[0].role == 'system' else '' %}{% for m in messages %}"
    "{% if m.role == 'user' %}[INST] "
    "{% if system and m == (messages | selectattr('role', 'equalto', 'user') | list)[-1] %}"
    "{{ system }}\n\n{% endif %}{{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content | trim }}</s>{% endif %}{% endfor %}"
)
# The last answer is preceded by an empty thought, earlier ones are not.
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)

TWO_TURNS = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "hello there"},
    {"role": "assistant", "content": "fine, hello there"},
    {"role": "user", "content": "how are you?"},
    {"role": "assistant", "content": " fine! \n"},
]


def spans(conversation: list[dict], tokenizer, template: str) -> list[str]:
    """What is trained, one string for each run of trained tokens."""
    tokenizer.chat_template = template
    ids, trained = encode_chat(conversation, tokenizer)
    assert trained.dtype == bool and trained.shape == (len(ids),)
    assert ids == tokenizer.apply_chat_template(conversation, return_dict=True)["input_ids"]
    edges = np.flatnonzero(np.diff(np.concatenate([[0], trained, [0]]))).reshape(-1, 2)
    return [tokenizer.decode(ids[first:last]) for first, last in edges]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHATML, ["fine, hello there<|im_end|>", " fine! \n<|im_end|>"]),
        (MARKED["content"], ["fine, hello there<|im_end|>", " fine! \n<|im_end|>"]),
        (MARKED["turn"], ["fine, hello there<|im_end|>", " fine! \n<|im_end|>"]),
        (MISTRAL, [" fine, hello there</s>", " fine!</s>"]),
        (THINKING, ["fine, hello there<|im_end|>", "<think>\n\n</think>\n\n fine! \n<|im_end|>"]),
        (PLAIN, [" fine, hello there\n", "  fine! \n\n"]),
    ],
    ids=["chatml", "marked-content", "marked-turn", "mistral", "thinking", "plain"],
)
def test_trains_the_assistant_and_its_end_of_turn_only(tokenizer, template: str, expected: list[str]) -> None:
    assert spans(TWO_TURNS, tokenizer, template) == expected


def test_token_by_token(tokenizer) -> None:
    tokenizer.chat_template = CHATML
    ids, trained = encode_chat(TWO_TURNS[1:3], tokenizer)
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    question = [start, *tokenizer.encode("user\nhello there"), end, *tokenizer.encode("\n")]
    answer = tokenizer.encode("fine, hello there")
    header = [start, *tokenizer.encode("assistant\n")]
    assert ids == [*question, *header, *answer, end, *tokenizer.encode("\n")]
    untrained = len(question) + len(header)
    assert trained.tolist() == [False] * untrained + [True] * (len(answer) + 1) + [False]


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


def test_a_template_that_rewrites_answers_is_refused(tokenizer) -> None:
    tokenizer.chat_template = CHATML.replace("m.content", "m.content | upper | replace('F', m.content | length)")
    with pytest.raises(ValueError, match="rewrites the answer in message 2"):
        encode_chat(TWO_TURNS, tokenizer)


def test_no_template(tokenizer) -> None:
    with pytest.raises(ValueError, match="has no chat template"):
        encode_chat(TWO_TURNS, tokenizer)


@pytest.mark.parametrize(
    ("conversation", "message"),
    [
        ([], "roles must be user, assistant"),
        (TWO_TURNS[:1], "roles must be user, assistant"),
        (TWO_TURNS[2:], r"roles must be .* these are \['assistant', 'user', 'assistant'\]"),
        (TWO_TURNS[1:2] * 2, "roles must be"),
        ([TWO_TURNS[1], TWO_TURNS[0]], "roles must be"),
        ([{"role": "human", "content": "x"}], "roles must be .* these are .'human'"),
        ([{"role": "user", "content": ["x"]}], "content that is a string"),
        ([{"role": "user"}], "content that is a string"),
        (["hello"], "content that is a string"),
    ],
)
def test_bad_conversations(tokenizer, conversation: list, message: str) -> None:
    tokenizer.chat_template = CHATML
    with pytest.raises(ValueError, match=message):
        encode_chat(conversation, tokenizer)
