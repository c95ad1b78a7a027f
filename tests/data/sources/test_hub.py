import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader, IterableDataset

from beacon_lit.data.records import MalformedRecord, Partition, SourceRecord
from beacon_lit.data.sources import HubSource
from tests.data.sources.writing import as_lines, turns, write, write_parquet

FILES, EACH = 4, 25
IDS = [str(number) for number in range(FILES * EACH)]


@pytest.fixture
def folder(tmp_path: Path) -> str:
    for file in range(FILES):
        records = [{"id": name, "text": f"text {name}"} for name in IDS[file * EACH : (file + 1) * EACH]]
        write(tmp_path / "set" / f"train-{file}.jsonl", as_lines(records))
    return str(tmp_path / "set")


def test_documents_come_in_the_order_of_the_files(folder: str) -> None:
    source = HubSource(folder)
    for _ in range(2):
        assert [document["id"] for document in source.documents()] == IDS  # type: ignore[index]
    assert next(iter(source.documents())) == {"id": "0", "text": "text 0"}


def test_parquet_conversations_splits_and_malformed_records(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    records = [{"conversations": turns("a", "b")}, {"text": "x"}, {"text": "x", "conversations": turns("a")}]
    write_parquet(tmp_path / "set" / "validation.parquet", records)
    source = HubSource(str(tmp_path / "set"), split="validation")
    found = list(source.documents())
    assert found[:2] == [
        {"id": f"{tmp_path}/set:1:1", "conversations": turns("a", "b")},
        {"id": f"{tmp_path}/set:1:2", "text": "x"},
    ]
    assert isinstance(found[2], MalformedRecord)
    assert (found[2].kind, found[2].where) == ("both_kinds", f"{tmp_path}/set (validation), file 1, record 3")
    with pytest.raises(ValueError, match=r"split='train'.*cannot be opened or reached"):
        list(HubSource(str(tmp_path / "set")).documents())


def test_other_column_names(tmp_path: Path) -> None:
    write(tmp_path / "set" / "a.jsonl", as_lines([{"body": "x", "messages": None}, {"messages": turns("a", "b")}]))
    source = HubSource(str(tmp_path / "set"), text_column="body", conversations_column="messages")
    assert [sorted(document) for document in source.documents()] == [["id", "text"], ["conversations", "id"]]  # type: ignore[type-var]
    with pytest.raises(ValueError, match=r"either text or conversations; this one has \['body', 'messages'\]"):
        list(HubSource(str(tmp_path / "set"), columns={"text": "content"}).documents())


def test_a_dataset_that_cannot_be_reached_is_a_value_error() -> None:
    source = HubSource("nobody/nothing-of-this-name", config="small", revision="abc")
    with pytest.raises(
        ValueError, match=r"dataset='nobody/nothing-of-this-name' \(config='small', .* cannot be opened"
    ):
        next(source.documents())
    with pytest.raises(ValueError, match="cannot be opened or reached"):
        source.partitions()


def test_a_stream_that_breaks_is_a_value_error(tmp_path: Path) -> None:
    write(tmp_path / "set" / "a.jsonl", as_lines([{"text": "x"}] * 3))
    write(tmp_path / "set" / "b.jsonl", '{"text": "x"}\n{"text": \n')
    records = HubSource(str(tmp_path / "set")).documents()
    with pytest.raises(ValueError, match=r"\(train\), file 2, after record 0: cannot be read"):
        list(records)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"dataset": "./missing"},
            r"dataset='\./missing' must be a name on the hub \(owner/name\) or an existing folder",
        ),
        ({"dataset": "a/b/c"}, "dataset='a/b/c'"),
        ({"dataset": ""}, "dataset=''"),
        ({"split": None}, "split=None must be a string"),
        ({"config": 2020}, "config=2020 must be a string"),
        ({"limit": 0}, "limit=0"),
        ({"weight": -1.0}, "weight=-1.0"),
        ({"max_bytes": 0}, "max_bytes=0"),
    ],
)
def test_bad_settings_are_refused_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HubSource(**{"dataset": "owner/name", **settings})


def test_shards_are_the_files_and_read_alike_in_a_worker(folder: str) -> None:
    partitions = HubSource(folder).partitions()
    assert [[document["id"] for document in partition()] for partition in partitions] == [
        IDS[file * EACH : (file + 1) * EACH] for file in range(FILES)
    ]
    loader = DataLoader(Whole(partitions[1]), batch_size=None, num_workers=2, collate_fn=lambda record: record)
    assert sorted(document["id"] for document in loader) == sorted(2 * IDS[EACH : 2 * EACH])


class Whole(IterableDataset):
    """A partition, read from its start to its end by every worker."""

    def __init__(self, partition: Partition) -> None:
        self.partition = partition

    def __iter__(self) -> Iterator[SourceRecord]:
        return self.partition()


def test_the_key_is_of_settings_and_of_a_folder_s_files(folder: str) -> None:
    source = HubSource(folder)
    key = source.key()
    assert json.loads(json.dumps(key)) == key
    assert HubSource(folder, limit=5, weight=2.0).key() == key
    assert HubSource(folder, split="test").key() != key
    assert HubSource("owner/name", revision="a").key() != HubSource("owner/name", revision="b").key()
    write(Path(folder) / "train-0.jsonl", '{"text": "changed"}')
    assert source.key() != key
