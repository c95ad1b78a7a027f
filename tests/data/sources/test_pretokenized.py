import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, List, Value
from transformers import PreTrainedTokenizerFast

from beacon_lit.data.records import MalformedRecord
from beacon_lit.data.sources import TokensSource

ROWS = {"input_ids": [[5, 6, 7], [8], list(range(100))], "labels": [[-100, 6, -100], [8], None]}


def save(folder: Path, columns: dict[str, list[Any]], features: Features | None = None) -> str:
    Dataset.from_dict(columns, features=features).save_to_disk(str(folder))
    return str(folder)


def kinds(folder: str, tokenizer: Any = None) -> list[str]:
    return [getattr(record, "kind", "good") for record in TokensSource(folder).documents(tokenizer)]


def test_tokens_and_their_loss(tmp_path: Path) -> None:
    source = TokensSource(save(tmp_path / "a", ROWS))
    for _ in range(2):
        documents = list(source.documents())
        assert [document["id"] for document in documents] == ["a:1", "a:2", "a:3"]
        for document, ids in zip(documents, ROWS["input_ids"], strict=True):
            assert document["input_ids"].dtype == np.int32 and document["trained"].dtype == bool
            assert document["input_ids"].tolist() == ids
        assert [document["trained"].tolist() for document in documents] == [[False, True, False], [True], [True] * 100]


def test_without_labels_there_is_loss_everywhere(tmp_path: Path) -> None:
    folder = save(tmp_path / "a", {"input_ids": [[1, 2]] * 130, "id": [f"doc {i}" for i in range(130)]})
    documents = list(TokensSource(folder).documents())
    assert [document["id"] for document in documents] == [f"doc {i}" for i in range(130)]
    assert all(document["trained"].all() and len(document["trained"]) == 2 for document in documents)


@pytest.mark.parametrize("kind", ["int32", "int64", "uint16"])
@pytest.mark.parametrize("shards", [1, 3])
def test_every_type_of_integer_and_number_of_files(tmp_path: Path, kind: str, shards: int) -> None:
    data = Dataset.from_dict({"input_ids": [[i, 60_000 % 2**15] for i in range(9)]})
    data = data.cast(Features({"input_ids": List(Value(kind))}))
    data.filter(lambda row: row["input_ids"][0] != 4).save_to_disk(str(tmp_path / "a"), num_shards=shards)
    documents = list(TokensSource(str(tmp_path / "a")).documents())
    assert [document["input_ids"].tolist()[0] for document in documents] == [0, 1, 2, 3, 5, 6, 7, 8]


def test_several_folders_by_glob(tmp_path: Path) -> None:
    for name in ("b", "a"):
        save(tmp_path / "sets" / name, {"input_ids": [[1]]})
    (tmp_path / "sets" / "notes").mkdir()
    source = TokensSource("long-llm:sets/*[5]", str(tmp_path))
    assert [document["id"] for document in source.documents()] == ["a:1", "b:1"]
    assert source.limit == 5


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"input_ids": []}, "no_tokens"),
        ({"input_ids": None}, "no_tokens"),
        ({"input_ids": [1, None]}, "wrong_type"),
        ({"input_ids": [1, -2]}, "vocabulary"),
        ({"input_ids": [1, 2], "labels": [1]}, "labels"),
        ({"input_ids": [1, 2], "labels": [2, -100]}, "labels"),  # shifted
        ({"input_ids": [1, 2], "labels": [1, None]}, "wrong_type"),
        ({"input_ids": [1, 0], "attention_mask": [1, 0]}, "padding"),
    ],
)
def test_bad_rows_are_named_and_the_others_kept(tmp_path: Path, row: dict[str, Any], kind: str) -> None:
    good = {"input_ids": [1, 2], "labels": [1, 2], "attention_mask": [1, 1]}
    rows = [good, {**dict.fromkeys(good), **row}, good]
    folder = save(tmp_path / "a", {name: [row[name] for row in rows] for name in good})
    records = list(TokensSource(folder).documents())
    assert [getattr(record, "kind", "good") for record in records] == ["good", kind, "good"]
    assert isinstance(records[1], MalformedRecord) and records[1].where == f"{folder}, record 2"


def test_columns_of_another_type(tmp_path: Path) -> None:
    assert kinds(save(tmp_path / "a", {"input_ids": ["text"]})) == ["wrong_type"]
    assert kinds(save(tmp_path / "b", {"input_ids": [[0.5]]})) == ["wrong_type"]
    assert kinds(save(tmp_path / "c", {"input_ids": [[[1]]]})) == ["wrong_type"]


def test_ids_of_another_vocabulary_are_found(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    size = len(tokenizer)
    folder = save(tmp_path / "a", {"input_ids": [[size - 1], [size], [2**31]]})
    assert kinds(folder, tokenizer) == ["good", "vocabulary", "vocabulary"]
    assert kinds(folder) == ["good", "good", "vocabulary"], "without a tokenizer, only what cannot be an int32"


def test_an_empty_folder(tmp_path: Path) -> None:
    features = Features({"input_ids": List(Value("int32"))})
    assert kinds(save(tmp_path / "a", {"input_ids": []}, features)) == ["empty_file"]


def test_bad_folders_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must name a folder written by save_to_disk"):
        TokensSource(str(tmp_path))
    with pytest.raises(ValueError, match=r"has no column input_ids, but \['text'\]"):
        TokensSource(save(tmp_path / "text", {"text": ["x"]}))
    splits = DatasetDict({"train": Dataset.from_dict({"input_ids": [[1]]})})
    splits.save_to_disk(str(tmp_path / "splits"))
    with pytest.raises(ValueError, match="one of its splits"):
        TokensSource(str(tmp_path / "splits"))
    assert kinds(str(tmp_path / "splits" / "train")) == ["good"]
    folder = save(tmp_path / "a", ROWS)
    (tmp_path / "a" / "dataset_info.json").write_text("{}")
    with pytest.raises(ValueError, match="does not list the columns"):
        TokensSource(folder)


def test_a_damaged_folder_is_a_value_error(tmp_path: Path) -> None:
    folder = save(tmp_path / "a", ROWS)
    (arrow,) = Path(folder).glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"{folder} cannot be read"):
        list(TokensSource(folder).documents())


def test_the_key_changes_with_the_files(tmp_path: Path) -> None:
    source = TokensSource(save(tmp_path / "a", ROWS))
    key = source.key()
    assert json.loads(json.dumps(key)) == key
    (tmp_path / "a" / "cache-1.arrow").write_bytes(b"of datasets itself")
    assert source.key() == key
    save(tmp_path / "a", {"input_ids": [[1]]})
    assert source.key() != key
