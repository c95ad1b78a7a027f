"""Conversations are tokenised and trained as written by hand."""

import numpy as np
import pytest

from beacon_lit.data.conversation import tokenize_conversation
from tests.data import families
from tests.data.conversations import CHATML, PLAIN, TWO_TURNS


def test_token_by_token(tokenizer) -> None:
    tokenizer.chat_template = CHATML
    ids, trained = tokenize_conversation(TWO_TURNS[1:3], tokenizer)
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    question = [start, *tokenizer.encode("user\nhello there"), end, *tokenizer.encode("\n")]
    answer = tokenizer.encode("fine, hello there")
    header = [start, *tokenizer.encode("assistant\n")]
    assert ids == [*question, *header, *answer, end, *tokenizer.encode("\n")]
    untrained = len(question) + len(header)
    assert trained.tolist() == [False] * untrained + [True] * (len(answer) + 1) + [False]


def test_no_template(tokenizer) -> None:
    with pytest.raises(ValueError, match=r"has none: .*chatml, llama-2, llama-3, mistral, vicuna, plain"):
        tokenize_conversation(TWO_TURNS, tokenizer)


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
        tokenize_conversation(conversation, tokenizer)


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
    ids, trained = tokenize_conversation(conversation, tokenizer)
    tokens = tokenizer.convert_ids_to_tokens(ids)
    found = [(token, bool(loss)) for token, loss in zip(tokens, trained, strict=True)]
    assert found == [(token.removeprefix("+"), token.startswith("+")) for token in expected.split()]


def test_characters_split_into_bytes_are_trained_whole() -> None:
    for tokenizer, template in ((families.chatml(), families.QWEN2), (families.llama_2(), families.LLAMA_2)):
        tokenizer.chat_template = template
        ids, trained = tokenize_conversation([CHAT[0], {"role": "assistant", "content": "é😀"}], tokenizer)
        answer = tokenizer.decode(np.array(ids)[trained])
        assert answer.strip() in ("é😀<|im_end|>", "é😀 </s>")
        assert "é" not in tokenizer.decode(np.array(ids)[~trained]) and trained.sum() >= 7


@pytest.mark.parametrize("family", ["MISTRAL_V1", "MISTRAL_V3"])
def test_a_system_message_that_the_template_has_no_place_for_is_not_lost_silently(family: str) -> None:
    tokenizer = families.mistral_v3()
    tokenizer.chat_template = getattr(families, family)
    with pytest.raises(ValueError, match=r"roles must alternate|leaves out or rewrites message 1 of 5 \(system\)"):
        tokenize_conversation(SYSTEM + CHAT, tokenizer)
