import ast
from collections import Counter

import pytest

from beacon_lit.data.records import SkippedRecords, Tolerance, read_documents
from beacon_lit.data.sources import StandardLibrarySource


def test_standard_library_is_split_by_file() -> None:
    train, validation = (StandardLibrarySource(split) for split in ("train", "validation"))
    assert not set(train.files) & set(validation.files)
    texts = {source.split: {d["id"]: d["text"] for d in source.documents()} for source in (train, validation)}
    assert texts == {source.split: {d["id"]: d["text"] for d in source.documents()} for source in (train, validation)}
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
    with pytest.raises(ValueError, match="limit=0"):
        StandardLibrarySource("train", limit=0)
    with pytest.raises(ValueError, match="weight=-1"):
        StandardLibrarySource("train", weight=-1)


def test_standard_library_is_a_source() -> None:
    train, validation = (
        StandardLibrarySource(split, weight=2.0, answer_share=0.5) for split in ("train", "validation")
    )
    assert train.key() == StandardLibrarySource("train").key() != validation.key()
    skipped = SkippedRecords(Tolerance(strict=True), train.name, Counter())
    assert len(list(read_documents(train, None, skipped))) == len(train.files)
