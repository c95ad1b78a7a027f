import zipfile

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from beacon_lit.evaluation.hub import fetched
from beacon_lit.evaluation.rows import read_rows


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub of one data set; returns what was asked for."""
    asked = []
    (tmp_path / "a.jsonl").write_text('{"input": "plain"}\n')
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("data/a.jsonl", '{"input": "zipped"}\n')

    def download(repo, file, repo_type):
        asked.append((repo, file, repo_type))
        if not (tmp_path / file).is_file():
            raise LocalEntryNotFoundError("it is not there\nand more")
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def rows(path):
    return [row for _, row in read_rows(path, None, ["input"], "Fetch it.")]


def test_a_file_of_a_data_set(hub):
    assert rows("hub:owner/name/a.jsonl*") == [{"input": "plain"}]
    assert hub == [("owner/name", "a.jsonl", "dataset")]


def test_a_file_in_an_archive_is_unpacked_once(hub, tmp_path):
    path = "hub:owner/name/data.zip/data/a.jsonl"
    assert rows(path) == rows(path) == [{"input": "zipped"}]
    assert hub == [("owner/name", "data.zip", "dataset")] * 2
    assert [file.name for file in (tmp_path / "data.unpacked" / "data").iterdir()] == ["a.jsonl"]


def test_other_paths_are_left_alone(hub):
    assert fetched("long-llm:a.jsonl*") == "long-llm:a.jsonl*" and not hub


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("hub:name/a.jsonl", "is not allowed; allowed: hub:OWNER/NAME/FILE"),
        ("hub:owner/name/", "is not allowed; allowed: hub:OWNER/NAME/FILE"),
        ("hub:owner/name/b.jsonl", r"cannot be fetched: LocalEntryNotFoundError: it is not there\. Fetch it\."),
        ("hub:owner/name/data.zip/data/b.jsonl", r"data\.zip has no file data/b\.jsonl, or is damaged"),
        ("hub:owner/name/a.zip/a.jsonl", "cannot be fetched"),
    ],
)
def test_what_is_not_there_is_named(hub, path, message):
    with pytest.raises(ValueError, match=message):
        rows(path)
