import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from beacon_lit.data.records import Source
from beacon_lit.data.sources import JsonSource, ParquetSource
from beacon_lit.data.sources.files import RecordFileSource
from tests.data.sources.writing import as_lines, write


def ids(source: Source) -> list[str]:
    return [document["id"] for document in source.documents(None)]  # type: ignore[index]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b", "a", "c"):
        write(tmp_path / "set" / f"{name}.jsonl", as_lines([{"id": name, "text": name}]))
    write(tmp_path / "set" / "d.txt", "not this one")
    return tmp_path


def test_globs_are_sorted(folder: Path) -> None:
    assert ids(JsonSource(str(folder / "**/*.jsonl"))) == ["a", "b", "c"]
    assert ids(JsonSource(str(folder / "set/[bc].jsonl"))) == ["b", "c"]


def test_the_data_root_is_resolved(folder: Path) -> None:
    assert ids(JsonSource("long-llm:set/[ab].jsonl[7]", data_root=str(folder))) == ["a", "b"]
    assert ids(JsonSource("long-llm:set/c.jsonl", str(folder))) == ["c"]


def test_a_number_in_brackets_is_the_limit(folder: Path) -> None:
    source = JsonSource(str(folder / "set/a.jsonl[5000]"))
    assert (source.limit, ids(source)) == (5000, ["a"])
    assert JsonSource(str(folder / "set/a.jsonl")).limit is None


def test_a_path_with_a_glob_s_characters_is_taken_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "a [x].jsonl", as_lines([{"id": "odd", "text": "x"}]))
    assert ids(JsonSource(path)) == ["odd"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing.json[5]", r"path='.*missing\.json\[5\]' must name an existing file or match some"),
        ("*.json", r"must name an existing file or match some; .*\*\.json does not"),
        ("set", "must name an existing file"),
        ("set/a.jsonl[0]", "the number in brackets must be at least 1"),
        ("set/a.jsonl[]", "must name an existing file"),
    ],
)
def test_bad_paths_are_refused_at_once(folder: Path, path: str, message: str) -> None:
    for kind in (JsonSource, ParquetSource):
        with pytest.raises(ValueError, match=message):
            kind(str(folder / path))
        with pytest.raises(ValueError, match=message):
            kind(f"long-llm:{path}", str(folder))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": "long-llm:set/a.jsonl"}, "data_root=None must name a folder"),
        ({"path": ""}, "path='' must be a string"),
        ({"path": 5}, "path=5 must be a string"),
        ({"weight": 0}, "weight=0 must be a number above 0"),
        ({"weight": float("nan")}, "weight=nan"),
        ({"weight": "2"}, "weight='2'"),
        ({"weight": True}, "weight=True"),
        ({"answer_share": 0.0}, "answer_share=0.0 must be above 0 and at most 1"),
        ({"answer_share": 1.5}, "answer_share=1.5"),
        ({"text_column": ""}, "text_column='' must be"),
        ({"conversations_column": "text"}, "conversations_column='text' must differ from text_column='text'"),
        ({"max_bytes": 0}, "max_bytes=0 must be an integer, at least 1"),
    ],
)
def test_bad_settings_are_refused_at_once(folder: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JsonSource(**{"path": str(folder / "set/a.jsonl"), **settings})


def test_the_key_is_of_what_the_documents_depend_on(folder: Path) -> None:
    path = folder / "set" / "a.jsonl"
    source = JsonSource(str(path))
    key = source.key()
    assert json.loads(json.dumps(key)) == key
    assert key["source"] == "JsonSource"
    assert key["files"] == [[str(path), path.stat().st_size, path.stat().st_mtime_ns]]
    same = JsonSource("long-llm:set/a.jsonl[5]", str(folder), weight=2.0, answer_share=0.5)
    assert same.key() == key, "how many are drawn, and how they count, changes no document"
    assert JsonSource(str(path), max_bytes=5).key() != key
    assert JsonSource(str(path), conversations_column="messages").key() != key
    assert JsonSource(str(folder / "set/*.jsonl")).key() != key
    path.write_text(path.read_text().replace("a", "x"))
    assert source.key() != key, "as long as before, changed later"


@dataclass(frozen=True, kw_only=True)
class Separated(RecordFileSource):
    """A source with a required setting of its own."""

    separator: str


def test_a_setting_of_a_new_source_is_in_its_key(folder: Path) -> None:
    path = str(folder / "set" / "d.txt")
    assert Separated(path, separator=",").key() != Separated(path, separator=";").key()
    assert Separated(path, separator=",").key() == Separated(path, separator=",", weight=2.0).key()
