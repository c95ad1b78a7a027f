import ast
import gzip
import json
from pathlib import Path

import pytest

from beacon_lit.data.sources import JsonSource, StandardLibrarySource

RECORDS = [
    {"id": "a", "text": "some text"},
    {"text": "line\nbreak, ünicode"},
    {"conversations": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}], "text": None},
]
DOCUMENTS = [
    {"id": "a", "text": "some text"},
    {"id": "{name}:2", "text": "line\nbreak, ünicode"},
    {"id": "{name}:3", "conversations": RECORDS[2]["conversations"]},
]


def lines(records: list) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def write(path: Path, text: str | bytes) -> str:
    data = text.encode() if isinstance(text, str) else text
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz", "a.json.gz"])
@pytest.mark.parametrize("as_array", [False, True])
def test_reads_lines_and_arrays_plain_and_compressed(tmp_path: Path, name: str, as_array: bool) -> None:
    path = write(tmp_path / name, json.dumps(RECORDS, indent=1) if as_array else lines(RECORDS))
    expected = [{**document, "id": document["id"].format(name=name)} for document in DOCUMENTS]
    source = JsonSource(path)
    assert list(source) == expected
    assert list(source) == expected, "a source can be read twice"


def test_blank_lines_count_as_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '\n{"text": "x"}\n\n{"text": "y"}')
    assert [document["id"] for document in JsonSource(path)] == ["a.jsonl:2", "a.jsonl:4"]


def test_glob_is_sorted_and_the_data_root_is_resolved(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        write(tmp_path / "set" / f"{name}.jsonl", lines([{"id": name, "text": name}]))
    write(tmp_path / "set" / "d.txt", "not this one")
    assert [document["id"] for document in JsonSource(str(tmp_path / "**/*.jsonl"))] == ["a", "b", "c"]
    source = JsonSource("long-llm:set/[ab].jsonl[7]", data_root=str(tmp_path))
    assert [document["id"] for document in source] == ["a", "b"]
    assert source.limit == 7
    assert JsonSource(str(tmp_path / "set" / "a.jsonl")).limit is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "a.jsonl: the file is empty"),
        ("\n \n", "a.jsonl: the file is empty"),
        ('{"text": "x"}\n{"text": \n', "a.jsonl, line 2: invalid JSON"),
        ('[{"text": "x"},\n{"text": }]', "a.jsonl, line 2: invalid JSON"),
        ('{"text": "x"}\n{"title": "y"}', r"a.jsonl, line 2: .*either text or conversations.*\['title'\]"),
        ('{"text": "x", "conversations": []}', "line 1: .*either text or conversations"),
        ('{"text": "x"}\n{"text": 5}', "line 2: text must be a str, not int"),
        ('{"conversations": "x"}', "line 1: conversations must be a list, not str"),
        ('["x"]', "record 1: a record must be an object, not str"),
        (b'{"text": "x"}\n{"text": "\xff"}', "line 2: .*utf-8"),
    ],
)
def test_bad_content_names_file_and_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    source = JsonSource(write(tmp_path / "a.jsonl", content))
    with pytest.raises(ValueError, match=message):
        list(source)


def test_truncated_gz_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(lines(RECORDS * 50).encode())[:-20])
    with pytest.raises(ValueError, match=r"a\.jsonl\.gz"):
        list(JsonSource(str(path)))


def test_bad_paths_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"missing\.json.*must name an existing file"):
        JsonSource(str(tmp_path / "missing.json[5]"))
    with pytest.raises(ValueError, match="must name an existing file"):
        JsonSource(str(tmp_path))
    with pytest.raises(ValueError, match="data_root=None must name a folder"):
        JsonSource("long-llm:a.json")
    path = write(tmp_path / "a.json", lines(RECORDS))
    with pytest.raises(ValueError, match="must be at least 1"):
        JsonSource(f"{path}[0]")


def test_standard_library_is_split_by_file() -> None:
    train, validation = (StandardLibrarySource(split) for split in ("train", "validation"))
    assert not set(train.files) & set(validation.files)
    texts = {source.split: {d["id"]: d["text"] for d in source} for source in (train, validation)}
    assert texts == {source.split: {d["id"]: d["text"] for d in source} for source in (train, validation)}
    assert sum(map(len, texts["train"].values())) > 1_500_000, "more than 100 steps of 1,024 tokens"
    assert 100_000 < sum(map(len, texts["validation"].values())) < 1_000_000
    assert all(len(text) >= 15_000 for text in texts["train"].values())
    assert "pydoc_data/topics.py" in texts["train"]
    with pytest.raises(SyntaxError):  # prose, not the module that holds it
        ast.parse(texts["train"]["pydoc_data/topics.py"])


def test_standard_library_bad_settings() -> None:
    with pytest.raises(ValueError, match="split='test' must be train or validation"):
        StandardLibrarySource("test")
    with pytest.raises(ValueError, match="every=1"):
        StandardLibrarySource("train", every=1)
    with pytest.raises(ValueError, match="min_characters=1000000000"):
        StandardLibrarySource("validation", min_characters=10**9)
