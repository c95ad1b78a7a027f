"""The same records, in whichever format, are the same documents."""

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beacon_lit.data.records import MalformedRecord, SkippedRecords, Source, Tolerance, read_documents
from beacon_lit.data.sources import HubSource, JsonSource, ParquetSource
from tests.data.sources.writing import as_lines, turns, write, write_parquet

TEXT = st.text(
    st.characters(exclude_categories=["Cs"]), max_size=20
)  # no half surrogate pairs: JSON alone can have them
RECORD = st.fixed_dictionaries(
    {},
    optional={
        "id": st.text("ab1", min_size=1, max_size=3),
        "text": st.none() | TEXT,
        "conversations": st.none() | st.builds(turns, TEXT, TEXT, system=st.none() | TEXT) | st.just([]),
    },
)


def outcome(source: Source) -> list[Any]:
    """Documents without ids that name the file, and kinds of malformed records.

    Where a record of JSON lacks a key (no_text), Parquet has a null (empty_text).
    """
    found = []
    for record in source.documents(None):
        if isinstance(record, MalformedRecord):
            kind = "empty_text" if record.kind == "no_text" else record.kind
            found.append((kind, record.where.rpartition(" ")[2]))
        else:
            found.append({**record, "id": record["id"].rpartition(":")[2]})
    return found


@settings(max_examples=40)
@given(st.lists(RECORD, min_size=1, max_size=6))
def test_any_records_in_any_format(records: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        array = json.dumps(records)
        sources = [
            JsonSource(write(folder / file, content))
            for file, content in {
                "a.json": array,
                "b.json.gz": array,
                "c.json": json.dumps(records, indent=2, ensure_ascii=False),
                "d.jsonl": as_lines(records),
                "e.jsonl.gz": as_lines(records),
                "f.jsonl.zst": as_lines(records),
            }.items()
        ]
        expected = outcome(sources[0])
        assert len(expected) == len(records)
        for source in (*sources[1:], ParquetSource(write_parquet(folder / "g.parquet", records, row_group_size=2))):
            assert outcome(source) == expected, source.name


def test_a_source_of_every_kind_is_read_within_its_tolerance(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [{"text": "x"}, {"text": "\0"}, {"text": "y"}, {"text": "\0"}]
    lines = write(tmp_path / "lines" / "a.jsonl", as_lines(records))
    table = write_parquet(tmp_path / "b.parquet", records)
    for source in (JsonSource(lines), ParquetSource(table), HubSource(str(tmp_path / "lines"))):
        counts: Counter[str] = Counter()
        skipped = SkippedRecords(Tolerance(max_bad=2), source.name, counts)
        assert [document["text"] for document in read_documents(source, None, skipped)] == ["x", "y"]
        assert counts == {"nul": 2}
        with pytest.raises(ValueError, match=r"(line|record) 4: the text has a NUL.*malformed record 2 of .*max_bad=1"):
            list(read_documents(source, None, SkippedRecords(Tolerance(max_bad=1), source.name, Counter())))
        with pytest.raises(ValueError, match="2: the text has a NUL"):
            list(read_documents(source, None, SkippedRecords(Tolerance(strict=True), source.name, Counter())))
