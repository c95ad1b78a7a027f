import gzip
import json
import random
import re
import tracemalloc
from pathlib import Path

import pytest

from beacon_lit.data.records import MalformedRecord
from beacon_lit.data.sources import JsonSource
from tests.data.sources.writing import as_lines, turns, write, zstd

RECORDS = [
    {"id": "a", "text": "some text"},
    {"text": 'line\nbreak, ünicode, "quotes" and \\ and ], [ {', "title": "other keys do not matter"},
    {"conversations": turns("hello", "yes"), "text": None},
    {"id": 5, "conversations": turns("hello", "yes", "more", system="")},
]
DOCUMENTS = [
    {"id": "a", "text": RECORDS[0]["text"]},
    {"id": "{name}:2", "text": RECORDS[1]["text"]},
    {"id": "{name}:3", "conversations": RECORDS[2]["conversations"]},
    {"id": "5", "conversations": RECORDS[3]["conversations"]},
]
GOOD = '{"text": "x"}'


def read(path: str | Path, **settings: int | str) -> tuple[list[dict], list[MalformedRecord]]:
    """(documents, malformed records) of a file; a source can be read twice."""
    source = JsonSource(str(path), **settings)
    records = list(source.documents())
    assert list(source.documents(None)) == records
    documents = [record for record in records if not isinstance(record, MalformedRecord)]
    return documents, [record for record in records if isinstance(record, MalformedRecord)]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("mark", ["", "\ufeff", " \n\t"])
@pytest.mark.parametrize("indent", [None, 1, "lines"])
def test_reads_lines_and_arrays_plain_and_compressed(
    tmp_path: Path, name: str, suffix: str, mark: str, indent: int | str | None
) -> None:
    content = as_lines(RECORDS) if indent == "lines" else json.dumps(RECORDS, indent=indent)  # type: ignore[arg-type]
    path = write(tmp_path / (name + suffix), mark + content)
    shift = (indent == "lines") * mark.count("\n")  # blank lines count
    expected = [{**d, "id": d["id"].format(name=name + suffix)} for d in DOCUMENTS]
    for number in (2, 3):
        if shift:
            expected[number - 1]["id"] = f"{name}{suffix}:{number + shift}"
    assert read(path) == (expected, [])


def test_blank_lines_count_as_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '\n{"text": "x"}\r\n \n\n{"text": "y"}')
    assert [document["id"] for document in read(path)[0]] == ["a.jsonl:2", "a.jsonl:5"]


def test_columns_of_other_names(tmp_path: Path) -> None:
    records = [{"body": "x", "text": "not this"}, {"messages": turns("a", "b")}]
    path = write(tmp_path / "a.jsonl", as_lines(records))
    found = read(path, text_column="body", conversations_column="messages")
    assert found == ([{"id": "a.jsonl:1", "text": "x"}, {"id": "a.jsonl:2", "conversations": turns("a", "b")}], [])


@pytest.mark.parametrize("array", [False, True])
@pytest.mark.parametrize(
    ("record", "kind", "reason"),
    [
        ('{"text": }', "invalid_json", r"invalid JSON: Expecting value \(character 10 of the record\)"),
        ('{"text": "a\tb"}', "invalid_json", "control character"),
        ("{'text': 1}", "invalid_json", "double quotes"),
        ("[" * 100_000 + "]" * 100_000, "invalid_json", "recursion"),
        (f'{{"text": "x", "n": {"1" * 5000}}}', "invalid_json", "digits"),
        ('"x"', "not_an_object", "must be an object, not str"),
        ("[1]", "not_an_object", "must be an object, not list"),
        ('{"title": "y"}', "no_text", r"either text or conversations; this one has \['title'\]"),
        ('{"text": null}', "empty_text", "the text is null"),
        ('{"text": "x", "conversations": []}', "both_kinds", "either text or conversations"),
        ('{"text": 5}', "wrong_type", "text must be a string, not int"),
        ('{"conversations": "x"}', "wrong_type", "conversations must be a list of .*role.*content.*, not str"),
        ('{"conversations": ["x"]}', "wrong_type", "message 1 must be like .*role.*, not str"),
        ('{"conversations": []}', "roles", r"these are \[\]"),
        ('{"conversations": [{"role": "system", "content": "x"}]}', "roles", r"these are \['system'\]"),
        ('{"conversations": [{"role": "assistant", "content": "x"}]}', "roles", r"these are \['assistant'\]"),
        (
            '{"conversations": [{"role": "user", "content": "x"}, {"role": "user", "content": "x"}]}',
            "roles",
            "these are",
        ),
        ('{"conversations": [{"who": "human", "said": "x"}]}', "roles", "needs a role.*'said', 'who'"),
        ('{"conversations": [{"role": "user", "content": null}]}', "content", "message 1 must be a string, not None"),
        (
            '{"conversations": [{"role": "user", "content": [1]}]}',
            "content",
            "must be a string or a list of text parts, not of .int.",
        ),
        ('{"conversations": [{"role": "user", "content": " "}]}', "empty_text", "empty or blank"),
        ('{"text": ""}', "empty_text", "empty or blank"),
        ('{"text": " \\n"}', "empty_text", "empty or blank"),
        ('{"text": "a\\u0000b"}', "nul", "NUL character"),
        ('{"text": "a\0b"}', "nul", "NUL byte"),
        ('{"conversations": [{"role": "user", "content": "\\u0000"}]}', "nul", "NUL"),
        (b'{"text": "\xff"}', "invalid_utf8", "byte 11 of the record is 0xff"),
        ('{"text": "a\\ud800"}', "invalid_utf8", "character 2 is half of a surrogate pair"),
        ('{"id": "\\ud800", "text": "a"}', "invalid_utf8", "surrogate"),
        (f'{{"text": "{"x" * 300_000}"}}', "too_large", r"300,01\d bytes, max_bytes=250,000"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isidentifier() else "",
)
def test_a_malformed_record_is_named_and_those_around_it_are_kept(
    tmp_path: Path, array: bool, record: str | bytes, kind: str, reason: str
) -> None:
    records = [part.encode() if isinstance(part, str) else part for part in (GOOD, record, GOOD)]
    path = write(tmp_path / "a.json", b"[" + b",\n".join(records) + b"]" if array else b"\n".join(records))
    documents, bad = read(path, max_bytes=250_000)
    assert [document["id"] for document in documents] == ["a.json:1", "a.json:3"]
    assert [(b.kind, b.where) for b in bad] == [(kind, f"{path}, {'record' if array else 'line'} 2")]
    assert re.search(reason, bad[0].reason), bad[0].reason


@pytest.mark.parametrize(
    ("content", "good", "kind", "where"),
    [
        ("", 0, "empty_file", ""),
        (" \n\n", 0, "empty_file", ""),
        ("\ufeff", 0, "empty_file", ""),
        ("[ ]", 0, "empty_file", ""),
        (f"[{GOOD},]", 1, "invalid_json", ", record 2"),
        (f"[{GOOD}] {GOOD}", 1, "invalid_json", ", record 1"),
        (f"[{GOOD} {GOOD}]", 0, "invalid_json", ", record 1"),
        (f"[{GOOD}, {GOOD}", 2, "truncated", ", record 2"),
        (f"[{GOOD}, ", 1, "truncated", ", record 1"),
        ("[", 0, "truncated", ""),
        (f'{GOOD}\n{{"text": "x', 1, "truncated", ", line 2"),
        (f'{GOOD}\n{{"text": "x\n', 1, "invalid_json", ", line 2"),
        (f'{GOOD}\n{{"text": "é'.encode()[:-1], 1, "truncated", ", line 2"),
    ],
)
def test_bad_files(tmp_path: Path, content: str | bytes, good: int, kind: str, where: str) -> None:
    for name in ("a.json", "a.json.gz", "a.json.zst"):
        path = write(tmp_path / name, content)
        documents, bad = read(path)
        assert len(documents) == good
        assert [(b.kind, b.where) for b in bad] == [(kind, path + where)]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.json.gz", "a.jsonl.gz", "a.json.zst", "a.jsonl.zst"])
def test_a_file_cut_off_anywhere_gives_a_prefix(tmp_path: Path, name: str) -> None:
    rng = random.Random(name)
    # Noise, which does not compress: else a few bytes would hold everything.
    letters = [chr(code) for code in range(32, 1000)]
    records = [{"id": str(i), "text": "".join(rng.choices(letters, k=1000))} for i in range(400)]
    content = as_lines(records) if ".jsonl" in name else json.dumps(records, ensure_ascii=False)
    whole = Path(write(tmp_path / name, content)).read_bytes()
    lengths = [1, 2, 3, 4, 12, *(rng.randrange(5, len(whole)) for _ in range(25)), len(whole) - 1]
    found = {}
    for length in lengths:
        (tmp_path / name).write_bytes(whole[:length])
        documents, bad = read(tmp_path / name)
        assert documents == records[: len(documents)]
        between_lines = name == "a.jsonl" and whole[:length].endswith((b"\n", b"}"))
        assert [b.kind for b in bad] == ([] if between_lines else ["truncated"]), length
        found[length] = len(documents)
    # Zstandard decompresses blocks of 128 KiB.
    lost = max(length / len(whole) * len(records) - count for length, count in found.items())
    assert lost < (80 if name.endswith("zst") else 15), "what came before is kept"
    (tmp_path / name).write_bytes(whole)
    assert read(tmp_path / name) == (records, [])
    if name == "a.json" or name.endswith(".gz"):
        (tmp_path / name).write_bytes(whole[:-1])
        assert len(read(tmp_path / name)[0]) == len(records), "only an end was lost"


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_damaged_compressed_file(tmp_path: Path, suffix: str) -> None:
    path = Path(write(tmp_path / f"a.jsonl{suffix}", as_lines(RECORDS * 200)))
    data = bytearray(path.read_bytes())
    data[-6] ^= 255  # in the checksum
    path.write_bytes(bytes(data))
    _, bad = read(path)
    assert [b.kind for b in bad] == ["corrupt"]
    assert "damaged" in bad[0].reason and str(path) in bad[0].where
    path.write_bytes(as_lines(RECORDS).encode())
    assert [b.kind for b in read(path)[1]] == ["corrupt"], "not compressed at all"
    path.write_bytes(b"")
    assert [b.kind for b in read(path)[1]] == ["empty_file"]


def test_compressed_files_of_several_parts(tmp_path: Path) -> None:
    lines = as_lines([{"text": "x"}, {"text": "y"}]).encode()
    skippable = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"meta"  # parallel zstd writes such frames
    for name, data in {
        "a.jsonl.gz": gzip.compress(lines[:5]) + gzip.compress(lines[5:]),
        "a.jsonl.zst": skippable + zstd.compress(lines[:5]) + skippable + zstd.compress(lines[5:]),
    }.items():
        (tmp_path / name).write_bytes(data)
        documents, bad = read(tmp_path / name)
        assert [document["text"] for document in documents] == ["x", "y"]
        assert not bad


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.json.gz"])
def test_memory_stays_flat(tmp_path: Path, name: str) -> None:
    record = json.dumps({"text": "some text, a line\n" * 2_500})
    count = 50_000_000 // len(record)
    with gzip.open(tmp_path / name, "wt", 1) if name.endswith("gz") else open(tmp_path / name, "w") as file:
        file.write("[" if ".jsonl" not in name else "")
        for number in range(count):
            file.write(("" if number == 0 else "\n" if ".jsonl" in name else ",") + record)
        file.write("]" if ".jsonl" not in name else "\n")
    tracemalloc.start()
    try:
        assert sum("text" in document for document in JsonSource(str(tmp_path / name)).documents()) == count
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3_000_000, f"{peak:,} bytes for a file of 50 MB"


@pytest.mark.parametrize("start", ["", "["])
def test_a_line_of_any_length_is_not_kept_in_memory(tmp_path: Path, start: str) -> None:
    path = write(tmp_path / "a.json", start + '{"text": "' + "x" * 30_000_000 + '"}' + ("," if start else "\n") + GOOD)
    source = JsonSource(path, max_bytes=100_000)
    tracemalloc.start()
    try:
        records = list(source.documents())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [getattr(record, "kind", "good") for record in records][:2] == ["too_large", "good"]
    assert peak < 2_000_000
