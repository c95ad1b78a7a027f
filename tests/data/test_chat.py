import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beacon_lit.data.answers import rendered_answers
from beacon_lit.data.chat import encode_chat
from tests.data import families

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
    "turn and line break": chatml_marked("{% generation %}{{ m.content }}<|im_end|>\n\n{% endgeneration %}"),
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
# Where a mark is cannot be told from how much has been written when it is.
MARKED_IN_MACRO = (
    "{% macro turn(m) %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}"
    "{{ '\n' }}{% endmacro %}{% for m in messages %}{{ turn(m) }}{% endfor %}"
)
EOS_AT_THE_END = CHATML.replace("{% endfor %}", "{% if loop.last %}<|endoftext|>{% endif %}{% endfor %}")
WORDED_END = CHATML.replace("<|im_end|>", "\n### End\n\n")
# Knows nothing of generation prompts, and keeps the white space around contents.
NO_PROMPT = (
    "{% for m in messages %}{{ m.role }}:{{ ' ' + m.content }}{{ '</s>' if m.role == 'assistant' }}\n\n{% endfor %}"
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
        ("{{ raise_exception('no system messages') }}", "refuses this: no system messages"),
        ("{{ messages[9].content }}", "refuses this: .*no element 9"),
        (MARKED["turn"].replace("'assistant'", "'model'"), "marks no answer"),
    ],
    ids=["replace", "truncate", "system", "marked-system", "raise", "undefined", "no-mark"],
)
def test_a_template_that_loses_or_rewrites_messages_is_refused(tokenizer, template: str, message: str) -> None:
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match=message):
        encode_chat(TWO_TURNS, tokenizer)


def test_no_template(tokenizer) -> None:
    with pytest.raises(ValueError, match=r"has no chat template.*chatml, llama-2, llama-3, mistral, vicuna, plain"):
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


SYSTEM = [{"role": "system", "content": "Be brief."}]
CHAT = [
    {"role": "user", "content": "Hi there"},
    {"role": "assistant", "content": "All fine"},
    {"role": "user", "content": "And you?"},
    {"role": "assistant", "content": "Fine too!"},
]
THOUGHT = "<think>\nLet me see\n</think>\n\n"
THOUGHTFUL = [{**m, "content": THOUGHT * (m["role"] == "assistant") + m["content"]} for m in CHAT]

CHATML_TURNS = (
    "<|im_start|> user Ċ Hi Ġthere <|im_end|> Ċ <|im_start|> assistant Ċ +All +Ġfine +<|im_end|> Ċ "
    "<|im_start|> user Ċ And Ġyou ? <|im_end|> Ċ <|im_start|> assistant Ċ +Fine +Ġtoo +! +<|im_end|> Ċ"
)
LLAMA_3_TURNS = (
    "<|start_header_id|> user <|end_header_id|> ĊĊ Hi Ġthere <|eot_id|> "
    "<|start_header_id|> assistant <|end_header_id|> ĊĊ +All +Ġfine +<|eot_id|> "
    "<|start_header_id|> user <|end_header_id|> ĊĊ And Ġyou ? <|eot_id|> "
    "<|start_header_id|> assistant <|end_header_id|> ĊĊ +Fine +Ġtoo +! +<|eot_id|>"
)
LLAMA_3_DATE = (
    "<|begin_of_text|> <|start_header_id|> system <|end_header_id|> ĊĊ "
    "Cutting ĠKnowledge ĠDate : ĠDecember Ġ 2 0 2 3 Ċ Today ĠDate : Ġ 2 6 ĠJul Ġ 2 0 2 4 ĊĊ"
)
# (family, tokenizer, conversation, tokens by hand: `+` stands before those that are trained)
BY_HAND = {
    "smollm2": (
        *(families.SMOLLM2, families.chatml, CHAT),
        "<|im_start|> system Ċ You Ġare Ġa Ġhelpful ĠAI Ġassistant Ġnamed ĠSmolLM , Ġtrained Ġby ĠHugging ĠFace "
        "<|im_end|> Ċ " + CHATML_TURNS,
    ),
    "smollm2-system": (
        *(families.SMOLLM2, families.chatml, SYSTEM + CHAT),
        "<|im_start|> system Ċ Be Ġbrief . <|im_end|> Ċ " + CHATML_TURNS,
    ),
    "qwen2": (
        *(families.QWEN2, families.chatml, CHAT),
        "<|im_start|> system Ċ You Ġare Ġa Ġhelpful Ġassistant . <|im_end|> Ċ " + CHATML_TURNS,
    ),
    "qwen2-system": (
        *(families.QWEN2, families.chatml, SYSTEM + CHAT),
        "<|im_start|> system Ċ Be Ġbrief . <|im_end|> Ċ " + CHATML_TURNS,
    ),
    "qwen2.5": (
        *(families.QWEN2_5, families.chatml, CHAT),
        "<|im_start|> system Ċ You Ġare ĠQwen , Ġcreated Ġby ĠAlibaba ĠCloud . "
        "ĠYou Ġare Ġa Ġhelpful Ġassistant . <|im_end|> Ċ " + CHATML_TURNS,
    ),
    "qwen2.5-system": (
        *(families.QWEN2_5, families.chatml, SYSTEM + CHAT),
        "<|im_start|> system Ċ Be Ġbrief . <|im_end|> Ċ " + CHATML_TURNS,
    ),
    # The empty thought is the template's, not the data's.
    "qwen3": (
        *(families.QWEN3, families.chatml, SYSTEM + CHAT),
        "<|im_start|> system Ċ Be Ġbrief . <|im_end|> Ċ "
        "<|im_start|> user Ċ Hi Ġthere <|im_end|> Ċ <|im_start|> assistant Ċ +All +Ġfine +<|im_end|> Ċ "
        "<|im_start|> user Ċ And Ġyou ? <|im_end|> Ċ "
        "<|im_start|> assistant Ċ <think> ĊĊ </think> ĊĊ +Fine +Ġtoo +! +<|im_end|> Ċ",
    ),
    # The template strips the first thought; the last is trained.
    "qwen3-reasoning": (
        *(families.QWEN3, families.chatml, THOUGHTFUL),
        "<|im_start|> user Ċ Hi Ġthere <|im_end|> Ċ <|im_start|> assistant Ċ +All +Ġfine +<|im_end|> Ċ "
        "<|im_start|> user Ċ And Ġyou ? <|im_end|> Ċ <|im_start|> assistant Ċ "
        "+<think> +Ċ +Let +Ġme +Ġsee +Ċ +</think> +ĊĊ +Fine +Ġtoo +! +<|im_end|> Ċ",
    ),
    "qwen3-reasoning-apart": (
        *(families.QWEN3, families.chatml),
        [*CHAT[:3], {**CHAT[3], "reasoning_content": "Let me see"}],
        "<|im_start|> user Ċ Hi Ġthere <|im_end|> Ċ <|im_start|> assistant Ċ +All +Ġfine +<|im_end|> Ċ "
        "<|im_start|> user Ċ And Ġyou ? <|im_end|> Ċ <|im_start|> assistant Ċ "
        "+<think> +Ċ +Let +Ġme +Ġsee +Ċ +</think> +ĊĊ +Fine +Ġtoo +! +<|im_end|> Ċ",
    ),
    # Prompted with a thought's beginning, which no answer in the template's text has.
    "deepseek-r1": (
        *(families.DEEPSEEK_R1, families.deepseek, SYSTEM + CHAT),
        "<bos> Be Ġbrief . <|User|> Hi Ġthere <|Assistant|> +All +Ġfine +<eos> "
        "<|User|> And Ġyou ? <|Assistant|> +Fine +Ġtoo +! +<eos>",
    ),
    "llama-2": (
        *(families.LLAMA_2, families.llama_2, CHAT),
        "<s> ▁[ INST ] ▁Hi ▁there ▁[/ INST ] +▁All +▁fine +▁ +</s> "
        "<s> ▁[ INST ] ▁And ▁you ? ▁[/ INST ] +▁Fine +▁too +! +▁ +</s>",
    ),
    "llama-2-system": (
        *(families.LLAMA_2, families.llama_2, SYSTEM + CHAT[:2]),
        "<s> ▁[ INST ] ▁<< SYS >> <0x0A> Be ▁brief . <0x0A> < </ SYS >> <0x0A> <0x0A> Hi ▁there ▁[/ INST ] "
        "+▁All +▁fine +▁ +</s>",
    ),
    "llama-3": (*(families.LLAMA_3, families.llama_3, CHAT), "<|begin_of_text|> " + LLAMA_3_TURNS),
    "llama-3-system": (
        *(families.LLAMA_3, families.llama_3, SYSTEM + CHAT),
        "<|begin_of_text|> <|start_header_id|> system <|end_header_id|> ĊĊ Be Ġbrief . <|eot_id|> " + LLAMA_3_TURNS,
    ),
    "llama-3.1": (
        *(families.LLAMA_3_1, families.llama_3, CHAT),
        f"{LLAMA_3_DATE} <|eot_id|> {LLAMA_3_TURNS}",
    ),
    "llama-3.1-system": (
        *(families.LLAMA_3_1, families.llama_3, SYSTEM + CHAT),
        f"{LLAMA_3_DATE} Be Ġbrief . <|eot_id|> {LLAMA_3_TURNS}",
    ),
    # Asks for today's date and is told the same every day.
    "llama-3.2": (
        *(families.LLAMA_3_2, families.llama_3, CHAT),
        f"{LLAMA_3_DATE} <|eot_id|> {LLAMA_3_TURNS}",
    ),
    "mistral-0.1": (
        *(families.MISTRAL_V1, families.llama_2, CHAT),
        "<s> ▁[ INST ] ▁Hi ▁there ▁[/ INST ] +All +▁fine +</s> "
        "▁ ▁[ INST ] ▁And ▁you ? ▁[/ INST ] +Fine +▁too +! +</s> ▁ ▁",
    ),
    "mistral-0.3": (
        *(families.MISTRAL_V3, families.mistral_v3, CHAT),
        "<s> [INST] ▁Hi ▁there [/INST] +▁All +▁fine +</s> [INST] ▁And ▁you ? [/INST] +▁Fine +▁too +! +</s>",
    ),
    # No special tokens: the line break ends a turn, as a token of its own or with the answer's last character.
    "plain": (
        *(PLAIN, families.chatml, CHAT),
        "user : ĠHi Ġthere Ċ assistant : +ĠAll +Ġfine +Ċ user : ĠAnd Ġyou ? Ċ assistant : +ĠFine +Ġtoo +!Ċ",
    ),
}


@pytest.mark.parametrize(("template", "make", "conversation", "expected"), BY_HAND.values(), ids=BY_HAND)
def test_token_by_token_as_written_by_hand(template: str, make, conversation: list[dict], expected: str) -> None:
    tokenizer = make()
    tokenizer.chat_template = template
    ids, trained = encode_chat(conversation, tokenizer)
    tokens = tokenizer.convert_ids_to_tokens(ids)
    found = [(token, bool(loss)) for token, loss in zip(tokens, trained, strict=True)]
    assert found == [(token.removeprefix("+"), token.startswith("+")) for token in expected.split()]


def test_characters_split_into_bytes_are_trained_whole() -> None:
    for tokenizer, template in ((families.chatml(), families.QWEN2), (families.llama_2(), families.LLAMA_2)):
        tokenizer.chat_template = template
        ids, trained = encode_chat([CHAT[0], {"role": "assistant", "content": "é😀"}], tokenizer)
        answer = tokenizer.decode(np.array(ids)[trained])
        assert answer.strip() in ("é😀<|im_end|>", "é😀 </s>")
        assert "é" not in tokenizer.decode(np.array(ids)[~trained]) and trained.sum() >= 7


@pytest.mark.parametrize("family", ["MISTRAL_V1", "MISTRAL_V3"])
def test_a_system_message_that_the_template_has_no_place_for_is_not_lost_silently(family: str) -> None:
    tokenizer = families.mistral_v3()
    tokenizer.chat_template = getattr(families, family)
    with pytest.raises(ValueError, match=r"roles must alternate|leaves out or rewrites message 1 of 5 \(system\)"):
        encode_chat(SYSTEM + CHAT, tokenizer)


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
    ids, trained = encode_chat(turns, tokenizer)
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
