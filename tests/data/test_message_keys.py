"""What a message says besides role and content is written by the chat template, honoured, refused or counted."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from beacon_lit.data.conversation import check_roles, tokenize_conversation
from beacon_lit.data.length_rule import LengthRule
from beacon_lit.data.message_keys import meant_keys, unwritten_keys, with_tool_calls
from beacon_lit.data.records import SkippedRecords, Tolerance
from beacon_lit.data.tokenize import make_samples
from tests.data import families
from tests.data.conversations import CHATML, MARKED

# Tools in the system message, calls in tags, answers of tools in the user's name.
QWEN_TOOLS = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}"
    "{% if m.role == 'tool' %}{% if messages[loop.index0 - 1].role != 'tool' %}<|im_start|>user{% endif %}"
    "\n<tool_response>\n{{ m.content }}\n</tool_response>"
    "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|im_end|>\n{% endif %}"
    "{% else %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content and loop.last %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ m.content }}{% for call in m.tool_calls %}{% if m.content or not loop.first %}{{ '\n' }}{% endif %}"
    '<tool_call>\n{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}\n'
    "</tool_call>"
    "{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# A call instead of the content; answers of tools as a string of JSON, under another role.
LLAMA_TOOLS = (
    "{{ bos_token }}{% macro head(role) %}<|start_header_id|>{{ role }}<|end_header_id|>\n\n{% endmacro %}"
    "{% for m in messages %}{% if 'tool_calls' in m %}{{ head('assistant') }}"
    '{"name": "{{ m.tool_calls[0].function.name }}", "parameters": {{ m.tool_calls[0].function.arguments | tojson }}}'
    "{% elif m.role == 'tool' %}{{ head('ipython') + (m.content | tojson) }}"
    "{% else %}{{ head(m.role) }}{% if loop.first and tools %}{{ tools | tojson }}{% endif %}{{ m.content | trim }}"
    "{% endif %}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}{{ head('assistant') }}{% endif %}"
)
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
ASKED = {"role": "user", "content": "Hi there"}
CALLED = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": '7 "degrees"', "tool_call_id": "c1", "name": "weather"}
SAID = {"role": "assistant", "content": "All fine"}
QWEN_CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
LLAMA_CALL = '{"name": "weather", "parameters": {"city": "Oslo"}}<|eot_id|>'


def made(template: str) -> Any:
    tokenizer = families.llama_3() if "eot_id" in template else families.chatml()
    tokenizer.chat_template = template
    return tokenizer


def spoken(conversation: list[dict], template: str, tools: Any = TOOLS) -> list[str]:
    """What is trained, one string for each run of trained tokens."""
    tokenizer = made(template)
    ids, trained = tokenize_conversation(conversation, tokenizer, tools)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], trained, [0]]))).reshape(-1, 2)
    return [tokenizer.decode(ids[first:last]) for first, last in edges]


def samples(document: dict, template: str) -> tuple[list, list[str], Counter]:
    """The samples of a document, the reasons of malformed records, and all counts."""
    skipped = SkippedRecords(Tolerance(), "list", Counter())
    reasons: list[str] = []
    keep = skipped.skip
    skipped.skip = lambda record: (reasons.append(str(record)), keep(record))  # type: ignore[method-assign]
    found = list(make_samples([{"id": "a.jsonl:1", **document}], made(template), LengthRule(1, 999, 1), skipped))
    return found, reasons, skipped.counts


@pytest.mark.parametrize(
    ("template", "conversation", "expected"),
    [
        (QWEN_TOOLS, [ASKED, CALLED], [QWEN_CALL + "<|im_end|>"]),
        (QWEN_TOOLS, [ASKED, CALLED, RESULT], [QWEN_CALL + "<|im_end|>"]),
        (QWEN_TOOLS, [ASKED, CALLED, RESULT, SAID], [QWEN_CALL + "<|im_end|>", "All fine<|im_end|>"]),
        (
            QWEN_TOOLS,
            [ASKED, {**CALLED, "content": "Let me see", "tool_calls": [CALL, CALL]}, RESULT, RESULT, SAID, ASKED, SAID],
            [f"Let me see\n{QWEN_CALL}\n{QWEN_CALL}<|im_end|>", "All fine<|im_end|>", "All fine<|im_end|>"],
        ),
        (QWEN_TOOLS, [ASKED, CALLED, RESULT, CALLED, RESULT, SAID],
         [QWEN_CALL + "<|im_end|>", QWEN_CALL + "<|im_end|>", "All fine<|im_end|>"]),
        (QWEN_TOOLS, [ASKED, {**CALLED, "reasoning_content": "why"}],
         [f"<think>\nwhy\n</think>\n\n{QWEN_CALL}<|im_end|>"]),
        (LLAMA_TOOLS, [ASKED, CALLED], [LLAMA_CALL]),
        (LLAMA_TOOLS, [ASKED, CALLED, RESULT, SAID, ASKED, SAID], [LLAMA_CALL, *["All fine<|eot_id|>"] * 2]),
    ],
)  # fmt: skip
def test_a_tool_call_is_trained_as_the_template_writes_it(template, conversation, expected) -> None:
    assert spoken(conversation, template) == expected
    text = made(template).apply_chat_template(with_tool_calls(conversation), tools=TOOLS, tokenize=False)
    tokenizer = made(template)
    assert tokenize_conversation(conversation, tokenizer, TOOLS)[0] == tokenizer.encode(text, add_special_tokens=False)


def test_marks_of_the_template_and_places_of_calls_agree() -> None:
    # A block cannot be opened under a condition: the turn is written twice.
    body = QWEN_TOOLS[
        QWEN_TOOLS.index("{% if m.reasoning") : QWEN_TOOLS.index("\n{% endif %}{% endfor %}{% if add_gen")
    ]
    marked = QWEN_TOOLS.replace(
        body,
        f"{{% if m.role == 'assistant' %}}{{% generation %}}{body}{{% endgeneration %}}{{% else %}}{body}{{% endif %}}",
    )
    for turns in ([ASKED, CALLED], [ASKED, CALLED, RESULT, SAID, ASKED, SAID]):
        assert spoken(turns, marked) == spoken(turns, QWEN_TOOLS)


def test_a_message_of_weight_0_is_context_alone() -> None:
    draft = {"role": "assistant", "content": "Let me see"}
    turns = [ASKED, {**draft, "weight": 0}, ASKED, {**SAID, "weight": 1}]
    for template in (CHATML, MARKED["turn"]):
        assert spoken(turns, template, ()) == ["All fine<|im_end|>"]
        assert "Let me see" in made(template).decode(tokenize_conversation(turns, made(template))[0])
        assert spoken([ASKED, {**draft, "weight": 0}], template, ()) == []
    found, reasons, counts = samples({"conversations": turns}, CHATML)
    assert len(found) == 1 and not reasons and not counts
    _, _, counts = samples({"conversations": [ASKED, {**draft, "weight": 0}]}, CHATML)
    assert counts == {"no_answer": 1}


@pytest.mark.parametrize(
    ("template", "document", "reason"),
    [
        (CHATML, {"tools": TOOLS, "conversations": [ASKED, CALLED]}, "does not write tools"),
        (CHATML, {"conversations": [ASKED, CALLED]}, "does not write tool_calls of message 2"),
        (MARKED["turn"], {"conversations": [ASKED, CALLED]}, "does not write tool_calls of message 2"),
        (CHATML, {"conversations": [ASKED, {**SAID, "reasoning_content": "why"}]}, "not write reasoning_content of"),
        (CHATML, {"conversations": [{**ASKED, "name": "Ada"}, SAID]}, "does not write name of message 1"),
        (CHATML, {"conversations": [ASKED, {**SAID, "function_call": {"name": "x"}}]}, "does not write function_call"),
        (CHATML, {"conversations": [{**ASKED, "images": ["a.png"]}, SAID]}, "does not write images of message 1"),
        (CHATML, {"conversations": [ASKED, {**SAID, "train": False}]}, "train of message 2; allowed: weight, 0 or 1"),
        (CHATML, {"conversations": [ASKED, {**SAID, "weight": 0.5}]}, "weight=0.5 of message 2 is not allowed"),
        (LLAMA_TOOLS, {"conversations": [ASKED, {**CALLED, "content": "Let me see"}]},
         "does not write the content of message 2 beside its tool_calls"),
        (QWEN_TOOLS, {"conversations": [ASKED, {**CALLED, "tool_calls": [{"function": {"arguments": "{}"}}]}]},
         'a tool call of message 2 must be like {"type": "function"'),
        (QWEN_TOOLS, {"conversations": [ASKED, {**CALLED, "tool_calls": "weather"}]}, "message 2 must be a list"),
        (QWEN_TOOLS, {"conversations": [ASKED, {**CALLED, "tool_calls": [{"name": "x", "arguments": "{city"}]}]},
         "arguments of a tool call of message 2 are malformed JSON"),
        (QWEN_TOOLS, {"conversations": [ASKED, {**CALLED, "tool_calls": [{"name": "x", "arguments": "[1]"}]}]},
         "must be an object, not"),
        (QWEN_TOOLS.replace("<tool_response>\n{{ m.content }}", "<tool_response>"),
         {"conversations": [ASKED, CALLED, RESULT, SAID]}, r"leaves out or rewrites message 3 of 4 \(tool\)"),
        (CHATML.replace("}}<|im_end|>", "}}{{ m.tool_calls | map(attribute='function.name') | join }} "),
         {"conversations": [ASKED, CALLED]}, "in an unknown way"),
    ],
)  # fmt: skip
def test_what_would_be_lost_is_a_malformed_record(template: str, document: dict, reason: str) -> None:
    found, reasons, counts = samples(document, template)
    assert not found and counts == {"template": 1}
    with pytest.raises(ValueError, match=reason):
        raise ValueError(*reasons)


def test_a_template_that_takes_tools_for_the_assistant_is_refused() -> None:
    other = MARKED["turn"].replace("m.role == 'assistant'", "m.role != 'user'")
    with pytest.raises(ValueError, match="marks messages of tools as generated"):
        tokenize_conversation([ASKED, SAID, RESULT, SAID], made(other))


def test_keys_without_a_known_meaning_are_counted() -> None:
    turns = [{**ASKED, "date": "today", "index": 0}, {**SAID, "date": "now", "note": None, "weight": 1}]
    _, reasons, counts = samples({"conversations": turns}, CHATML)
    assert not reasons and counts == {"key_date": 1, "key_index": 1}
    _, _, counts = samples({"conversations": [{**ASKED, "weight": 1}, SAID]}, CHATML)
    assert counts == {"key_weight": 1}
    dated = CHATML.replace("{{ m.content }}", "{{ m.date }}: {{ m.content }}")
    assert unwritten_keys(turns, (), made(dated)) == ["index"]


def test_reasoning_of_earlier_turns_that_the_template_leaves_out_is_counted() -> None:
    turns = [ASKED, {**SAID, "reasoning_content": "why"}, ASKED, SAID]
    found, reasons, counts = samples({"conversations": turns}, QWEN_TOOLS)
    assert len(found) == 1 and not reasons and counts == {"key_reasoning_content": 1}


def test_tool_calls_in_every_form_become_one() -> None:
    flat = {"name": "weather", "arguments": {"city": "Oslo"}}
    (_, one), (_, other) = (with_tool_calls([ASKED, {**CALLED, "tool_calls": [call]}]) for call in (CALL, flat))
    assert one["tool_calls"][0]["function"] == other["tool_calls"][0]["function"] == flat
    assert one["tool_calls"][0]["id"] == "c1" and CALL["function"]["arguments"] == '{"city": "Oslo"}'
    assert with_tool_calls([{**SAID, "tool_calls": []}, SAID]) == [SAID, SAID]


@pytest.mark.parametrize("letters", ["ua", "u", "sua", "uata", "uatta", "uatatauata", "uat", "uauat", "uau"])
def test_tools_speak_between_messages_of_the_assistant(letters: str) -> None:
    names = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    check_roles([names[letter] for letter in letters])
    for wrong in (
        f"{letters}s",
        f"t{letters}",
        f"a{letters}",
        letters.replace("u", "ut", 1),
        letters.replace("u", "uu", 1),
    ):
        with pytest.raises(ValueError, match="tool messages only between two of the assistant"):
            check_roles([names[letter] for letter in wrong])


def test_what_a_conversation_says_besides_its_text_is_named() -> None:
    document = {"tools": TOOLS, "conversations": [ASKED, {**CALLED, "weight": 0, "date": "now"}]}
    assert meant_keys(document) == ["tool_calls", "weight", "tools"]
    assert meant_keys({"conversations": [ASKED, SAID, RESULT, SAID]}) == ["tools"]
    assert meant_keys({"conversations": [ASKED, SAID]}) == []
