"""Every schema of records, in JSON, is read as the document that it means."""

import re
from pathlib import Path
from typing import Any

import pytest

from beacon_lit.data.records import MalformedRecord
from beacon_lit.data.sources import AutoSource, JsonSource, as_source
from tests.data.sources.writing import as_lines, turns, write

CHAT = turns("hello", "yes", system="be brief")
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
CALL = [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}]


def read(folder: Path, record: Any, **settings: Any) -> Any:
    """The document of a record without its id, or the kind and the reason of a malformed one."""
    (found,) = JsonSource(write(folder / "a.jsonl", as_lines([record])), **settings).documents()
    if isinstance(found, MalformedRecord):
        return found.kind, found.reason
    return {name: value for name, value in found.items() if name != "id"}


def sharegpt(*spoken: tuple[str, str]) -> list[dict[str, str]]:
    return [{"from": speaker, "value": text} for speaker, text in spoken]


@pytest.mark.parametrize(
    ("record", "conversation"),
    [
        ({"conversations": CHAT}, CHAT),
        ({"conversations": CHAT[1:], "system": "be brief"}, CHAT),
        ({"conversations": sharegpt(("system", "be brief"), ("human", "hello"), ("gpt", "yes"))}, CHAT),
        ({"conversations": sharegpt(("user", "hello"), ("chatgpt", "yes"))}, CHAT[1:]),
        ({"messages": CHAT, "prompt": "hello", "prompt_id": "7", "length": 3}, CHAT),  # UltraChat, LongAlign
        ({"data": ["hello", "yes"]}, CHAT[1:]),
        ({"instruction": "hello", "input": "", "output": "yes"}, CHAT[1:]),
        ({"instruction": "Sum up.", "input": "A text.", "output": "yes"}, turns("Sum up.\n\nA text.", "yes")),
        ({"instruction": "Sum up.", "context": "A text.", "response": "yes", "category": "x"},
         turns("Sum up.\n\nA text.", "yes")),
        ({"instruction": "c", "output": "d", "history": [["a", "b"]], "system": "s"},
         turns("a", "b", "c", "d", system="s")),
        ({"prompt": "hello", "completion": "yes"}, CHAT[1:]),
        ({"prompt": "hello", "response": "yes", "system": "be brief"}, CHAT),
        ({"prompt": CHAT[:2], "completion": CHAT[2:]}, CHAT),
    ],
)  # fmt: skip
def test_a_conversation_of_any_schema(tmp_path: Path, record: dict[str, Any], conversation: list[Any]) -> None:
    assert read(tmp_path, record) == {"conversations": conversation}


def test_content_parts_are_joined_and_other_parts_are_malformed(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "yes"}]
    assert read(tmp_path, {"messages": messages}) == {"conversations": CHAT[1:]}
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    kind, reason = read(tmp_path, {"messages": image})
    assert kind == "content" and "not of 'image_url'" in reason


@pytest.mark.parametrize("tools", [TOOLS, '[{"type": "function", "function": {"name": "look", "parameters": {}}}]'])
def test_tools_and_all_keys_of_messages_are_kept(tmp_path: Path, tools: Any) -> None:
    said = {"role": "assistant", "content": None, "tool_calls": CALL, "weight": 0, "name": None}
    document = read(tmp_path, {"messages": [CHAT[1], said], "tools": tools})
    assert document["conversations"][1] == {"role": "assistant", "content": "", "tool_calls": CALL, "weight": 0}
    assert document["tools"][0]["function"]["name"] == "look"
    assert read(tmp_path, {"messages": CHAT, "tools": "no list"})[0] == "wrong_type"


def test_tokens_are_read_from_json(tmp_path: Path) -> None:
    document = read(tmp_path, {"input_ids": [5, 6, 7], "labels": [-100, 6, 7], "attention_mask": [1, 1, 1]})
    assert (document["input_ids"].tolist(), document["trained"].tolist()) == ([5, 6, 7], [False, True, True])
    for ids, kind in (([], "no_tokens"), ([1, None], "wrong_type"), (["a"], "wrong_type"), ("abc", "wrong_type")):
        assert read(tmp_path, {"input_ids": ids})[0] == kind


@pytest.mark.parametrize(
    ("record", "kind", "reason"),
    [
        (
            {"text": "x", "messages": CHAT},
            "both_kinds",
            r"this one has text and messages: choose in.*columns=\{text: text\}",
        ),
        ({"text": "x", "instruction": "a", "output": "b"}, "both_kinds", "has text and instruction, output"),
        ({"instruction": "a"}, "no_text", r"has \['instruction'\]. Also read: messages; data; instruction, output"),
        ({"question": "a", "answer": "b"}, "no_text", r"columns=\{prompt: question, completion: answer\}"),
        ({"instruction": "a", "output": ""}, "empty_text", "instruction or output is empty"),
        ({"instruction": "a", "output": None}, "empty_text", "null"),
        ({"instruction": "a", "output": 5}, "wrong_type", "output must be a string, not int"),
        ({"prompt": CHAT[:1], "completion": "x"}, "wrong_type", "prompt must be a string, not list"),
        ({"data": ["a", 5]}, "content", "message 2 must be a string, not int"),
        ({"conversations": CHAT, "system": "again"}, "roles", "these are .'system', 'system'"),
        ({"data": {}}, "wrong_type", "data must be a list of strings, not dict"),
        ({"conversations": sharegpt(("gpt", "a"))}, "roles", r"these are \['assistant'\]"),
        ({"instruction": "a", "output": "b", "history": [["c"]]}, "wrong_type", "pairs"),
    ],
)
def test_a_record_of_no_schema_is_malformed_with_a_way_out(
    tmp_path: Path, record: dict[str, Any], kind: str, reason: str
) -> None:
    found = read(tmp_path, record)
    assert found[0] == kind and re.search(reason, found[1]), found


def test_columns_are_mapped_and_no_others_are_read(tmp_path: Path) -> None:
    mapped = {"columns": {"prompt": "question", "completion": "answer"}}
    assert read(tmp_path, {"question": "hello", "answer": "yes", "text": "x"}, **mapped) == {"conversations": CHAT[1:]}
    both = {"text": "x", "messages": CHAT}
    assert read(tmp_path, both, columns={"text": "text"}) == {"text": "x"}
    assert read(tmp_path, both, columns={"messages": "messages"}) == {"conversations": CHAT}
    assert read(tmp_path, {"body": "x", "text": "y"}, text_column="body") == {"text": "x"}
    with pytest.raises(ValueError, match=r"columns=\{'question': 'prompt'\} names 'question'; allowed: text, conv"):
        read(tmp_path, {}, columns={"question": "prompt"})


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"text": "x"}, r"a.jsonl \(1 .jsonl\), read as text: text$"),
        ({"conversations": sharegpt(("human", "a"), ("gpt", "b"))}, r"conversations: conversations \(from, value\)$"),
        ({"messages": CHAT, "tools": TOOLS}, r"conversations: messages, tools \(role, content\)$"),
        ({"instruction": "a", "context": "b", "response": "c"}, "instructions: instruction, response, context$"),
    ],
)
def test_the_log_says_which_schema_was_recognised(tmp_path: Path, record: Any, said: str, caplog: Any) -> None:
    caplog.set_level("INFO")
    path = write(tmp_path / "a.jsonl", as_lines([{"text": ""}, record]))
    for source in (path, AutoSource(path)):
        caplog.clear()
        as_source(source, None)
        assert re.search(said, caplog.messages[-1]), caplog.messages
