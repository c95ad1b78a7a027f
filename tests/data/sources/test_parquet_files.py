import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beacon_lit.data.records import MalformedRecord
from beacon_lit.data.sources import ParquetSource
from tests.data.sources.writing import turns, write_parquet

RECORDS = [
    {"id": "a", "text": "some text"},
    {"conversations": turns("hello", "yes", system="be brief")},
    {"id": "c", "text": "ünicode"},
]


def read(path: str | Path, **settings: int | str) -> tuple[list[dict], list[MalformedRecord]]:
    source = ParquetSource(str(path), **settings)
    records = list(source.documents())
    assert list(source.documents(None)) == records
    documents = [record for record in records if not isinstance(record, MalformedRecord)]
    return documents, [record for record in records if isinstance(record, MalformedRecord)]


def test_text_and_conversations_in_one_file(tmp_path: Path) -> None:
    expected = [
        {"id": "a", "text": "some text"},
        {"id": "a.parquet:2", "conversations": RECORDS[1]["conversations"]},
        {"id": "c", "text": "ünicode"},
    ]
    for compression in ("none", "snappy", "zstd"):
        path = write_parquet(tmp_path / "a.parquet", RECORDS, compression=compression, row_group_size=2)
        assert read(path) == (expected, [])


def test_other_columns_and_large_types(tmp_path: Path) -> None:
    schema = pa.schema([("body", pa.large_string()), ("url", pa.string()), ("id", pa.int64())])
    path = write_parquet(tmp_path / "a.parquet", [{"body": "x", "url": "y", "id": 7}], schema)
    assert read(path, text_column="body") == ([{"id": "7", "text": "x"}], [])
    with pytest.raises(ValueError, match=r"either text or conversations; this one has \['body', 'id', 'url'\]"):
        ParquetSource(path)


def test_a_later_file_without_the_columns_is_bad_row_by_row(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", RECORDS)
    write_parquet(tmp_path / "b.parquet", [{"id": "x"}] * 3, pa.schema([("id", pa.string())]))
    documents, bad = read(tmp_path / "*.parquet")
    assert [len(documents), [b.kind for b in bad]] == [3, ["no_text"] * 3]


def test_bad_rows_are_named(tmp_path: Path) -> None:
    records = [*RECORDS, {"id": "d"}, {"text": "a\0b"}, {"text": "x" * 100}, {"conversations": turns()}, {"text": "z"}]
    path = write_parquet(tmp_path / "a.parquet", records)
    documents, bad = read(path, max_bytes=99)
    assert [document["id"] for document in documents] == ["a", "a.parquet:2", "c", "a.parquet:8"]
    expected = [("empty_text", 4), ("nul", 5), ("too_large", 6), ("roles", 7)]
    assert [(b.kind, b.where) for b in bad] == [(kind, f"{path}, record {number}") for kind, number in expected]


def test_columns_of_another_type(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [{"text": 5}], pa.schema([("text", pa.int64())]))
    assert [b.kind for b in read(path)[1]] == ["wrong_type"]
    pairs = pa.schema([("conversations", pa.list_(pa.struct([("who", pa.string()), ("said", pa.string())])))])
    path = write_parquet(tmp_path / "a.parquet", [{"conversations": [{"who": "human", "said": "x"}]}], pairs)
    assert "'said', 'who'" in read(path)[1][0].reason


def test_invalid_utf8_is_found_in_its_row(tmp_path: Path) -> None:
    raw = pa.array([b"good", b"bad \xff", b"good"]).view(pa.string())
    pq.write_table(pa.table({"text": raw}), tmp_path / "a.parquet")
    documents, bad = read(tmp_path / "a.parquet")
    assert [document["id"] for document in documents] == ["a.parquet:1", "a.parquet:3"]
    assert [(b.kind, b.where) for b in bad] == [("invalid_utf8", f"{tmp_path}/a.parquet, record 2")]
    assert "byte 5 of a string is 0xff" in bad[0].reason


def test_empty_files(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [])
    assert [(b.kind, b.where) for b in read(path)[1]] == [("empty_file", path)]
    (tmp_path / "a.parquet").write_bytes(b"")
    assert [(b.kind, b.where) for b in read(path)[1]] == [("empty_file", path)]


def test_a_file_cut_off_anywhere_or_of_another_kind(tmp_path: Path) -> None:
    path = Path(write_parquet(tmp_path / "a.parquet", RECORDS * 100))
    whole, rng = path.read_bytes(), random.Random(0)
    for length in (1, 4, 8, 12, *(rng.randrange(13, len(whole)) for _ in range(30)), len(whole) - 1):
        path.write_bytes(whole[:length])
        documents, bad = read(path)
        assert (documents, [(b.kind, b.where) for b in bad]) == ([], [("truncated", str(path))]), length
    path.write_text('{"text": "x"}\n' * 3)
    assert [b.kind for b in read(path)[1]] == ["truncated"]


def test_a_damaged_file_keeps_what_came_before(tmp_path: Path) -> None:
    records = [{"id": str(i), "text": random.Random(i).randbytes(500).hex()} for i in range(200)]
    path = Path(
        write_parquet(tmp_path / "a.parquet", records, row_group_size=50, compression="gzip", use_dictionary=False)
    )
    data = bytearray(path.read_bytes())
    middle = slice(len(data) // 2, len(data) // 2 + 2000)
    data[middle] = bytes(2000)
    path.write_bytes(bytes(data))
    documents, bad = read(path)
    assert documents == records[: len(documents)]
    assert 50 <= len(documents) <= 150
    assert [b.kind for b in bad] == ["corrupt"]
    assert f"after record {len(documents)}" in bad[0].where


def test_memory_stays_flat(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"text": [random.Random(i).randbytes(10_000).hex() for i in range(2_500)]})
    pq.write_table(table, path, row_group_size=2_500, write_batch_size=32, use_dictionary=False)
    assert pq.read_metadata(path).num_row_groups == 1
    del table
    before = pa.total_allocated_bytes()
    allocated = [pa.total_allocated_bytes() - before for _ in ParquetSource(str(path)).documents()]
    assert len(allocated) == 2_500
    peak = max(allocated)
    assert peak < 15_000_000, f"{peak:,} bytes for a file of 50 MB"
