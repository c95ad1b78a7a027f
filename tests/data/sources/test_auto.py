"""Files of every suffix, encoding and kind of folder are read, or refused with a way out."""

import bz2
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict

from beacon_lit.data.records import MalformedRecord, SourceRecord
from beacon_lit.data.sources import AutoSource, HubSource, as_source
from tests.data.sources.writing import as_lines, turns, write, write_parquet, zstd

RECORDS = [{"text": "one"}, {"text": 'a "quoted", ünicode\nline\u2028break'}]
TEXTS = [record["text"] for record in RECORDS]
CHAT = turns("hello", "yes")
QUOTED = RECORDS[1]["text"].replace('"', '""')
CSV = f'number,text\n1,one\n2,"{QUOTED}"\n'
PACK = {"": bytes, ".gz": gzip.compress, ".zst": zstd.compress, ".xz": lzma.compress, ".bz2": bz2.compress}


def texts(path: Path | str, **settings: Any) -> list[str]:
    found = list(AutoSource(str(path), **settings).documents())
    assert not [record for record in found if isinstance(record, MalformedRecord)], found
    return [document["text"] for document in found]  # type: ignore[index]


def malformed(path: Path | str, **settings: Any) -> list[tuple[str, str]]:
    found: list[SourceRecord] = list(AutoSource(str(path), **settings).documents())
    return [(record.kind, record.reason) for record in found if isinstance(record, MalformedRecord)]


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", json.dumps(RECORDS)),
        ("a.JSONL", as_lines(RECORDS)),
        ("a.ndjson", as_lines(RECORDS)),
        ("a.csv", CSV),
        ("a.tsv", CSV.replace(",", "\t", 1).replace("1,", "1\t").replace("2,", "2\t")),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_records_of_any_suffix_encoding_and_compression(
    tmp_path: Path, name: str, content: str, encoding: str, packed: str
) -> None:
    path = tmp_path / (name + packed)
    path.write_bytes(PACK[packed](content.encode(encoding)))
    assert texts(path) == TEXTS


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.txt.gz"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_of_text_is_one_document(tmp_path: Path, name: str, encoding: str) -> None:
    path = write(tmp_path / name, f"# Title\n\n{TEXTS[1]}\n".encode(encoding))
    assert list(AutoSource(path).documents()) == [{"id": name, "text": f"# Title\n\n{TEXTS[1]}\n"}]
    assert texts(path, columns={"text": "body"}) == [f"# Title\n\n{TEXTS[1]}\n"]
    assert malformed(path, max_bytes=9)[0][0] == "too_large"


def test_big_endian_and_chunks_of_any_size(tmp_path: Path) -> None:
    content = as_lines([{"text": "\U0001f600é" * 90_001}])  # more than a chunk, and characters of four bytes
    for encoding in ("utf-16-be", "utf-16-le", "utf-32-be"):
        path = tmp_path / "a.jsonl"
        path.write_bytes(("\ufeff" + content).encode(encoding))
        assert texts(path) == ["\U0001f600é" * 90_001]
        path.write_bytes(("\ufeff" + content).encode(encoding)[:-1])
        assert [kind for kind, _ in malformed(path)] == ["invalid_encoding"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.csv"])
def test_another_encoding_is_refused_with_a_way_out(tmp_path: Path, name: str) -> None:
    content = {"a.jsonl": as_lines([{"text": "café"}] * 3), "a.txt": "café", "a.csv": "text\ncafé\ncafé\n"}[name]
    path = write(tmp_path / name, content.encode("latin-1"))
    with pytest.raises(ValueError, match=rf"{name}.*UTF-8.*iconv -f latin1 -t utf-8.*none of the first \d records"):
        as_source(path, None)


def test_malformed_rows_of_csv_are_named_and_those_around_them_kept(tmp_path: Path) -> None:
    path = Path(write(tmp_path / "a.csv", 'text,n\none,1\ntwo\n\n"x"y,3\n"a\nb",4\nfive,5\n'))
    found = list(AutoSource(str(path)).documents())
    kinds = [(r.kind, r.where) if isinstance(r, MalformedRecord) else r["text"] for r in found]
    assert kinds == ["one", ("invalid_csv", f"{path}, line 3"), ("invalid_csv", f"{path}, line 5"), "a\nb", "five"]
    assert found[3]["id"] == "a.csv:6"  # type: ignore[index]
    path.write_text("text,n\n")
    assert [kind for kind, _ in malformed(path)] == ["empty_file"]
    path.write_text(f"text\n{'x' * 200_000}\n")
    assert texts(path) == ["x" * 200_000]


def test_conversations_in_cells_and_tables(tmp_path: Path) -> None:
    cell = json.dumps(CHAT).replace('"', '""')
    expected = [CHAT]
    for path in (
        write(tmp_path / "a.csv", f'messages\n"{cell}"\n'),
        write_parquet(tmp_path / "a.parquet", [{"messages": json.dumps(CHAT)}], pa.schema([("messages", pa.string())])),
    ):
        assert [document["conversations"] for document in AutoSource(path).documents()] == expected  # type: ignore[index]


def test_a_parquet_file_of_other_columns_says_what_the_file_has(tmp_path: Path) -> None:
    schema = pa.schema([("body", pa.string()), ("url", pa.string())])
    path = write_parquet(tmp_path / "a.parquet", [{"body": "x", "url": "y"}], schema)
    with pytest.raises(ValueError, match=r"a.parquet, record 1: .*\['body', 'url'\].*columns="):
        as_source(path, None)
    assert texts(path, text_column="body") == ["x"]


@pytest.mark.parametrize("name", ["a.pdf", "a.docx", "a", "a.tar.gz", "a.zip", "a.parquet.gz"])
def test_other_suffixes_are_refused_with_a_way_out(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, "x")
    with pytest.raises(ValueError, match=rf"{name}: the suffix .* allowed: \.json, .*\.zst.*Convert the file"):
        AutoSource(path)


def saved(folder: Path, *splits: str, chats: bool = False) -> Path:
    """A folder of `save_to_disk`, with splits or without, and a leftover of `datasets` in each part."""
    parts = {split: Dataset.from_dict({"messages": [CHAT]} if chats else {"text": [f"{split} text"]}) for split in
             splits or ("whole",)}  # fmt: skip
    (DatasetDict(parts) if splits else parts["whole"]).save_to_disk(str(folder))
    for state in folder.rglob("state.json"):
        write(state.parent / "cache-0123.arrow", (state.parent / "data-00000-of-00001.arrow").read_bytes())
    return folder


def test_saved_datasets_without_leftovers(tmp_path: Path) -> None:
    assert texts(saved(tmp_path / "a")) == texts(tmp_path / "a" / "*.arrow") == ["whole text"]
    both = saved(tmp_path / "b", "train", "test")
    assert texts(both) == texts(both / "train") == ["train text"]
    assert texts(both / "*") == texts(both / "**") == ["test text", "train text"], "each once"
    assert texts(both, split="validation") == texts(both, split="test") == ["test text"]
    (found,) = AutoSource(str(saved(tmp_path / "c", chats=True))).documents()
    assert found["conversations"] == CHAT  # type: ignore[index]
    with pytest.raises(ValueError, match=r"b has no split 'extra', but train, test; choose: .*split: train"):
        AutoSource(str(both), split="extra")
    other = saved(tmp_path / "d", "en", "de")
    with pytest.raises(ValueError, match=r"d has no split 'train', but en, de; choose"):
        AutoSource(str(other))
    with pytest.raises(ValueError, match=r"save_to_disk wrote; read it with data=text"):
        HubSource(str(both))
    (tmp_path / "a" / "state.json").write_text("{")
    with pytest.raises(ValueError, match=r"state.json does not list _data_files"):
        AutoSource(str(tmp_path / "a"))


def test_a_saved_dataset_of_tokens(tmp_path: Path) -> None:
    Dataset.from_dict({"input_ids": [[5, 6]], "labels": [[-100, 6]]}).save_to_disk(str(tmp_path / "a"))
    (found,) = AutoSource(str(tmp_path / "a")).documents()
    np.testing.assert_equal(found["trained"], [False, True])  # type: ignore[index]


def test_a_damaged_arrow_file_is_named(tmp_path: Path) -> None:
    (file,) = saved(tmp_path / "a").glob("data-*.arrow")
    file.write_bytes(file.read_bytes()[:200])
    assert malformed(tmp_path / "a")[0][0] == "corrupt"
    with (
        pa.OSFile(str(tmp_path / "b.arrow"), "wb") as out,
        pa.ipc.new_file(out, pa.schema([("text", pa.string())])) as w,
    ):
        w.write_table(pa.table({"text": ["x"]}))
    assert texts(tmp_path / "b.arrow") == ["x"], "a file with a footer"


def test_a_folder_as_on_the_hub(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write(tmp_path / "a" / "data" / f"{split}-00000-of-00001.jsonl", as_lines([{"text": split}]))
    write(tmp_path / "a" / "README.md", "# A data set")
    assert texts(tmp_path / "a") == ["train"]
    assert texts(tmp_path / "a", split="validation") == ["test"]


CARD = """---
configs:
- config_name: en
  data_files: en/*.jsonl
- config_name: de
  data_files:
  - {split: train, path: de/train.jsonl}
  - {split: test, path: de/test.jsonl}
---
"""


def test_a_folder_with_configurations(tmp_path: Path) -> None:
    for name in ("en/train", "de/train", "de/test"):
        write(tmp_path / f"{name}.jsonl", as_lines([{"text": name}]))
    write(tmp_path / "README.md", CARD)
    assert texts(tmp_path, config="en") == ["en/train"]
    assert texts(tmp_path, config="de") == ["de/train"]
    assert texts(tmp_path, config="de", split="validation") == ["de/test"]
    with pytest.raises(ValueError, match=r"has the configurations en, de; choose: .*config: en\}"):
        AutoSource(str(tmp_path))
    with pytest.raises(ValueError, match=r"config='fr'\) cannot be read.*fr"):
        AutoSource(str(tmp_path), config="fr")


def test_a_folder_of_files_of_several_kinds(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "one")
    write(tmp_path / "sub" / "b.jsonl", as_lines([{"text": "two"}]))
    for name in ("README.md", ".hidden.txt", "cover.png", "sub/cache-1.arrow"):
        write(tmp_path / name, "x")
    source = as_source(str(tmp_path), None)
    assert sorted(d["text"] for d in source.documents(None)) == ["one", "two"]  # type: ignore[index]
    assert len(source.partitions(None)) == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty has no files that can be read, but no files at all; allowed: "):
        AutoSource(str(tmp_path / "empty"))
    write(tmp_path / "pictures" / "x.png", "x")
    with pytest.raises(ValueError, match=r"pictures has no files that can be read, but \['.png'\]"):
        AutoSource(str(tmp_path / "pictures"))


def test_the_key_is_of_the_files_in_folders(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a", "train", "test")
    key = AutoSource(str(folder)).key()
    assert json.loads(json.dumps(key)) == key and len(key["files"]) == 1
    assert AutoSource(str(folder / "train")).key() == AutoSource(str(folder / "train" / "data-*")).key() == key
    assert AutoSource(str(folder), split="test").key() != key


def test_blank_records_at_the_start_do_not_stop_the_reading(tmp_path: Path, caplog: Any) -> None:
    caplog.set_level("INFO")
    path = write(tmp_path / "a.jsonl", as_lines([{"text": ""}] * 150 + [{"text": "x"}]))
    as_source(path, None)
    assert "no text among the first records" in caplog.messages[-1]
