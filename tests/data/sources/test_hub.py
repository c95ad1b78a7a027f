import json
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from beacon_lit.data.records import BadRecord
from beacon_lit.data.sources import HubSource
from beacon_lit.data.sources.stream import HubStream
from tests.data.sources.writing import as_lines, turns, write, write_parquet

FILES, EACH = 4, 25
IDS = [str(number) for number in range(FILES * EACH)]


@pytest.fixture
def folder(tmp_path: Path) -> str:
    for file in range(FILES):
        records = [{"id": name, "text": f"text {name}"} for name in IDS[file * EACH : (file + 1) * EACH]]
        write(tmp_path / "set" / f"train-{file}.jsonl", as_lines(records))
    return str(tmp_path / "set")


def ids(stream: HubStream) -> list[str]:
    return [document["id"] for document in stream]  # type: ignore[index]


def test_documents_come_in_the_order_of_the_files(folder: str) -> None:
    source = HubSource(folder)
    for _ in range(2):
        assert [document["id"] for document in source.documents()] == IDS  # type: ignore[index]
    assert next(iter(source.documents())) == {"id": "0", "text": "text 0"}


def test_parquet_conversations_splits_and_bad_records(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    records = [{"conversations": turns("a", "b")}, {"text": "x"}, {"text": "x", "conversations": turns("a")}]
    write_parquet(tmp_path / "set" / "validation.parquet", records)
    source = HubSource(str(tmp_path / "set"), split="validation")
    found = list(source.documents())
    assert found[:2] == [
        {"id": f"{tmp_path}/set:1", "conversations": turns("a", "b")},
        {"id": f"{tmp_path}/set:2", "text": "x"},
    ]
    assert isinstance(found[2], BadRecord)
    assert (found[2].kind, found[2].where) == ("both_kinds", f"{tmp_path}/set (validation), record 3")
    with pytest.raises(ValueError, match=r"split='train'.*cannot be opened or reached"):
        list(HubSource(str(tmp_path / "set")).documents())


def test_other_column_names(tmp_path: Path) -> None:
    write(tmp_path / "set" / "a.jsonl", as_lines([{"body": "x", "messages": None}, {"messages": turns("a", "b")}]))
    source = HubSource(str(tmp_path / "set"), text_column="body", conversations_column="messages")
    assert [sorted(document) for document in source.documents()] == [["id", "text"], ["conversations", "id"]]  # type: ignore[type-var]
    with pytest.raises(ValueError, match=r"neither text_column='text' nor conversations_column='conversations', but"):
        list(HubSource(str(tmp_path / "set")).documents())


def test_a_dataset_that_cannot_be_reached_is_a_value_error() -> None:
    source = HubSource("nobody/nothing-of-this-name", config="small", revision="abc")
    with pytest.raises(
        ValueError, match=r"dataset='nobody/nothing-of-this-name' \(config='small', .* cannot be opened"
    ):
        next(source.documents())
    with pytest.raises(ValueError, match="cannot be opened or reached"):
        source.stream()


def test_a_stream_that_breaks_is_a_value_error(tmp_path: Path) -> None:
    write(tmp_path / "set" / "a.jsonl", as_lines([{"text": "x"}] * 3))
    write(tmp_path / "set" / "b.jsonl", '{"text": "x"}\n{"text": \n')
    records = HubSource(str(tmp_path / "set")).documents()
    with pytest.raises(ValueError, match=r"\(train\), after record [0-9]+: cannot be read"):
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
        ({"shuffle_buffer": -1}, "shuffle_buffer=-1 must be an integer, at least 0"),
        ({"limit": 0}, "limit=0"),
        ({"weight": -1.0}, "weight=-1.0"),
        ({"max_bytes": 0}, "max_bytes=0"),
    ],
)
def test_bad_settings_are_refused_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HubSource(**{"dataset": "owner/name", **settings})


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 5])  # files for each, and a record in turns
@pytest.mark.parametrize("buffer", [0, 10])
def test_ranks_share_every_record_out(folder: str, world_size: int, buffer: int) -> None:
    source = HubSource(folder, shuffle_buffer=buffer)
    for epoch in (0, 1):
        shares = [ids(source.stream(3, epoch, rank, world_size)) for rank in range(world_size)]
        assert sorted(chain(*shares), key=int) == IDS
        assert all(len(share) >= len(IDS) // world_size // 2 for share in shares)


@pytest.mark.parametrize("world_size", [1, 3])
def test_workers_share_a_rank_s_records_out(folder: str, world_size: int) -> None:
    source = HubSource(folder, shuffle_buffer=10)
    shares = []
    for rank in range(world_size):
        loader = DataLoader(source.stream(3, 1, rank, world_size), batch_size=None, num_workers=2)
        shares.append([document["id"] for document in loader])
    assert sorted(chain(*shares), key=int) == IDS


def test_the_order_is_that_of_seed_and_epoch(folder: str) -> None:
    source = HubSource(folder, shuffle_buffer=10)
    order = ids(source.stream(1, 0))
    assert order != IDS
    assert ids(source.stream(1, 0)) == order
    assert ids(source.stream(1, 1)) != order != ids(source.stream(2, 0))
    stream = source.stream(1, 0)
    assert ids(stream) == ids(stream) == order
    assert [name for name in order if int(name) < EACH] != IDS[:EACH], "records are shuffled"
    in_order = ids(HubSource(folder, shuffle_buffer=1).stream(1, 0))
    assert in_order != IDS and [name for name in in_order if int(name) < EACH] == IDS[:EACH], "so are files"
    assert ids(HubSource(folder, shuffle_buffer=0).stream(1, 5)) == IDS


@pytest.mark.parametrize("buffer", [0, 7, 1000])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_a_resumed_stream_is_the_rest_of_the_one_before(folder: str, buffer: int, world_size: int) -> None:
    source = HubSource(folder, shuffle_buffer=buffer)
    arguments = (1, 2, world_size - 1, world_size)
    whole = list(source.stream(*arguments))
    for position in (0, 1, 7, 8, 13, 30, len(whole) - 1, len(whole)):
        stream = source.stream(*arguments)
        records = iter(stream)
        assert [next(records) for _ in range(position)] == whole[:position]
        resumed = source.stream(*arguments)
        resumed.load_state_dict(json.loads(json.dumps(stream.state_dict())))
        assert list(resumed) == whole[position:]
        assert list(resumed) == whole[position:], "each time from where it was resumed"
        again = iter(resumed)
        assert [next(again) for _ in range(min(3, len(whole) - position))] == whole[position : position + 3]
        twice = source.stream(*arguments)
        twice.load_state_dict(resumed.state_dict())
        assert list(twice) == whole[position + 3 :]


def test_numbers_go_on_in_a_resumed_stream(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", as_lines([{"text": str(number)} for number in range(6)]))
    source = HubSource(str(tmp_path), shuffle_buffer=0)
    stream = source.stream()
    records = iter(stream)
    next(records), next(records)
    resumed = source.stream()
    resumed.load_state_dict(stream.state_dict())
    assert list(resumed) == list(resumed) == list(records)
    assert next(iter(resumed)) == {"id": f"{tmp_path}:3", "text": "2"}  # type: ignore[comparison-overlap]


@pytest.mark.parametrize("change", [{"seed": 2}, {"epoch": 1}, {"rank": 1}, {"world_size": 3}])
def test_a_position_of_another_stream_is_refused(folder: str, change: dict[str, int]) -> None:
    arguments = {"seed": 1, "epoch": 0, "rank": 0, "world_size": 2}
    state = HubSource(folder).stream(**arguments).state_dict()
    HubSource(folder).stream(**arguments).load_state_dict(state)
    ((name, value),) = change.items()
    with pytest.raises(ValueError, match=f"{name}={value} differs from the stream that is resumed, which had {name}="):
        HubSource(folder).stream(**{**arguments, **change}).load_state_dict(state)
    with pytest.raises(ValueError, match="shuffle_buffer=5 differs"):
        HubSource(folder, shuffle_buffer=5).stream(**arguments).load_state_dict(state)


def test_bad_arguments_of_a_stream(folder: str) -> None:
    with pytest.raises(ValueError, match="rank=2 must be between 0 and 1"):
        HubSource(folder).stream(rank=2, world_size=2)
    with pytest.raises(ValueError, match="world_size=0"):
        HubSource(folder).stream(world_size=0)
    with pytest.raises(ValueError, match="seed=-1"):
        HubSource(folder).stream(seed=-1)


def test_the_key_is_of_settings_and_of_a_folder_s_files(folder: str) -> None:
    source = HubSource(folder)
    key = source.key()
    assert json.loads(json.dumps(key)) == key
    assert HubSource(folder, limit=5, weight=2.0, shuffle_buffer=0).key() == key
    assert HubSource(folder, split="test").key() != key
    assert HubSource("owner/name", revision="a").key() != HubSource("owner/name", revision="b").key()
    write(Path(folder) / "train-0.jsonl", '{"text": "changed"}')
    assert source.key() != key
